"""Backbones: networks without a head, for any number of bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier, InputSpec, Network, open_classifier
from apercu.classifiers.sources.timm import TIMM_PREFIX, create_model
from apercu.errors import ClassifierError, ConfigError
from apercu.weights import digest_module

FirstLayer: TypeAlias = Literal["inflate", "relearn"]
"""What happens to a first layer for other bands: each band gets the mean, or new weights."""


def open_backbone(
    spec: str, input: InputSpec, seed: int, first: FirstLayer = "inflate"
) -> Classifier:
    """Open a network that computes features.

    Args:
        spec: `timm/NAME` for new weights, or the card of a classifier from timm or of a pretrained
            network, whose weights are the start.
        input: size, bands and normalisation of its images.
        seed: seed of the new weights.
        first: what happens to the first layer where the card has another number of bands.

    Returns:
        A classifier whose logits are features.

    Raises:
        ConfigError: the network is not from timm.
        ClassifierError: the network cannot be built, or computes no features.
    """
    start = open_classifier(spec).network if spec.endswith(".json") else None
    source = spec if start is None else start.source
    if not source.startswith(TIMM_PREFIX):
        raise ConfigError(f"backbone: expected timm/NAME, or a card with such a source, got {spec}")
    options = {**({} if start is None else start.options), "in_chans": input.channels}
    options["num_classes"] = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_model(source.removeprefix(TIMM_PREFIX), {**options, "pretrained": False})
    if start is not None:
        _load_weights(network, start, first)
    digest = digest_module(network, source, options)
    opened = Network(source, network, digest, input, output="features", options=options)
    return Classifier(opened, spec=spec)


def read_input(spec: str) -> InputSpec | None:
    """Read from a card how the images of its network are prepared; None for a name of timm's.

    Raises:
        ClassifierError: the card cannot be opened.
    """
    return open_classifier(spec).network.input if spec.endswith(".json") else None


def _load_weights(network: nn.Module, start: Network, first: FirstLayer) -> None:
    """Load the weights of another network with the same name, except its head."""
    state = network.state_dict()
    loaded = {name: weight for name, weight in _read_state(start).items() if name in state}
    for name, weight in loaded.items():
        if weight.shape == state[name].shape:
            continue
        bands = state[name].shape[1] if state[name].ndim == 4 else 0
        if weight.ndim != 4 or weight[:, :1].shape != state[name][:, :1].shape:
            raise ClassifierError(f"backbone: {start.source}: {name} has another shape")
        loaded[name] = inflate(weight, bands) if first == "inflate" else state[name]
    if missing := [name for name in state if name not in loaded]:
        raise ClassifierError(f"backbone: {start.source}: the card has no {missing[0]}")
    network.load_state_dict(loaded)


def inflate(weight: Tensor, bands: int) -> Tensor:
    """Return the weights of a first convolution for another number of bands.

    Each band gets the mean over the old bands, so that grey images give the same result as before.

    >>> weight = inflate(torch.ones(8, 3, 3, 3), 12)
    >>> weight.shape, float(weight.sum())
    (torch.Size([8, 12, 3, 3]), 216.0)
    """
    mean = weight.mean(1, keepdim=True)
    return mean.repeat(1, bands, 1, 1) * (weight.shape[1] / bands)


def _read_state(network: Network) -> Mapping[str, Any]:
    if not isinstance(network.forward, nn.Module):
        raise ConfigError(f"backbone: {network.source} does not show its layers")
    return network.forward.state_dict()
