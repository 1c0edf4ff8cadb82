"""One step of a pretraining, as Lightning runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

from apercu import render
from apercu.classifiers import Classifier, save_classifier
from apercu.classifiers.fingerprint import digest_module
from apercu.classifiers.reinitialise import copy_trainable
from apercu.images import ImageSource
from apercu.io import write_file
from apercu.pretraining.pretexts import PretextBatch, PretextNetwork, PretextSample
from apercu.pretraining.pretexts.base import Features
from apercu.pretraining.settings import PretrainSettings
from apercu.pretraining.targets import CatalogueValues
from apercu.training.data import TargetFunction, TrainingImages, split_held_out
from apercu.training.degeneracy import DegenerateSolution
from apercu.training.module import TrainingModule
from apercu.training.trainer import Trainer
from apercu.types import Images

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


@final
class PretrainTraining(TrainingModule):
    """A backbone learns a pretext.

    Args:
        network: backbone and parts.
        backbone: its door as it was before, which prepares images.
        settings: pretext and schedule.
        seed: of all draws.
        wanted: what comes with each image; None where the pretext needs images alone.
    """

    degenerate: ClassVar[DegenerateSolution] = DEGENERATE_FEATURES
    trained_buffers: ClassVar[str] = ""

    def __init__(
        self,
        network: PretextNetwork,
        backbone: Classifier,
        settings: PretrainSettings,
        seed: int,
        wanted: TargetFunction | None,
    ) -> None:
        super().__init__(network, backbone, settings, seed)
        self.network: PretextNetwork
        self.settings: PretrainSettings
        self.target_of = wanted

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        lesson = self.make_batch(batch, self.step_generator())
        terms = self.settings.pretext.compute_losses(self.network, lesson)
        figures = {}
        if self.global_step % 10 == 0:
            with torch.no_grad():
                figures["spread"] = feature_spread(self.network(lesson.images))
        self.log_terms(terms, figures)
        return torch.stack(list(terms.values())).sum(0).mean()

    def make_batch(self, batch: Any, generator: Generator) -> PretextBatch:
        """What a batch teaches: images, and what comes with them."""
        images, found = (batch, None) if self.target_of is None else batch
        return PretextBatch(images, found, generator)

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        generator = Generator().manual_seed(self.seed)
        return self.settings.pretext.tiles(self.network, PretextBatch(images, None, generator))


def feature_spread(features: Features) -> Tensor:
    """How far the directions of features differ: 0 if all are alike, near 1 if they fill space.

    The standard deviation of unit vectors' components over the batch, times the root of their
    number (Chen and He 2021).
    """
    unit = F.normalize(features.float(), dim=1)
    return unit.std(0, unbiased=False).mean() * unit.shape[1] ** 0.5


FACTS = "facts.json"
SAMPLED_IMAGES = 256
"""Images from which the parts of a pretext take what they begin with."""


@dataclass(frozen=True)
class PretrainImages:
    """Images, and what comes with each.

    Args:
        source: of the images.
        wanted: None where the pretext needs images alone.
        columns: names of what is wanted, for reports.
    """

    source: ImageSource
    targets: TargetFunction | None = None
    columns: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of what is wanted and of which images, so that a training goes on with the same."""
        if self.targets is None:
            return ""
        told = (
            self.targets.values.numpy().tobytes()
            if isinstance(self.targets, CatalogueValues)
            else b""
        )
        words = repr((self.columns, self.source.names, self.targets))
        return hashlib.sha256(words.encode() + told).hexdigest()[:16]

    def name_value(self, place: int) -> str:
        """The name of a value that is wanted, from 0; its number from 1 where it has none."""
        return self.columns[place] if place < len(self.columns) else str(place + 1)


def pretrain(
    settings: PretrainSettings,
    trainer: Trainer,
    shown: PretrainImages,
    test: PretrainImages | None = None,
    *,
    resume: bool = True,
) -> tuple[Classifier, dict[str, float]]:
    """Trains a copy of the fit's backbone and leaves it in the run folder.

    Args:
        settings: what is learnt.
        fit: of which backbone, on which images, where.
        shown: the fit's images, and what comes with them.
        test: further images to measure on.
        resume: whether to continue a training that was begun in the folder.

    Returns:
        The backbone, which answers features; errors on images held out, and on those of `test`,
        beside what the best constant would have.

    Raises:
        ClassifierError: the backbone cannot be trained.
        RunError: the folder holds a pretraining with other settings.
    """
    with trainer.record(settings, targets=shown.digest).begin(resume=resume):
        backbone = copy_trainable(trainer.classifier, seed=trainer.seed)
        learnt, held_out = split_held_out(len(trainer.source), trainer.seed)
        sample = _draw_sample(shown, trainer.classifier, learnt)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(trainer.seed)
            made = nn.ModuleDict(settings.pretext.build_parts(sample))
        network = PretextNetwork(backbone, trainer.classifier.network.input, made)
        training = PretrainTraining(
            network, trainer.classifier, settings, trainer.seed, shown.targets
        )
        facts = trainer.fit(training)
        usual = None if sample.targets is None else sample.targets.nanmedian(0).values
        facts |= {
            f"held_out_{k}": v for k, v in measure_errors(training, shown, usual, held_out).items()
        }
        if test is not None:
            facts |= {f"test_{k}": v for k, v in measure_errors(training, test, usual).items()}
        known = trainer.classifier.network
        digest = digest_module(backbone, known.source, known.options)
        learned = Classifier(replace(known, forward=backbone, digest=digest))
        if trainer.is_main_process:
            save_classifier(learned, trainer.run)
            write_file(trainer.run / FACTS, json.dumps(facts, indent=1) + "\n")
    return learned, facts


@torch.no_grad()
def measure_errors(
    training: PretrainTraining,
    shown: PretrainImages,
    usual: Float[Tensor, " values"] | None,
    indices: Sequence[int] | None = None,
) -> dict[str, float]:
    """Mean errors over images, in the pretext's own units; what is missing is left out.

    Args:
        training: the pretext and its network.
        shown: images and what comes with them.
        usual: what a constant would say, for comparison.
        indices: which images; all where None.
    """
    images = TrainingImages(shown.source, training.classifier, indices, target_of=shown.targets)
    generator, found = Generator().manual_seed(training.seed), dict[str, list[Tensor]]()
    device = training.classifier.device
    training.network.to(device).eval()
    asked = PretrainTraining(
        training.network, training.classifier, training.settings, training.seed, shown.targets
    )
    for batch in DataLoader(images, training.settings.schedule.batch):
        moved = batch.to(device) if isinstance(batch, Tensor) else [one.to(device) for one in batch]
        lesson = asked.make_batch(moved, generator)
        for name, off in training.settings.pretext.measure_errors(training.network, lesson).items():
            known = shown.name_value(int(name)) if name.isdecimal() else name
            found.setdefault(known, []).append(off.cpu())
        if lesson.targets is not None and usual is not None:
            for place, off in enumerate((lesson.targets.cpu() - usual).abs().unbind(1)):
                found.setdefault(f"constant_{shown.name_value(place)}", []).append(off)
    means = {name: float(torch.cat(off).nanmean()) for name, off in found.items()}
    return {name: mean for name, mean in means.items() if mean == mean}


def _draw_sample(
    shown: PretrainImages, backbone: Classifier, indices: Sequence[int]
) -> PretextSample:
    """What the parts begin with: a few images, and what is wanted of more of them."""
    spread = indices[:: max(1, len(indices) // SAMPLED_IMAGES)]
    images = TrainingImages(shown.source, backbone, spread, target_of=shown.targets)
    read: list[Any] = [images[index] for index in range(len(images))]
    features = len(backbone.classes)
    if shown.targets is None:
        return PretextSample(torch.stack(read[:8]), features, None)
    pictures, found = zip(*read, strict=True)
    return PretextSample(torch.stack(pictures[:8]), features, torch.stack(found))
