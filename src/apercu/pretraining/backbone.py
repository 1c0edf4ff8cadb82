"""Backbones: networks without a head, for any number of bands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier, InputSpec, Network, open_classifier
from apercu.classifiers.card import CARD_FILE
from apercu.classifiers.sources.timm import TIMM_PREFIX, create_model
from apercu.errors import ClassifierError, ConfigError
from apercu.io import is_file
from apercu.weights import digest_module

FirstLayer: TypeAlias = Literal["inflate", "relearn"]
"""What happens to a first layer for other bands: each band gets the mean, or new weights."""


def open_backbone(
    start: str | Classifier, input: InputSpec, seed: int, first: FirstLayer = "inflate"
) -> Classifier:
    """Open a network that computes features.

    Args:
        start: `timm/NAME` for new weights; or a classifier from timm or a pretrained network, whose
            weights are the start: opened, or the card of it or its folder.
        input: size, bands and normalisation of its images.
        seed: seed of the new weights.
        first: what happens to the first layer where the start has another number of bands.

    Returns:
        A classifier whose logits are features.

    Raises:
        ConfigError: the network is not from timm.
        ClassifierError: the network cannot be built, or computes no features.
    """
    opened = open_classifier(start) if isinstance(start, str) and _is_card(start) else start
    spec = opened if isinstance(opened, str) else opened.spec
    network = None if isinstance(opened, str) else opened.network
    source = spec if network is None else network.source
    if not source.startswith(TIMM_PREFIX):
        raise ConfigError(f"backbone: expected timm/NAME, or a card with such a source, got {spec}")
    options = {**({} if network is None else network.options), "in_chans": input.channels}
    options["num_classes"] = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = create_model(source.removeprefix(TIMM_PREFIX), {**options, "pretrained": False})
    if network is not None:
        _load_weights(module, network, first)
    digest = digest_module(module, source, options)
    backbone = Network(source, module, digest, input, output="features", options=options)
    return Classifier(backbone, spec=spec)


def read_input(spec: str) -> InputSpec | None:
    """Read from a card how the images of its network are prepared; None for a name of timm's.

    Raises:
        ClassifierError: the card cannot be opened.
    """
    return open_classifier(spec).network.input if _is_card(spec) else None


def _is_card(spec: str) -> bool:
    """Whether a SPEC is a card or the folder of one, such as a run folder."""
    return spec.endswith(".json") or is_file(Path(spec) / CARD_FILE)


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
