"""A pretraining from the names of a backbone and of images to a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from apercu.classifiers import Classifier
from apercu.classifiers.trust import trust_files
from apercu.devices import enable_gradients
from apercu.errors import ConfigError, describe_interrupt
from apercu.extras import require_extra
from apercu.images import ImageSource, open_images
from apercu.images.stream import describe_left_out
from apercu.io import check_writable
from apercu.log import warn
from apercu.option_strings import check_seed
from apercu.pretraining.backbone import FirstLayer, open_backbone, read_input
from apercu.pretraining.inputs import (
    CatalogueJoin,
    InputOptions,
    add_targets,
    choose_input,
    find_readable,
)
from apercu.pretraining.pretexts import Adios, Contrastive, Regions
from apercu.pretraining.settings import PRETEXTS, PretrainSettings, find_pretext_presets
from apercu.pretraining.targets import PretrainImages
from apercu.pretraining.train import pretrain
from apercu.progress import ProgressCallback, ProgressOption, ignore_progress, open_progress
from apercu.training.record import find_settings
from apercu.training.trainer import Hardware, Trainer


@dataclass(frozen=True)
class PretrainInputs:
    """The backbone and the images of a pretraining, by their names, and how they are prepared.

    Args:
        images: SPEC of the images.
        backbone: `timm/NAME` for new weights, or the card, or its folder, of a network that is the
            start.
        options: options for the images; `start` is read from the backbone.
        first: what happens to the first layer of a card with another number of bands.
        join: catalogue of magnitudes, and how it is joined with the images.
        test: SPEC of further images to measure on.
    """

    images: str
    backbone: str = "timm/resnet18"
    options: InputOptions = InputOptions(3)  # noqa: RUF009 a frozen value
    first: FirstLayer = "inflate"
    join: CatalogueJoin | None = None
    test: str | None = None


class PreparedPretraining(NamedTuple):
    """What a pretraining starts from: backbone, images with targets, and further test images."""

    backbone: Classifier
    images: PretrainImages
    test: PretrainImages | None


class PretrainedBackbone(NamedTuple):
    """A pretrained backbone, whose logits are features, and what was measured by `pretrain`."""

    backbone: Classifier
    facts: dict[str, float]


@enable_gradients()
def pretrain_backbone(
    pretext: PretrainSettings | str,
    images: PretrainInputs | str | Path,
    out: str | Path,
    *,
    config: Mapping[str, Any] | str | Path | None = None,
    steps: int | None = None,
    batch: int | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    trust: bool = False,
    progress: ProgressOption = None,
    say: Callable[[str], None] = print,
) -> PretrainedBackbone:
    """Pretrain a backbone on images without labels, and save it in a run folder.

    >>> import apercu
    >>> backbone, facts = apercu.pretrain_backbone(  # doctest: +SKIP
    ...     "transformation", "films/", "runs/films"
    ... )

    Args:
        pretext: name of the pretext, such as `transformation`, or all settings.
        images: SPEC of the images for a new ResNet-18 of three bands, or `PretrainInputs` with
            the backbone, the bands, the catalogue and further images to measure on.
        out: run folder, which gets a card and the weights.
        config: settings over those of the pretext, as a dictionary or a YAML file; None takes the
            pretext's own, or for a begun training those of its folder.
        steps: optimisation steps, where they differ from the settings.
        batch: images per step and device, where they differ from the settings.
        resume: whether to continue a training that was begun in the folder, or with more steps one
            that was finished.
        seed: seed of every draw.
        device: `auto`, `cpu`, `cuda` or `mps`.
        devices: number of devices that share the work.
        trust: whether a card may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        say: receives one line of news at a time.

    Returns:
        The backbone, and what was measured.

    Raises:
        ConfigError: there is no such pretext or setting, the backbone is not from timm, or the
            pretext needs no catalogue.
        ImagesError: most images cannot be read.
        UntrustedError: a card could run code, and is not trusted.
        RunError: the folder holds another training, or one that was begun and is not to be
            continued.
        OutputError: the folder cannot be written.
        WorkInterrupted: it was interrupted; the same call with `resume=True` goes on.
    """
    run = Path(out)
    check_seed(seed)
    check_writable(run)
    settings = _choose_settings(run, pretext, config).with_schedule(steps=steps, batch=batch)
    inputs = images if isinstance(images, PretrainInputs) else PretrainInputs(str(images))
    kept = describe_interrupt(f"{run} keeps what is done; the same call with resume=True goes on")
    with kept, trust_files(trust), open_progress(progress) as show:
        prepared = prepare_pretraining(settings, inputs, seed, say=say, report=show)
        hardware, source = Hardware(device, devices), prepared.images.source
        trainer = Trainer(prepared.backbone, source, run, hardware, seed, say, show)
        return PretrainedBackbone(
            *pretrain(settings, trainer, prepared.images, prepared.test, resume=resume)
        )


def _choose_settings(
    run: Path, pretext: PretrainSettings | str, config: Mapping[str, Any] | str | Path | None
) -> PretrainSettings:
    """Return all settings that are given, or those of a pretext with the changes of a config."""
    if isinstance(pretext, str):
        return find_settings(run, config, find_pretext_presets(pretext))
    if config is not None:
        raise ConfigError("config: the settings are given already; leave it out, or name a pretext")
    return find_settings(run, pretext, PRETEXTS)


def prepare_pretraining(
    settings: PretrainSettings,
    inputs: PretrainInputs,
    seed: int = 0,
    *,
    say: Callable[[str], None] = print,
    report: ProgressCallback = ignore_progress,
) -> PreparedPretraining:
    """Open the backbone and the images of a pretraining.

    Args:
        settings: pretext and schedule.
        inputs: names of the backbone and of the images.
        seed: seed of new weights.
        say: receives one line of news at a time.
        report: receives how many images were read, and how many there are.

    Returns:
        The backbone, and the images that can be read, with their targets; a warning names others.

    Raises:
        ConfigError: the backbone is not from timm, the pretext cannot train it, or needs no
            catalogue.
        ImagesError: most images cannot be read.
    """
    if isinstance(settings.pretext, Adios | Contrastive | Regions):
        require_extra("ssl", "pretrain")
    channels = inputs.options.channels
    source = open_images(inputs.images, channels=channels)
    options = replace(inputs.options, start=read_input(inputs.backbone))
    backbone = open_backbone(inputs.backbone, choose_input(source, options), seed, inputs.first)
    settings.pretext.check_backbone(backbone)
    prepare = partial(_prepare_images, backbone, settings, inputs.join, say=say, report=report)
    images = prepare(source)
    test = None
    if inputs.test is not None:
        others = open_images(inputs.test, channels=channels, bands=backbone.bands)
        test = prepare(others, images)
    return PreparedPretraining(backbone, images, test)


def _prepare_images(
    backbone: Classifier,
    settings: PretrainSettings,
    join: CatalogueJoin | None,
    source: ImageSource,
    like: PretrainImages | None = None,
    *,
    say: Callable[[str], None],
    report: ProgressCallback,
) -> PretrainImages:
    """Leave out images that cannot be read, and add the targets that the pretext needs."""
    usable, errors, _ = find_readable(source, backbone, partial(report, "images"))
    if errors:
        warn(describe_left_out(source.name, errors, len(source)))
    say(
        f"{source.name}: {len(usable)} of {len(source)} images can be read"
        + (f", {len(errors)} are left out" if errors else "")
    )
    return add_targets(usable, settings.pretext, join, like=like, say=say)
