"""The training of the mask explainer: the loss of each step, as Lightning runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from apercu import render
from apercu.classifiers import Classifier
from apercu.classifiers.decisions import DecidedLogits
from apercu.errors import format_shape
from apercu.explainers.embedding_training import EmbeddingPhase
from apercu.explainers.mask.network import MaskNetwork
from apercu.explainers.mask.objectives import MaskBatch
from apercu.explainers.mask.settings import MaskSettings
from apercu.networks.decoder import Evidence
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.augment import RandomViews
from apercu.training.data import TrainingImages
from apercu.training.module import DegenerateSolution, TrainingModule
from apercu.types import Images, Logits

MIN_AREA, MAX_AREA = 0.01, 0.95
"""Mean areas below and above which masks count as empty and full."""
MAX_FAKE_RATIO = 0.8
"""Mean area of masks of fake classes, relative to true ones, above which they ignore the class."""


def _describe_masks(means: Mapping[str, float]) -> str | None:
    """Return one line where masks are empty, are full, or ignore the class."""
    true, fake = means["area_true"], means.get("area_fake")
    if true < MIN_AREA:
        return f"masks are empty (mean area {true:.3f}); lower the weight of the area"
    if true > MAX_AREA:
        return f"masks are full (mean area {true:.3f}); raise the weight of the area"
    if fake is not None and fake > MAX_FAKE_RATIO * true:
        return (
            f"masks ignore the class (mean area {true:.2f} for true, {fake:.2f} for fake "
            "classes); gate the skip connections or train longer"
        )
    return None


DEGENERATE_MASKS = DegenerateSolution(("area_true", "area_fake"), ("area_true",), _describe_masks)


@final
class MaskTraining(TrainingModule):
    """Trains masks of the class that the classifier predicts, or of a fake class.

    Args:
        network: the mask network.
        classifier: the classifier, differentiable with respect to its images.
        settings: the objective and the schedule.
        seed: seed of all draws.
    """

    degenerate: ClassVar[DegenerateSolution] = DEGENERATE_MASKS
    warms_up_batchnorm: ClassVar[bool] = True

    def __init__(
        self, network: MaskNetwork, classifier: Classifier, settings: MaskSettings, seed: int
    ) -> None:
        super().__init__(network, classifier, settings, seed)
        self.network: MaskNetwork
        self.settings: MaskSettings
        self.views = RandomViews()
        side, shorter = settings.schedule.side, min(classifier.size)
        is_smaller = classifier.module is not None and side < shorter
        rows, columns = (round(length * side / shorter) for length in classifier.size)
        self.scored_size = (rows, columns)
        self.shrinks = is_smaller and classifier.takes_size(self.scored_size)
        self.has_fixed_size = is_smaller and not self.shrinks

    def prepare_network(
        self,
        images: TrainingImages,
        folder: Path,
        say: Callable[[str], None],
        report: ProgressCallback = ignore_progress,
    ) -> dict[str, float]:
        if self.has_fixed_size:
            rows, columns = self.classifier.size
            say(
                f"{self.classifier.spec} takes images of its own size only, so masks are scored at "
                f"{rows} × {columns} pixels, not at {format_shape(self.scored_size)}"
            )
        resolution, stride = self.network.decoder.resolution, self.network.encoder.strides[-1]
        if resolution != self.settings.decoder.resolution:
            say(
                f"decoder.resolution: {resolution}, not {self.settings.decoder.resolution}, "
                f"as the deepest features of the encoder have a stride of {stride} pixels"
            )
        phase = EmbeddingPhase(self.classifier, images, self.seed, folder, say, report)
        return phase.run(self.network, self.settings.embedding)

    def training_step(self, images: Images, batch_index: int) -> Tensor:
        generator = self.step_generator()
        images = self.views(images, generator)
        with torch.no_grad():
            logits = self.classifier(images)
            batch = self._draw_batch(self._shrink(images), logits, generator)
        evidence = self.network.evidence(self.network.encode(images), batch.targets)
        evidence = Evidence(evidence.extent.float(), evidence.core.float())
        classifier = DecidedLogits(
            self.classifier.compute_logits_at_any_size if self.shrinks else self.classifier,
            self.classifier.decision,
        )
        terms = self.settings.objective.compute_terms(classifier, batch, evidence, generator)
        self.log_terms(terms, self._measure_areas(batch, evidence.extent))
        return torch.stack(list(terms.values())).sum(0).mean()

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        top = self.classifier(images).argmax(1)
        mask = self.network(images, top)[0].sigmoid().cpu()
        title, image = self.classifier.names.short_names[int(top)], images[0].cpu()
        return [
            render.Tile(render.to_image(image), title),
            render.Tile(render.draw_overlay(image, mask), f"area {mask.mean():.2f}"),
            render.Tile(render.draw_masked(image, mask), "kept"),
        ]

    def _shrink(self, images: Images) -> Images:
        """Return the images at the size at which masks are scored: smaller costs less."""
        if not self.shrinks:
            return images
        return F.interpolate(images, self.scored_size, mode="bilinear", antialias=True)

    def _draw_batch(self, images: Images, logits: Logits, generator: Generator) -> MaskBatch:
        """Take a predicted class of each image, or with the set probability a fake one."""
        decision = self.classifier.decision
        others = decision.draw_absent(logits, generator)
        fake = torch.rand(len(images), generator=generator) < self.settings.schedule.fakes
        predicted = decision.draw_predicted(logits, generator)
        targets = torch.where(fake.to(images.device), others, predicted)
        real = ~fake.to(images.device) | decision.is_predicted(logits, targets)
        predicted = torch.where(real, targets, predicted)
        return MaskBatch(images, targets, real, predicted)

    def _measure_areas(self, batch: MaskBatch, extent: Tensor) -> dict[str, Tensor]:
        """Return the mean areas of the masks of true and of fake classes."""
        areas, real = extent.detach().sigmoid().mean((1, 2)), batch.real
        fake = {} if bool(real.all()) else {"area_fake": areas[~real].mean()}
        return {"area_true": areas[real].mean(), **fake}
