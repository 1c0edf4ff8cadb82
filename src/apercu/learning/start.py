"""The network that is the start of a training, from its name, its card or its run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from apercu.classifiers import Classifier, Network, open_classifier
from apercu.classifiers.reinitialise import NetworkSource
from apercu.classifiers.sources.timm import RANDOM_WEIGHTS, TIMM_PREFIX
from apercu.classifiers.sources.torchvision import TORCHVISION_PREFIX
from apercu.errors import ConfigError, NoWeightsError
from apercu.images import ImageSource
from apercu.learning.settings import InputChoice
from apercu.log import redirect_warnings, warn
from apercu.pretraining.backbone import open_backbone
from apercu.pretraining.inputs import InputOptions, choose_input

RGB = 3
"""Channels of the networks of torchvision."""


def open_start(
    network: str | Path | Classifier,
    choice: InputChoice,
    open_source: Callable[[int], ImageSource],
    seed: int,
    *,
    scratch: bool,
) -> Classifier:
    """Open the network that is the start of a training.

    Args:
        network: SPEC of a classifier or of a pretrained network, or its run folder; a name of
            timm or torchvision with new weights needs no weights there.
        choice: how images are prepared, where the network does not say it.
        open_source: opens the images with a number of channels, to see their size and range.
        seed: seed of new weights.
        scratch: whether all weights are new.

    Returns:
        The classifier, or a network whose output is features.

    Raises:
        ClassifierError: the network cannot be opened.
        ConfigError: another number of bands is asked of a network that is not from timm.
        NoWeightsError: there are no pretrained weights of this name, or they cannot be downloaded.
        ImagesError: the images hold raw counts that may not be stretched.
    """
    spec = str(network)
    if scratch and spec.startswith(TIMM_PREFIX):
        options = InputOptions(choice.channels or 3, choice.size, choice.stretch or "auto")
        return open_backbone(spec, choose_input(open_source(options.channels), options), seed)
    if scratch and spec.startswith(TORCHVISION_PREFIX):
        return _build_torchvision(spec, choice, open_source, seed)
    try:
        start = _open_classifier(network, scratch=scratch)
    except NoWeightsError as error:
        raise NoWeightsError(
            f"{error}, or begin with new weights: --config scratch (in Python config='scratch')"
        ) from error
    if choice == InputChoice(first=choice.first):
        return start
    channels = choice.channels or start.channels
    options = InputOptions(
        channels, choice.size or start.size[0], choice.stretch or "auto", start.network.input
    )
    chosen = choose_input(open_source(channels), options)
    if channels == start.channels:
        opened = replace(start.network, input=chosen, resolved_output=None)
        return Classifier(opened, spec=start.spec)
    return open_backbone(start, chosen, seed, choice.first)


def _open_classifier(network: str | Path | Classifier, *, scratch: bool) -> Classifier:
    """Open a classifier; where its weights are not used, nobody is warned that they are random."""
    if isinstance(network, Classifier):
        return network
    lines: list[str] = []
    try:
        with redirect_warnings(lines.append):
            return open_classifier(network)
    finally:
        for line in lines:
            if not (scratch and RANDOM_WEIGHTS in line):
                warn(line)


def _build_torchvision(
    spec: str, choice: InputChoice, open_source: Callable[[int], ImageSource], seed: int
) -> Classifier:
    """Build a network of torchvision with new weights, for the size of the images.

    Raises:
        ConfigError: another number of bands than three is asked for.
        ClassifierError: there is no such network.
    """
    if choice.channels not in (None, RGB):
        raise ConfigError(
            f"input.channels: networks of torchvision take {RGB} channels, got {choice.channels}; "
            "name a network of timm for other bands"
        )
    options = InputOptions(RGB, choice.size, choice.stretch or "auto")
    source = NetworkSource(spec, {}, choose_input(open_source(RGB), options))
    module = source.build(seed)
    return Classifier(Network(spec, module, source.digest(module), source.input), spec=spec)
