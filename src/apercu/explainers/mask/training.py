"""One training step of the mask explainer, as Lightning runs it."""

from __future__ import annotations

from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from apercu import render
from apercu.classifiers import Classifier
from apercu.explainers.mask.network import MaskNetwork
from apercu.explainers.mask.objectives import MaskBatch
from apercu.explainers.mask.settings import MaskSettings
from apercu.networks.decoder import Evidence
from apercu.training.augment import RandomViews
from apercu.training.degeneracy import MASKS, DegenerateSolution
from apercu.training.module import TrainingModule
from apercu.types import Images, Logits


@final
class MaskTraining(TrainingModule):
    """The mask phase: targets are the classifier's own answers, or fake classes.

    Args:
        network: the masking network, settled.
        classifier: the black box, differentiable with respect to its images.
        settings: objective and schedule.
        seed: of all draws.
    """

    degenerate: ClassVar[DegenerateSolution] = MASKS
    warms_up_batchnorm: ClassVar[bool] = True

    def __init__(
        self, network: MaskNetwork, classifier: Classifier, settings: MaskSettings, seed: int
    ) -> None:
        super().__init__(network, classifier, settings, seed)
        self.network: MaskNetwork
        self.settings: MaskSettings
        self.views = RandomViews()
        side = settings.schedule.side
        self.shrinks = classifier.module is not None and side < min(classifier.size)

    def training_step(self, images: Images, batch_index: int) -> Tensor:
        generator = self.step_generator()
        images = self.views(images, generator)
        with torch.no_grad():
            logits = self.classifier(images)
            question = self._draw_batch(self._shrink(images), logits, generator)
        evidence = self.network.evidence(self.network.encode(images), question.targets)
        evidence = Evidence(evidence.extent.float(), evidence.core.float())
        judge = self.classifier.compute_logits_at_any_size if self.shrinks else self.classifier
        terms = self.settings.objective.terms(judge, question, evidence, generator)
        self.log_terms(terms, self._measure_areas(question, evidence.extent))
        return torch.stack(list(terms.values())).sum(0).mean()

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        top = self.classifier(images).argmax(1)
        mask = self.network(images, top)[0].sigmoid().cpu()
        title, image = self.classifier.classes[int(top)].partition(",")[0], images[0].cpu()
        return [
            render.Tile(render.to_image(image), title),
            render.Tile(render.draw_overlay(image, mask), f"area {mask.mean():.2f}"),
            render.Tile(render.draw_masked(image, mask), "kept"),
        ]

    def _shrink(self, images: Images) -> Images:
        """The images as the classifier judges masks of them: smaller costs less."""
        if not self.shrinks:
            return images
        side = self.settings.schedule.side
        return F.interpolate(images, (side, side), mode="bilinear", antialias=True)

    def _draw_batch(self, images: Images, logits: Logits, generator: Generator) -> MaskBatch:
        """The classifier's top class, or with the set probability a class it does not see."""
        true, classes = logits.argmax(1), logits.shape[1]
        shift = torch.randint(1, classes, (len(images),), generator=generator)
        fake = torch.rand(len(images), generator=generator) < self.settings.schedule.fakes
        real = ~fake.to(images.device)
        targets = torch.where(real, true, (true + shift.to(images.device)) % classes)
        return MaskBatch(images, targets, real, true)

    def _measure_areas(self, batch: MaskBatch, extent: Tensor) -> dict[str, Tensor]:
        masks, real = extent.detach().sigmoid().mean((1, 2)), batch.real
        fake = {} if bool(real.all()) else {"area_fake": masks[~real].mean()}
        return {"area_true": masks[real].mean(), **fake}
