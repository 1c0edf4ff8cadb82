"""A pretraining from the names of a backbone and of images to a run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from apercu.classifiers import Classifier
from apercu.devices import enable_gradients
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
from apercu.pretraining.settings import PretrainSettings
from apercu.pretraining.targets import PretrainImages
from apercu.pretraining.train import pretrain
from apercu.progress import ProgressCallback, ProgressOption, ignore_progress, open_progress
from apercu.training.trainer import Hardware, Trainer


@dataclass(frozen=True)
class PretrainInputs:
    """The backbone and the images of a pretraining, by their names, and how they are prepared.

    Args:
        images: SPEC of the images.
        backbone: `timm/NAME` for new weights, or the card of a network that is the start.
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


@enable_gradients()
def pretrain_backbone(
    settings: PretrainSettings,
    inputs: PretrainInputs,
    run: Path,
    *,
    hardware: Hardware | None = None,
    seed: int = 0,
    resume: bool = True,
    progress: ProgressOption = None,
    report: ProgressCallback | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Classifier, dict[str, float]]:
    """Pretrain a backbone on images without labels, and save it in a run folder.

    >>> from pathlib import Path
    >>> import apercu
    >>> from apercu.pretraining import PretrainInputs, PretrainSettings
    >>> backbone, facts = apercu.pretrain_backbone(  # doctest: +SKIP
    ...     PretrainSettings(), PretrainInputs("films/"), Path("runs/films")
    ... )

    Args:
        settings: pretext and schedule.
        inputs: names of the backbone and of the images.
        run: run folder, which gets a card and the weights.
        hardware: where it runs; any device when None.
        seed: seed of every draw.
        resume: whether to continue a training that was begun in the folder, or with more steps one
            that was finished.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        report: such a function, as `progress` took none before.
        say: receives one line of news at a time.

    Returns:
        The backbone, whose logits are features, and what was measured, as for `pretrain`.

    Raises:
        ConfigError: the backbone is not from timm, or the pretext needs no catalogue.
        ImagesError: most images cannot be read.
        RunError: the folder holds another training.
        OutputError: the folder cannot be written.
    """
    check_seed(seed)
    check_writable(run)
    hardware = hardware or Hardware()
    with open_progress(report or progress) as show:
        prepared = prepare_pretraining(settings, inputs, seed, say=say, report=show)
        source = prepared.images.source
        trainer = Trainer(prepared.backbone, source, run, hardware, seed, say, show)
        return pretrain(settings, trainer, prepared.images, prepared.test, resume=resume)


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
