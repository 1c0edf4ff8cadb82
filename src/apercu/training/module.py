"""One training step of the mask explainer, as Lightning runs it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Generator, Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from apercu.classifiers import Classifier
from apercu.networks.decoder import Evidence
from apercu.networks.masking import MaskingNetwork
from apercu.training.augment import Views
from apercu.training.objectives import Question
from apercu.training.settings import MaskSettings
from apercu.types import Images, Logits, Scores

RISE = 0.15  # share of the steps in which the learning rate rises


class MaskTraining(LightningModule):
    """The mask phase: targets are the classifier's own answers, or fake classes.

    Every random draw of a step comes from a generator that is seeded by the step, so a resumed
    training goes on exactly where it was.

    Args:
        network: the masking network, settled.
        classifier: the black box, differentiable with respect to its images.
        settings: objective and schedule.
        seed: of all draws.
    """

    def __init__(
        self, network: MaskingNetwork, classifier: Classifier, settings: MaskSettings, seed: int
    ) -> None:
        super().__init__()
        self.network = network
        self.classifier = classifier
        self.settings = settings
        self.seed = seed
        self.views = Views()
        side = settings.schedule.side
        self.smaller = classifier.module is not None and side < min(classifier.size)
        self.measured: dict[str, Tensor] = {}

    def on_fit_start(self) -> None:
        self.classifier.to(self.device)

    def training_step(self, images: Images, batch_index: int) -> Tensor:
        generator = self._generator()
        images = self.views(images, generator)
        with torch.no_grad():
            logits = self.classifier(images)
            question = self._question(self._judged(images), logits, generator)
        evidence = self.network.evidence(self.network.encode(images), question.targets)
        evidence = Evidence(evidence.extent.float(), evidence.core.float())
        judge = self.classifier.at_any_size if self.smaller else self.classifier
        terms = self.settings.objective.terms(judge, question, evidence, generator)
        loss = torch.stack(list(terms.values())).sum(0).mean()
        self._note(loss, terms, question, evidence.extent)
        return loss

    def configure_optimizers(self) -> Any:
        schedule = self.settings.schedule
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimiser = AdamW(trained, lr=schedule.rate, weight_decay=schedule.decay)
        rate = OneCycleLR(optimiser, schedule.rate, total_steps=schedule.steps + 1, pct_start=RISE)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def _generator(self) -> Generator:
        ranks = self.trainer.world_size
        draw = (self.seed * 1_000_003 + self.global_step) * ranks + self.global_rank
        return torch.Generator().manual_seed(draw)

    def _judged(self, images: Images) -> Images:
        """The images as the classifier judges masks of them: smaller costs less."""
        if not self.smaller:
            return images
        side = self.settings.schedule.side
        return F.interpolate(images, (side, side), mode="bilinear", antialias=True)

    def _question(self, images: Images, logits: Logits, generator: Generator) -> Question:
        """The classifier's top class, or with the set probability a class it does not see."""
        true, classes = logits.argmax(1), logits.shape[1]
        shift = torch.randint(1, classes, (len(images),), generator=generator)
        fake = torch.rand(len(images), generator=generator) < self.settings.schedule.fakes
        real = ~fake.to(images.device)
        targets = torch.where(real, true, (true + shift.to(images.device)) % classes)
        return Question(images, targets, real, true)

    def _note(
        self, loss: Tensor, terms: dict[str, Scores], question: Question, extent: Tensor
    ) -> None:
        masks, real = extent.detach().sigmoid().mean((1, 2)), question.real
        figures = {f"term_{name}": values.detach().mean() for name, values in terms.items()}
        figures |= {"loss": loss.detach(), "area_true": masks[real].mean()}
        if not bool(real.all()):
            figures["area_fake"] = masks[~real].mean()
        self.measured = {name: value for name, value in figures.items() if value.isfinite()}
        self.log_dict(self.measured)
