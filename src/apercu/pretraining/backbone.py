"""From a SPEC to a network without a head, for any number of bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier, InputSpec, Network, open_classifier
from apercu.classifiers.fingerprint import digest_module
from apercu.classifiers.sources.timm import TIMM_PREFIX, create_model
from apercu.errors import ClassifierError, ConfigError

FirstLayer: TypeAlias = Literal["inflate", "relearn"]
"""What becomes of a first layer learnt on other bands: their mean for each band, or drawn anew."""


def open_backbone(
    spec: str, input: InputSpec, seed: int, first: FirstLayer = "inflate"
) -> Classifier:
    """A network that answers features.

    Args:
        spec: `timm/NAME`, all weights drawn anew, or the card of a classifier from timm or of a
            network that has been pretrained, whose weights are the start.
        input: what it shall expect of its images.
        seed: of what is drawn.
        first: what becomes of the first layer where the card has another number of bands.

    Raises:
        ConfigError: it is no network from timm.
        ClassifierError: it cannot be built so, or gives no features.
    """
    known = open_classifier(spec).network if spec.endswith(".json") else None
    source = spec if known is None else known.source
    if not source.startswith(TIMM_PREFIX):
        raise ConfigError(f"backbone: expected timm/NAME, or a card with such a source, got {spec}")
    options = {**({} if known is None else known.options), "in_chans": input.channels}
    options["num_classes"] = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_model(source.removeprefix(TIMM_PREFIX), {**options, "pretrained": False})
    if known is not None:
        _load_weights(network, known, first)
    digest = digest_module(network, source, options)
    made = Network(source, network, digest, input, output="features", options=options)
    return Classifier(made, spec=spec)


def read_input(spec: str) -> InputSpec | None:
    """What the network of a card expects of its images; None for a name, which has learnt nothing.

    Raises:
        ClassifierError: the card cannot be opened.
    """
    return open_classifier(spec).network.input if spec.endswith(".json") else None


def _load_weights(network: nn.Module, known: Network, first: FirstLayer) -> None:
    """Gives a network the weights of another with the same name, but for its head."""
    learnt, wanted = _read_state(known), network.state_dict()
    taken = {name: weight for name, weight in learnt.items() if name in wanted}
    for name, weight in taken.items():
        if weight.shape == wanted[name].shape:
            continue
        bands = wanted[name].shape[1] if wanted[name].ndim == 4 else 0
        if weight.ndim != 4 or weight[:, :1].shape != wanted[name][:, :1].shape:
            raise ClassifierError(f"backbone: {known.source}: {name} has another shape")
        taken[name] = inflate(weight, bands) if first == "inflate" else wanted[name]
    if missing := [name for name in wanted if name not in taken]:
        raise ClassifierError(f"backbone: {known.source}: the card has no {missing[0]}")
    network.load_state_dict(taken)


def inflate(weight: Tensor, bands: int) -> Tensor:
    """The first convolution for another number of bands: the mean of its own, each as often.

    Grey images give the same answer as before.

    >>> found = inflated(torch.ones(8, 3, 3, 3), 12)
    >>> found.shape, float(found.sum())
    (torch.Size([8, 12, 3, 3]), 216.0)
    """
    mean = weight.mean(1, keepdim=True)
    return mean.repeat(1, bands, 1, 1) * (weight.shape[1] / bands)


def _read_state(known: Network) -> Mapping[str, Any]:
    if not isinstance(known.forward, nn.Module):
        raise ConfigError(f"backbone: {known.source} does not show its layers")
    return known.forward.state_dict()
