"""One training step of a classifier against attacks, as Lightning runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from apercu import render
from apercu.classifiers import Classifier
from apercu.classifiers.network import convert_to_logits
from apercu.classifiers.preprocessing import normalise
from apercu.robustness.defences.base import DefenceBatch
from apercu.robustness.defences.settings import DefenceSettings
from apercu.training.data import LabelTarget
from apercu.training.degeneracy import CLASSIFIERS, DegenerateSolution
from apercu.training.module import TrainingModule
from apercu.types import Images, Logits


@final
class DefenceTraining(TrainingModule):
    """A network learns a defence; what it should answer, labels or the classifier say.

    Args:
        network: what is trained, of the classifier's own structure.
        classifier: the undefended one.
        settings: defence and schedule.
        seed: of all draws.
    """

    degenerate: ClassVar[DegenerateSolution] = CLASSIFIERS
    trained_buffers: ClassVar[str] = ""

    def __init__(
        self, network: nn.Module, classifier: Classifier, settings: DefenceSettings, seed: int
    ) -> None:
        super().__init__(network, classifier, settings, seed)
        self.settings: DefenceSettings
        if settings.wanted == "labels":
            self.target_of = LabelTarget(classifier)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        generator = self.step_generator()
        images, labels = (batch, None) if self.target_of is None else batch
        images = self.settings.views(images, generator)
        seed = int(torch.randint(2**31, (), generator=generator))
        if not self.settings.scratch:
            freeze_batchnorm(self.network)
        lesson = self.make_batch(images, labels, seed)
        terms = self.settings.defence.compute_losses(lesson)
        with torch.no_grad():
            seen = self.compute_inference_logits(images).argmax(1)
        classes = len(set(seen.tolist())) / len(set(lesson.labels.tolist()))
        right = (seen == lesson.labels).float().mean()
        self.log_terms(terms, {"right": right, "classes": torch.tensor(classes)})
        return torch.stack(list(terms.values())).sum(0).mean()

    def make_batch(self, images: Images, labels: Tensor | None, seed: int) -> DefenceBatch:
        """What a batch teaches."""
        if labels is None:
            with torch.no_grad():
                wanted = self.classifier.predict_probabilities(images)
        else:
            wanted = F.one_hot(labels, len(self.classifier.classes)).to(images)
        return DefenceBatch(
            self.compute_logits, self.compute_inference_logits, images, wanted, seed
        )

    def compute_logits(self, images: Images) -> Logits:
        """The network in the mode that it is in."""
        known = self.classifier.network
        shown = normalise(images, known.input).contiguous(memory_format=torch.channels_last)
        return convert_to_logits(self.network(shown), known.output, count=len(images))

    def compute_inference_logits(self, images: Images) -> Logits:
        """The network as it will be used."""
        with _inference_mode(self.network):
            return self.compute_logits(images)

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        lesson = self.make_batch(images, None, self.seed)
        tiles = []
        for shown in (images, self.settings.defence.make_hard_images(lesson)):
            sure, top = self.compute_inference_logits(shown).softmax(1)[0].max(0)
            title = self.classifier.classes[int(top)].partition(",")[0]
            picture = render.to_image(shown[0].cpu())
            tiles.append(render.Tile(picture, f"{title} {sure:.2f}"))
        return tiles


def freeze_batchnorm(network: nn.Module) -> None:
    """Batch norms keep their statistics."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@contextmanager
def _inference_mode(network: nn.Module) -> Iterator[None]:
    """The network in inference, its modules as they were afterwards."""
    learning = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in learning:
            module.training = True
