"""One step of a pretraining, as Lightning runs it."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from apercu import render
from apercu.classifiers import Classifier
from apercu.pretraining.pretexts import PretextBatch, PretextNetwork
from apercu.pretraining.pretexts.base import Features
from apercu.pretraining.settings import PretrainSettings
from apercu.training.data import TargetFunction
from apercu.training.degeneracy import FEATURES, DegenerateSolution
from apercu.training.module import TrainingModule
from apercu.types import Images


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

    degenerate: ClassVar[DegenerateSolution] = FEATURES
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
