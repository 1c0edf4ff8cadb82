"""From labelled images and a network to a calibrated classifier in a run folder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from apercu.classifiers import Classifier
from apercu.classifiers.trust import trust_files
from apercu.devices import enable_gradients
from apercu.errors import ConfigError, describe_interrupt
from apercu.images import ImageSource, open_images
from apercu.images.stream import list_unread
from apercu.io import check_writable
from apercu.learning.data import (
    check_classes,
    check_read_classes,
    prepare_images,
    read_part,
    warn_gaps,
    weigh_classes,
)
from apercu.learning.labels import name_images
from apercu.learning.measure import MEASURES, Predictions
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Recipe, Task, is_overridden
from apercu.learning.recipes.registry import parse_recipes
from apercu.learning.report import write_report
from apercu.learning.results import (
    TrainedClassifier,
    calibrate_and_measure,
    compute_logits,
    save_result,
)
from apercu.learning.search import (
    SearchResult,
    TrialJob,
    TrialScore,
    add_recipes,
    check_search,
    choose_settings,
    split_fold,
)
from apercu.learning.settings import LEARNING, LearningSettings
from apercu.learning.splits import ImagesSpec, LearningInputs, LearningParts, split_images
from apercu.learning.start import open_start
from apercu.learning.training import LearningTraining
from apercu.log import redirect_warnings, warn
from apercu.option_strings import check_seed
from apercu.progress import ProgressOption, ignore_progress, open_progress
from apercu.training.config import CONFIG
from apercu.training.record import find_begun_steps, find_settings
from apercu.training.trainer import Hardware, Trainer


@enable_gradients()
def train_classifier(
    images: ImagesSpec,
    network: str | Path | Classifier,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    group: str | None = None,
    test: ImagesSpec | None = None,
    test_labels: str | Path | None = None,
    unlabelled: ImagesSpec | None = None,
    recipes: str | Iterable[str | Recipe] = (),
    config: LearningSettings | Mapping[str, Any] | str | Path | None = None,
    steps: int | None = None,
    batch: int | None = None,
    search: bool = False,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
    say: Callable[[str], None] = print,
) -> TrainedClassifier:
    """Train a classifier from the labels there are, and calibrate its probabilities.

    The labelled images are split into a part to train on, a part that only sets the temperature of
    the probabilities, and a part that only measures.

    Args:
        images: images with labels; those that a table of labels does not name have none.
        network: SPEC of a classifier or of a pretrained network, or its run folder.
        out: the run folder.
        labels: table of the labels (CSV, Parquet or FITS), with the columns `file` and `label`, or
            `labels`, or a column of 0 and 1 for each class, where an empty cell, `nan`, `NA` or -1
            means that nobody knows; the folders or the table of the images when None.
        group: column with what stays in one part, such as the patient: of the table of labels, or
            of the Parquet file of the images.
        test: labelled images to measure on; a part of the labelled ones when None.
        test_labels: table of the labels of the test images.
        unlabelled: further images without labels, for the recipes that need them.
        recipes: recipes as people type them, such as `frozen` or `final_batch_norm:momentum=0.2`.
        config: settings, a dictionary of them, a YAML file, or the name of a preset.
        steps: steps of the training; those of the settings when None.
        batch: images per step; those of the settings when None.
        search: whether the learning rate and the layers that learn are chosen first, by
            cross-validation inside the training part; the settings say what is tried.
        resume: whether to continue a training, or a search, that was begun in the folder.
        seed: seed of every draw.
        device: `auto`, `cpu`, `cuda` or `mps`.
        trust: whether a card, of the network or of a teacher, may name a factory, whose code is
            run; see `open_classifier`.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        say: receives one line of news at a time.

    Returns:
        The classifier with its figures.

    Raises:
        ConfigError: a setting or a recipe is unknown, or recipes cannot be combined.
        ImagesError: labels are missing, too few, or do not fit.
        ClassifierError: the network cannot be opened or trained.
        RunError: the folder holds another training, or another search.
        UntrustedError: a card could run code, and is not trusted.
        OutputError: the folder cannot be written.
    """
    out = Path(out)
    check_seed(seed)
    check_writable(out)
    is_begun = (out / CONFIG).is_file()
    settings = find_settings(out, None if search and is_begun else config, LEARNING)
    if search and is_begun:  # the settings were chosen
        check_search(out, config, recipes, batch)
    else:
        settings = add_recipes(settings, recipes, is_stored=is_begun and config is None)
    settings = settings.with_schedule(steps=steps, batch=batch, begun=find_begun_steps(out))
    inputs = LearningInputs(images, labels, group, test, test_labels, unlabelled)
    with trust_files(trust):
        start = _open_start(network, settings, inputs, seed)
    parts = split_images(settings, inputs, make_opener(start), seed)
    say(parts.training.describe_classes())
    if unknown := parts.describe_unknown():
        say(unknown)
    kept = describe_interrupt(f"{out} keeps what was done; the same call with resume goes on")
    with kept, trust_files(trust), open_progress(progress) as report:
        if search and not is_begun:
            fold = "fold of the search (search.folds), which is made of the training part,"
            check_classes(parts.training, settings.search.folds, fold)
            result = choose_settings(
                settings,
                start,
                network,
                inputs,
                parts,
                out,
                run_trial,
                resume=resume,
                seed=seed,
                device=device,
                report=report,
            )
            settings = result.settings
            say(_describe_choice(result))
        hardware = Hardware(device, workers=0)
        trainer = Trainer(
            classifier=start.to(hardware.own_device),
            source=parts.training.source,
            run=out,
            hardware=hardware,
            seed=seed,
            say=say,
            report=report,
            holds_out=False,
        )
        return train_on_parts(settings, trainer, parts, resume=resume)


def _open_start(
    network: str | Path | Classifier, settings: LearningSettings, inputs: LearningInputs, seed: int
) -> Classifier:
    """Open the network that is the start, for the images that it learns from."""
    return open_start(
        network,
        settings.input,
        lambda channels: open_source(inputs.images, channels),
        seed,
        scratch=settings.scratch,
    )


def _describe_choice(result: SearchResult) -> str:
    """Return one line about the settings that a search chose."""
    return (
        f"best of {len(result.trials)} trials: rate {result.settings.schedule.rate:g}, recipes "
        f"{', '.join(result.settings.recipes) or 'none'} ({result.by} "
        f"{result.scores[result.best]:.3f} in cross-validation)"
    )


def run_trial(job: TrialJob) -> TrialScore:
    """Train one trial of a search, and measure it on its fold.

    Args:
        job: the trial.

    Returns:
        Its figures.
    """
    with trust_files(job.trust):  # the process that was started trusts nothing yet
        return _train_and_measure(job)


def _train_and_measure(job: TrialJob) -> TrialScore:
    settings = job.settings.with_schedule(steps=job.settings.search.steps)
    start = _open_start(job.network, settings, job.inputs, job.seed)
    with redirect_warnings(lambda line: None):  # they were given before the search
        every = split_images(settings, job.inputs, make_opener(start), job.seed)
    parts = split_fold(every, settings.search.folds, job.fold, job.seed)
    hardware = Hardware(job.device, workers=0)
    source = parts.training.source
    start.to(hardware.own_device)
    trainer = Trainer(
        start, source, job.folder, hardware, job.seed, lambda line: None, holds_out=False
    )
    training = build_training(settings, trainer, parts)
    trainer.fit(training)
    training.finish_network()
    held_out, images, _ = read_part(parts.test, start, ignore_progress, "images held out")
    logits = compute_logits(training.network, start, images)
    predictions = Predictions.from_logits(logits, held_out.targets, held_out.decision)
    return TrialScore(
        figures={name: measure(predictions) for name, (measure, _) in MEASURES.items()}
    )


def make_opener(start: Classifier) -> Callable[[ImagesSpec], ImageSource]:
    """Return a function that opens images by their name, with the channels of a network."""
    return lambda spec: open_source(spec, start.channels, start.bands)


def open_source(
    spec: ImagesSpec, channels: int, bands: tuple[str, ...] | None = None
) -> ImageSource:
    """Open images by their name; a source stays as it is."""
    named = name_images(spec)
    if isinstance(named, ImageSource):
        return named
    return open_images(named, channels=channels, bands=bands)


def train_on_parts(
    settings: LearningSettings, trainer: Trainer, parts: LearningParts, *, resume: bool = True
) -> TrainedClassifier:
    """Train on one part of the images, calibrate on the second, and measure on the third.

    Args:
        settings: recipes and schedule.
        trainer: the network that is the start, and the run folder.
        parts: the parts of the images.
        resume: whether to continue a training that was begun in the folder.

    Returns:
        The classifier, which is saved with its figures in the run folder.

    Raises:
        ConfigError: a recipe cannot be used for these images.
        RunError: the folder holds another training.
    """
    recipes = parse_recipes(settings.recipes)
    needing = next((recipe.name for recipe in recipes if recipe.needs_unlabelled), None)
    if needing is not None and parts.unlabelled is None:
        raise ConfigError(
            f"recipe: {needing} needs images without labels; name them with --unlabelled"
        )
    if any(map(may_use_unlabelled, recipes)) and (shared := parts.describe_shared()):
        warn(shared)
    digest = "-".join(part.digest[:16] for part in parts[:3])
    unlabelled = "" if parts.unlabelled is None else f"-{len(parts.unlabelled)}"
    with trainer.make_record(settings, targets=digest + unlabelled).begin(resume=resume):
        training = build_training(settings, trainer, parts)
        start, report = training.task.start, trainer.report
        calibration = read_part(parts.calibration, start, report, "calibration images")
        measured_on = read_part(parts.test, start, report, "test images")
        warn_gaps(calibration.labelled, measured_on.labelled)
        facts = trainer.fit(training)
        training.finish_network()
        figures, test = calibrate_and_measure(
            training, calibration, measured_on, facts, trainer.seed
        )
        network, task = training.network, training.task
        classifier = network.to_classifier(task.classes, task.decision, figures.temperature)
        write_report(classifier, figures, test, trainer.run, settings)
        save_result(classifier, network, figures, test, trainer.run)
    return TrainedClassifier(classifier, figures, trainer.run)


def build_training(
    settings: LearningSettings, trainer: Trainer, parts: LearningParts
) -> LearningTraining:
    """Read the images to train on, and make the network with what the recipes add.

    Args:
        settings: recipes and schedule.
        trainer: the network that is the start.
        parts: the parts of the images.

    Returns:
        The training.

    Raises:
        ConfigError: a recipe cannot be used for these images.
    """
    labelled, prepared, unread = read_part(
        parts.training, trainer.classifier, trainer.report, "training images"
    )
    check_read_classes(labelled)
    recipes = parse_recipes(settings.recipes)
    left_out = {"training": unread}
    pool = None
    if parts.unlabelled is not None and any(map(may_use_unlabelled, recipes)):
        readable, pool = prepare_images(
            parts.unlabelled, trainer.classifier, trainer.report, "images without labels"
        )
        left_out["unlabelled"] = list_unread(parts.unlabelled, readable)
    network = make_network(
        trainer.classifier, len(labelled.classes), trainer.seed, scratch=settings.scratch
    )
    start = network.to_classifier(labelled.classes, labelled.decision)
    start.to(trainer.classifier.device)
    task = Task(
        start=Classifier(copy.deepcopy(start.network)),
        classes=labelled.classes,
        decision=labelled.decision,
        images=prepared,
        targets=labelled.targets,
        class_weights=weigh_classes(
            labelled.targets, labelled.decision, balanced=settings.balanced
        ),
        unlabelled=pool,
        folder=trainer.run,
        seed=trainer.seed,
        report=trainer.report,
        pretrained=trainer.classifier,
        left_out=left_out,
    )
    network.requires_grad_(True)  # a classifier freezes its weights
    return prepare_training(network, task, recipes, settings)


def may_use_unlabelled(recipe: Recipe) -> bool:
    """Whether a recipe may look at images without labels; else they are not read."""
    hooks = ("compute_losses", "build_head", "make_images")
    return recipe.needs_unlabelled or any(is_overridden(recipe, hook) for hook in hooks)


def prepare_training(
    network: LearningNetwork, task: Task, recipes: Iterable[Recipe], settings: LearningSettings
) -> LearningTraining:
    """Let recipes change the network and add images.

    Args:
        network: the network, which is changed.
        task: what is known before the training.
        recipes: the recipes.
        settings: the settings.

    Returns:
        The training.

    Raises:
        ConfigError: a recipe cannot be used for this task.
    """
    recipes = tuple(recipes)
    if settings.norms == "keep" and settings.scratch:
        raise ConfigError("norms: keep needs pretrained weights; leave it out, or scratch: true")
    for recipe in recipes:
        recipe.check_task(task)
        if recipe.reads_turns and settings.turned:
            raise ConfigError(
                f"recipe: {recipe.name} learns how images are turned; leave out turned: true"
            )
        if settings.norms == "keep" and recipe.adapts_norms:
            raise ConfigError(
                f"recipe: {recipe.name} ends with batch norms of the other domain; leave out "
                "norms: keep"
            )
        if settings.restore_frequencies and (
            recipe.replaces_supervised_loss or is_overridden(recipe, "build_head")
        ):
            raise ConfigError(
                f"recipe: {recipe.name} does not learn by the weighted cross-entropy; leave out "
                "restore_frequencies: true"
            )
    added = [images for recipe in recipes if (images := recipe.make_images(task)) is not None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        for recipe in sorted(recipes, key=lambda recipe: recipe.copies_network):
            recipe.change_network(network, task)
    network.to(task.device)
    return LearningTraining(network, task, recipes, settings, added)
