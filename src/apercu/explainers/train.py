"""From a classifier and images to a trained explainer in a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apercu.classifiers import Classifier, StudentSettings, open_classifier
from apercu.classifiers.trust import check_spec_of_file, trust_files
from apercu.devices import choose_device, enable_gradients
from apercu.errors import ConfigError, NoFeatureMapsError, describe_interrupt
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.encoder import choose_embedding, choose_encoder
from apercu.explainers.kind import LOOKS_TRAINED, ExplainerKind, describe_doubts, find_kind
from apercu.explainers.run_folder import check_run_digests
from apercu.explainers.settings import OWN, ExplainerSettings, GatedSettings
from apercu.explainers.student import (
    StudentPlan,
    check_student_options,
    open_student,
    plan_student,
    use_distilled_student,
    use_student,
)
from apercu.images import ImageSource, check_images
from apercu.io import check_writable
from apercu.networks.gate import GatedNetwork
from apercu.option_strings import check_seed
from apercu.progress import ProgressCallback, ProgressOption, open_progress
from apercu.run_record import RunRecord
from apercu.training.data import TrainingImages, split_held_out
from apercu.training.record import find_begun_steps, find_settings
from apercu.training.trainer import Hardware, Trainer, is_main_process

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""Precisions of the numbers, and what Lightning calls them."""


@enable_gradients()
def train(
    classifier: Classifier | str | Path,
    images: ImageSource | str | Path,
    out: str | Path,
    *,
    kind: str = "mask",
    config: ExplainerSettings | Mapping[str, Any] | str | Path | None = None,
    steps: int | None = None,
    batch: int | None = None,
    encoder: str | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    precision: str = "32",
    workers: int = 1,
    student: StudentSettings | Classifier | str | Path | None = None,
    student_steps: int | None = None,
    trust: bool = False,
    progress: ProgressOption = None,
    report: ProgressCallback | None = None,
    say: Callable[[str], None] = print,
) -> TrainedExplainer[Any, Any]:
    """Train an explainer for a classifier, and leave it in a run folder.

    No labels are used: the classifier itself teaches the explainer. A classifier without gradients
    is replaced by a student, which is distilled first, where the kind of explainer needs gradients.

    >>> import apercu
    >>> explainer = apercu.train("timm/resnet50", "photos/", "runs/mine")  # doctest: +SKIP
    >>> maps = explainer(images, target="tabby")  # doctest: +SKIP

    Args:
        classifier: the classifier, or its SPEC.
        images: the training images, or where they are.
        out: the run folder.
        kind: `mask`, `counterpart`, `latent` or `shapley`.
        config: settings, a dictionary of them, a YAML file, or the name of a preset; None takes
            the default, or for a begun training its own settings.
        steps: optimisation steps, where they differ from the settings; fewer steps shorten the
            phases before (class embedding, student) in proportion.
        batch: images per step and device, where they differ from the settings.
        encoder: encoder, where it differs from the settings. A classifier that cannot be its own
            encoder gets another one where none is named.
        resume: whether to continue a training that was begun in the folder, or with more steps one
            that was finished.
        seed: seed of every draw.
        device: `auto`, `cpu`, `cuda` or `mps`.
        devices: number of devices that share the work.
        precision: precision of the numbers: `32`, `bf16` or `16`.
        workers: processes of each device that read images.
        student: how a student is distilled (the seed is that of the training), or a classifier
            that stands in, such as the student of an earlier run (`RUN/student/card.json`).
        student_steps: steps of the distillation, where they differ from the settings.
        trust: whether a card or a file of settings may name a factory, whose code is run.
        progress: whether to show how far the work is (a bar on a terminal or in a notebook, a line
            every half minute elsewhere), or a function that receives the name of each part of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        report: such a function, as `progress` took none before.
        say: receives one message at a time.

    Returns:
        The trained explainer.

    Raises:
        InputError: the classifier, the images or the settings are wrong, or do not fit each other.
        UntrustedError: a file could run code, and is not trusted.
        RunError: the folder holds a finished training of as many steps, one of other settings, one
            that was begun and is not to be continued, a saved classifier or a guard.
        OutputError: the folder cannot be written.
        WorkInterrupted: it was interrupted; the same call with `resume=True` goes on.
    """
    run, chosen = Path(out), find_kind(kind)
    check_seed(seed)
    check_writable(run)
    base = _choose_settings(run, config, chosen)
    check_run_digests(run, f"--out {run / kind}")
    begun = None
    if resume:  # the steps of the training that was begun, as its folder holds them
        begun = base.schedule.steps if config is None else find_begun_steps(run)
    options = _Options(steps, batch, encoder, begun)
    settings = options.apply(base)
    hardware = _choose_hardware(device, devices, precision, workers)
    classifier, images = _open_inputs(classifier, images, trust=trust)
    chosen.check_classifier(classifier)
    if student is not None or student_steps is not None:
        check_student_options(chosen, classifier, student, student_steps)
    stand_in: Classifier | None = None
    if isinstance(student, Classifier | str | Path):
        stand_in, student = open_student(student, classifier, trust=trust), None
    is_distilled = chosen.needs_gradients and not classifier.differentiable and stand_in is None
    network: nn.Module | None = None
    if not (is_distilled and settings.uses_own_layers):  # else the encoder is distilled first
        with trust_files(trust):
            if encoder is None and not isinstance(config, Mapping | ExplainerSettings):
                check_spec_of_file(getattr(settings, "encoder", ""), f"{config or run}: encoder")
            names_encoder = encoder or (isinstance(config, Mapping) and config.get("encoder"))
            # built here, so that mistakes are found before anything is written
            base, network = _build_suited_network(
                base,
                options,
                stand_in or classifier,
                seed,
                say,
                names_encoder=bool(names_encoder),
            )
        settings = options.apply(base)
    consequence = f"{run} keeps what is done; the same call with resume=True goes on"
    shown = report or progress
    if not is_main_process() and not callable(shown):
        shown = False
    with describe_interrupt(consequence), open_progress(shown) as open_report:
        trainer = Trainer(classifier, images, run, hardware, seed, say, open_report)
        with _record(trainer, classifier, settings, stand_in).begin(resume=resume):
            if settings.schedule.steps < base.schedule.steps:
                say(
                    f"{settings.schedule.steps} steps instead of {base.schedule.steps}: the parts "
                    "before, such as the class embedding, are shortened in proportion"
                )
            facts: dict[str, float] = {}
            if stand_in is not None:
                trainer, facts = use_student(trainer, stand_in)
            elif is_distilled:
                full = StudentPlan(base.schedule.steps, StudentSettings())
                plan = plan_student(run, full, settings.schedule.steps, student, student_steps)
                trainer, facts = use_distilled_student(trainer, replace(plan, seed=seed))
            if network is None:
                network = build_network(settings, trainer.classifier, seed)
            return _fit(network, settings, trainer, classifier, facts)


@dataclass(frozen=True)
class _Options:
    """Options of one training, which change its settings wherever these come from.

    Attributes:
        steps: optimisation steps; None for those of the settings.
        batch: images per step and device; None for those of the settings.
        encoder: the encoder; None for that of the settings.
        begun: steps with which the training was begun that is continued.
    """

    steps: int | None = None
    batch: int | None = None
    encoder: str | None = None
    begun: int | None = None

    def apply(self, settings: ExplainerSettings) -> ExplainerSettings:
        settings = settings.with_schedule(steps=self.steps, batch=self.batch, begun=self.begun)
        return settings if self.encoder is None else settings.with_encoder(self.encoder)


def _open_inputs(
    classifier: Classifier | str | Path, images: ImageSource | str | Path, *, trust: bool
) -> tuple[Classifier, ImageSource]:
    """Open what is not open yet; a wrong path of images is found before the classifier opens."""
    check_images(images)
    if not isinstance(classifier, Classifier):
        classifier = open_classifier(classifier, trust=trust)
    return classifier, classifier.open_images(images)


def _build_suited_network(
    base: ExplainerSettings,
    options: _Options,
    classifier: Classifier,
    seed: int,
    say: Callable[[str], None],
    *,
    names_encoder: bool,
) -> tuple[ExplainerSettings, nn.Module]:
    """Build the network, and return it with the settings, without the options.

    Settings that name no encoder or embedding get those that the classifier needs.
    """
    try:
        built = build_network(options.apply(base), classifier, seed)
    except NoFeatureMapsError:
        if names_encoder or not isinstance(base, GatedSettings) or base.encoder != OWN:
            raise
        base = choose_encoder(base, classifier.spec, say)
        built = build_network(options.apply(base), classifier, seed)
    if isinstance(base, GatedSettings) and isinstance(built, GatedNetwork):
        suited = choose_embedding(base, built.encoder, say)
        if suited is not base:
            return suited, build_network(options.apply(suited), classifier, seed)
    return base, built


def train_explainer(
    settings: ExplainerSettings, trainer: Trainer, classifier: Classifier | None = None
) -> TrainedExplainer[Any, Any]:
    """Train an explainer with a trainer that is set up, and leave it in the trainer's run folder.

    A begun training is continued. On several devices the first process measures and writes; the
    others end with the fit.

    Args:
        settings: the settings of the explainer, which say its kind.
        trainer: images, run folder and hardware; its classifier has gradients where the kind needs
            them.
        classifier: the explained classifier, where the trainer's is its student.

    Returns:
        The trained explainer.

    Raises:
        ClassifierError: the classifier has too few classes.
        ConfigError: the encoder does not fit the classifier.
        RunError: the folder holds a finished training, or one of other settings.
    """
    explained = trainer.classifier if classifier is None else classifier
    find_kind(settings.explainer).check_classifier(explained)
    settings, network = _build_suited_network(
        settings,
        _Options(),
        trainer.classifier,
        trainer.seed,
        trainer.say,
        names_encoder=True,
    )
    with _record(trainer, explained, settings).begin():
        return _fit(network, settings, trainer, explained, {})


def build_network(settings: ExplainerSettings, classifier: Classifier, seed: int) -> nn.Module:
    """Build the untrained network of an explainer.

    Args:
        settings: they name the explainer, its encoder and its decoder.
        classifier: the classifier to explain, or its student; the encoder `own` takes its layers.
        seed: seed of the first weights.

    Returns:
        The network.

    Raises:
        ConfigError: the encoder cannot be built, or does not fit the classifier.
    """
    kind = find_kind(settings.explainer)
    backbone = kind.open_backbone(settings, classifier)
    classifier_info = ClassifierInfo.from_classifier(classifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.build_network(settings, classifier_info, backbone)


def _fit(
    network: nn.Module,
    settings: ExplainerSettings,
    trainer: Trainer,
    classifier: Classifier,
    facts: Mapping[str, float],
) -> TrainedExplainer[Any, Any]:
    """Fit, measure and save an explainer; the classifier itself measures it, not its student."""
    kind = find_kind(settings.explainer)
    classifier_info = ClassifierInfo.from_classifier(classifier)
    explainer = kind.explainer(network, classifier_info, settings, {})
    measured = trainer.fit(kind.build_training(network, trainer.classifier, settings, trainer.seed))
    if trainer.is_main_process:
        held_out = split_held_out(len(trainer.source), trainer.seed).held_out
        images = TrainingImages(trainer.source, classifier, held_out)
        explainer.to(classifier.device)
        measured |= kind.finish(explainer, classifier, images, trainer.report)
        measured |= dict(facts) | kind.measure(
            explainer, classifier, images, trainer.run, trainer.seed, trainer.report
        )
        measured |= _judge(kind, settings, measured, trainer)
        explainer.facts |= {name: value for name, value in measured.items() if isfinite(value)}
        explainer.save_pretrained(trainer.run)
    return explainer


def _judge(
    kind: ExplainerKind, settings: ExplainerSettings, facts: Mapping[str, float], trainer: Trainer
) -> dict[str, float]:
    """Say whether an explainer looks trained, and return it as a fact."""
    doubts = kind.judge_training(settings, facts)
    if doubts is None:
        trainer.say(
            f"{facts['measured_images']:.0f} images kept from training are too few to say whether "
            "it looks trained; give it more images"
        )
        return {}
    if doubts:
        trainer.say(f"warning: {describe_doubts(trainer.run, doubts)}")
    return {LOOKS_TRAINED: float(not doubts)}


def _record(
    trainer: Trainer,
    classifier: Classifier,
    settings: ExplainerSettings,
    student: Classifier | None = None,
) -> RunRecord:
    """Return the record of what the explainer depends on."""
    return trainer.make_record(
        settings,
        fingerprint=classifier.fingerprint,
        student="" if student is None else student.fingerprint,
        classifier=ClassifierInfo.from_classifier(classifier),
    )


def _choose_settings(
    run: Path,
    config: ExplainerSettings | Mapping[str, Any] | str | Path | None,
    kind: ExplainerKind,
) -> ExplainerSettings:
    """Return the settings in whatever form they were given.

    Raises:
        ConfigError: they hold mistakes, or are those of another kind.
        RunError: the folder holds a training of another kind.
    """
    if isinstance(config, ExplainerSettings) and config.explainer != kind.name:
        raise ConfigError(
            f"config: expected settings of a {kind.name} explainer, got those of a "
            f"{config.explainer} explainer; pass kind={config.explainer!r}"
        )
    return find_settings(run, config, kind.presets)


def _choose_hardware(device: str, devices: int, precision: str, workers: int) -> Hardware:
    """Return the hardware; raises ConfigError where it is not there."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision}")
    return Hardware(choose_device(device), devices, PRECISIONS[precision], workers)
