"""A pretraining from the names of a backbone and of images to a run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from apercu.classifiers import Classifier
from apercu.images import ImageSource, open_images
from apercu.pretraining.backbone import FirstLayer, open_backbone, read_input
from apercu.pretraining.inputs import (
    CatalogueJoin,
    InputOptions,
    add_targets,
    choose_input,
    find_readable,
)
from apercu.pretraining.settings import PretrainSettings
from apercu.pretraining.targets import PretrainImages
from apercu.pretraining.train import pretrain
from apercu.training.trainer import Hardware, Trainer

DEFAULT_BACKBONE = "timm/resnet18"


@dataclass(frozen=True)
class PretrainOutput:
    """Receives the news of a pretraining.

    Args:
        say: receives one line of news at a time.
        warn: receives one warning at a time.
        progress: receives the number of images that were read, and that of all.
    """

    say: Callable[[str], None] = field(default=print, repr=False)
    warn: Callable[[str], None] = field(default=print, repr=False)
    progress: Callable[[int, int], None] = field(default=lambda count, total: None, repr=False)


def pretrain_backbone(
    settings: PretrainSettings,
    images: str,
    run: Path,
    *,
    backbone: str = DEFAULT_BACKBONE,
    options: InputOptions = InputOptions(3),  # noqa: B008 a frozen value
    first: FirstLayer = "inflate",
    join: CatalogueJoin | None = None,
    test: str | None = None,
    hardware: Hardware = Hardware(),  # noqa: B008 a frozen value
    seed: int = 0,
    resume: bool = True,
    output: PretrainOutput = PretrainOutput(),  # noqa: B008 a frozen value
) -> tuple[Classifier, dict[str, float]]:
    """Pretrain a backbone on images without labels, and save it in a run folder.

    Args:
        settings: pretext and schedule.
        images: SPEC of the images.
        run: run folder, which gets a card and the weights.
        backbone: `timm/NAME` for new weights, or the card of a network that is the start.
        options: how images are prepared; its `start` is read from the backbone.
        first: what happens to the first layer of a card with another number of bands.
        join: catalogue of magnitudes, and how it is joined with the images.
        test: SPEC of further images to measure on.
        hardware: where it runs.
        seed: seed of every draw.
        resume: whether to continue a training that was begun in the folder.
        output: receives the news.

    Returns:
        The backbone, whose logits are features, and what was measured, as for `pretrain`.

    Raises:
        ConfigError: the backbone is not from timm, or the pretext needs no catalogue.
        ImagesError: most images cannot be read.
        RunError: the folder holds another training.
    """
    source = open_images(images, channels=options.channels)
    options = replace(options, start=read_input(backbone))
    opened = open_backbone(backbone, choose_input(source, options), seed, first)
    prepared = prepare_images(source, opened, settings, join, output=output)
    further = None
    if test is not None:
        others = open_images(test, channels=options.channels, bands=opened.bands)
        further = prepare_images(others, opened, settings, join, like=prepared, output=output)
    trainer = Trainer(opened, prepared.source, run, hardware, seed, output.say)
    return pretrain(settings, trainer, prepared, further, resume=resume)


def prepare_images(
    source: ImageSource,
    backbone: Classifier,
    settings: PretrainSettings,
    join: CatalogueJoin | None = None,
    *,
    like: PretrainImages | None = None,
    output: PretrainOutput = PretrainOutput(),  # noqa: B008 a frozen value
) -> PretrainImages:
    """Leave out the images that cannot be read, and add the targets that the pretext needs.

    Args:
        source: images.
        backbone: network that prepares the images.
        settings: settings with the pretext.
        join: catalogue of magnitudes, and how it is joined with the images.
        like: other images, whose measurement of magnitudes is used for these, too.
        output: receives the news.

    Returns:
        The images with their targets.

    Raises:
        ConfigError: there is a catalogue, and the pretext needs none.
        ImagesError: most images cannot be read.
    """
    usable, errors = find_readable(source, backbone, output.progress)
    for error in errors:
        output.warn(str(error))
    output.say(
        f"{source.name}: {len(usable)} of {len(source)} images can be read"
        + (f", {len(errors)} are left out" if errors else "")
    )
    return add_targets(usable, settings.pretext, join, like=like, say=output.say)
