"""The training of a backbone with a pretext: its steps, and its run folder with a card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

from apercu import render
from apercu.classifiers import Classifier, save_classifier
from apercu.classifiers.reinitialise import copy_trainable
from apercu.errors import ConfigError
from apercu.pretraining.pretexts import PretextBatch, PretextNetwork, PretextSample
from apercu.pretraining.pretexts.base import Features
from apercu.pretraining.settings import PretrainSettings
from apercu.pretraining.targets import PretrainImages
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.data import TargetFunction, TrainingImages, split_held_out
from apercu.training.module import DegenerateSolution, TrainingModule
from apercu.training.trainer import Trainer
from apercu.types import Images
from apercu.weights import digest_module

SAMPLED_IMAGES = 256
"""Images from which the parts of a pretext are initialised."""
MAX_ERROR_RATIO = 0.95
"""Error relative to that of the best constant above which a backbone does not look trained."""
MAX_MISTAKEN = 0.8
"""Fraction of images whose two views are not matched above which neither does it."""
MAX_CLUSTER = 0.95
"""Fraction of the images in the largest cluster above which there is only one."""
MIN_SPREAD = 0.02
"""Spread of the features below which they count as the same for all images."""


def _describe_features(means: Mapping[str, float]) -> str | None:
    """Return one line where every image has the same features."""
    if means["spread"] < MIN_SPREAD:
        return (
            f"features are the same for all images (spread {means['spread']:.3f}); lower the rate, "
            "or enlarge the batch"
        )
    return None


DEGENERATE_FEATURES = DegenerateSolution(("spread",), ("spread",), _describe_features)
"""A backbone that gives every image the same features."""


@final
class PretrainTraining(TrainingModule):
    """The training of a backbone with a pretext.

    Args:
        network: backbone, and the parts of the pretext.
        backbone: backbone as it was before, which prepares images.
        settings: pretext and schedule.
        seed: seed of all draws.
        target_of: returns the target of each image; None where the pretext needs images alone.
    """

    degenerate: ClassVar[DegenerateSolution] = DEGENERATE_FEATURES
    trained_buffers: ClassVar[str] = ""

    def __init__(
        self,
        network: PretextNetwork,
        backbone: Classifier,
        settings: PretrainSettings,
        seed: int,
        target_of: TargetFunction | None,
    ) -> None:
        super().__init__(network, backbone, settings, seed)
        self.network: PretextNetwork
        self.settings: PretrainSettings
        self.target_of = target_of

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        images, targets = (batch, None) if self.target_of is None else batch
        pretext_batch = PretextBatch(images, targets, self.step_generator(), self.progress)
        terms = self.settings.pretext.compute_losses(self.network, pretext_batch)
        figures = {}
        if self.global_step % 10 == 0:
            with torch.no_grad():
                figures["spread"] = feature_spread(self.network(pretext_batch.images))
        self.log_terms(terms, figures)
        return torch.stack(list(terms.values())).sum(0).mean()

    @property
    def progress(self) -> float:
        """The fraction of the training that is done."""
        return self.global_step / self.settings.schedule.steps

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        generator = Generator().manual_seed(self.seed)
        batch = PretextBatch(images, None, generator)
        return self.settings.pretext.sample_tiles(self.network, batch)


def feature_spread(features: Features) -> Tensor:
    """Compute how much the directions of features differ: 0 if all are equal, near 1 at most.

    This is the standard deviation of the components of unit vectors over the batch, times the
    root of their number (Chen and He 2021).
    """
    unit = F.normalize(features.float(), dim=1)
    return unit.std(0, unbiased=False).mean() * unit.shape[1] ** 0.5


def pretrain(
    settings: PretrainSettings,
    trainer: Trainer,
    images: PretrainImages,
    test: PretrainImages | None = None,
    *,
    resume: bool = True,
) -> tuple[Classifier, dict[str, float]]:
    """Train a copy of the trainer's backbone with a pretext, and save it in the run folder.

    Args:
        settings: pretext and schedule.
        trainer: the backbone, the source of the images and the run folder.
        images: the trainer's images with their targets.
        test: further images to measure on.
        resume: whether to continue a training that was begun in the folder.

    Returns:
        The backbone, whose logits are features, and what was measured: errors on images that were
        held out and on the test images, and the same of the best constant.

    Raises:
        ClassifierError: the backbone cannot be trained.
        ConfigError: the pretext needs one device.
        RunError: the folder holds a pretraining with other settings.
    """
    if settings.pretext.keeps_state and trainer.hardware.devices > 1:
        raise ConfigError(
            f"devices: {settings.pretext.form} remembers every image, so one device does all steps"
        )
    with trainer.make_record(settings, targets=images.digest).begin(resume=resume):
        backbone = copy_trainable(trainer.classifier, seed=trainer.seed)
        settings.pretext.start_backbone(backbone, trainer.classifier.channels)
        training_indices, held_out = split_held_out(len(trainer.source), trainer.seed)
        sample = _draw_sample(images, trainer.classifier, training_indices)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(trainer.seed)
            parts = nn.ModuleDict(settings.pretext.build_parts(sample))
        start = trainer.classifier
        network = PretextNetwork(backbone, start.network.input, parts, start.layout)
        training = PretrainTraining(network, start, settings, trainer.seed, images.targets)
        facts = trainer.fit(training)
        constant = None
        if sample.targets is not None and images.are_values:
            constant = sample.targets.nanmedian(0).values
        errors = measure_errors(training, images, constant, held_out, trainer.report)
        facts |= {f"held_out_{name}": value for name, value in errors.items()}
        if test is not None:
            errors = measure_errors(training, test, constant, report=trainer.report)
            facts |= {f"test_{name}": value for name, value in errors.items()}
        trainer.note_quality(facts, find_doubts, "; train on with --resume and a larger --steps")
        digest = digest_module(backbone, start.network.source, start.network.options)
        pretrained = Classifier(replace(start.network, forward=backbone, digest=digest, guard=None))
        if trainer.is_main_process:
            save_classifier(pretrained, trainer.run)
            trainer.save_facts(facts)
    return pretrained, facts


@torch.no_grad()
def measure_errors(
    training: PretrainTraining,
    images: PretrainImages,
    constant: Float[Tensor, " values"] | None,
    indices: Sequence[int] | None = None,
    report: ProgressCallback = ignore_progress,
) -> dict[str, float]:
    """Measure mean errors over images, in the pretext's own units; missing targets are left out.

    Args:
        training: the pretext and its network.
        images: images with their targets.
        constant: constant prediction for comparison, one number per value.
        indices: indices of the images; None for all.
        report: receives the name of the work, the images that are done, and the images in all.

    Returns:
        Errors by name; those of the constant begin with `constant_`.
    """
    done = 0
    loaded = TrainingImages(images.source, training.classifier, indices, target_of=images.targets)
    generator, device = Generator().manual_seed(training.seed), training.classifier.device
    parts: dict[str, list[Tensor]] = {}
    training.network.to(device).eval()
    pretext = training.settings.pretext
    for batch in DataLoader(loaded, training.settings.schedule.batch):
        pictures, targets = (batch, None) if images.targets is None else batch
        targets = None if targets is None else targets.to(device)
        pretext_batch = PretextBatch(pictures.to(device), targets, generator)
        for name, errors in pretext.measure_errors(training.network, pretext_batch).items():
            title = images.name_value(int(name)) if name.isdecimal() else name
            parts.setdefault(title, []).append(errors.cpu())
        done += len(pretext_batch.images)
        report("measuring images", done, len(loaded))
        if pretext_batch.targets is not None and constant is not None:
            differences = (pretext_batch.targets.cpu() - constant).abs()
            for index, errors in enumerate(differences.unbind(1)):
                parts.setdefault(f"constant_{images.name_value(index)}", []).append(errors)
    means = {name: float(torch.cat(errors).nanmean()) for name, errors in parts.items()}
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def find_doubts(facts: Mapping[str, float]) -> list[str]:
    """Return why a pretrained backbone does not look trained, from images held out.

    What it predicts must be nearer to the truth than the best constant.

    Args:
        facts: what was measured, by name.

    Returns:
        One phrase for each reason.
    """
    constants = {
        name: value for name, value in facts.items() if name.startswith("held_out_constant_")
    }
    doubts = []
    for name, constant in constants.items():
        title = name.removeprefix("held_out_constant_")
        error = facts.get(f"held_out_{title}", constant)
        if error > MAX_ERROR_RATIO * constant:
            doubts.append(
                f"{title} is predicted no better than by a constant (mean error {error:.3g}, "
                f"constant {constant:.3g})"
            )
    guess = facts.get("held_out_mistaken", 0.0)
    if guess > MAX_MISTAKEN:
        doubts.append(f"two views of an image are not recognised as the same ({guess:.0%} wrong)")
    largest = facts.get("held_out_largest_cluster", 0.0)
    if largest > MAX_CLUSTER:
        doubts.append(f"nearly all images are in one cluster ({largest:.0%})")
    return doubts


def _draw_sample(
    images: PretrainImages, backbone: Classifier, indices: Sequence[int]
) -> PretextSample:
    """Draw what the parts are initialised from: some images, and their targets."""
    spread = indices[:: max(1, len(indices) // SAMPLED_IMAGES)]
    loaded = TrainingImages(images.source, backbone, spread, target_of=images.targets)
    items: list[Any] = [loaded[index] for index in range(len(loaded))]
    features = len(backbone.classes)
    if images.targets is None:
        return PretextSample(torch.stack(items), features, None, len(images.source))
    pictures, targets = zip(*items, strict=True)
    return PretextSample(torch.stack(pictures), features, torch.stack(targets), len(images.source))
