"""A run explains frames, in PyTorch."""

from __future__ import annotations

from typing import final

import torch

from apercu.classifiers import Classifier
from apercu.explainers.mask import MaskExplainer
from apercu.export.graphs import TOP, MaskGraph
from apercu.serving.reading import Reading
from apercu.video.engine import Answer, Engine, Values


@final
class TorchEngine(Engine):
    """A trained explainer, which predicts itself where nobody hands its classifier in.

    Args:
        explainer: a mask explainer, on its device.
        classifier: the one it was trained for, where the caller gives it.

    Raises:
        RunError: the explainer was trained for another classifier.
    """

    def __init__(self, explainer: MaskExplainer, classifier: Classifier | None = None) -> None:
        self.device = explainer.device
        self.reading = Reading(explainer, classifier).to(str(self.device))
        self.graph = MaskGraph(explainer.network).eval()
        self.names = explainer.passport.names
        self.channels, self.size = explainer.passport.input.channels, explainer.passport.input.size

    @torch.inference_mode()
    def __call__(self, image: Values, target: int = TOP) -> Answer:
        images = torch.from_numpy(image)[None].to(self.device)
        targets = torch.tensor([target], device=self.device)
        answers, features = self.reading(images)
        (maps,) = self.graph.explained(images, features, answers, targets)
        return Answer(maps[0].cpu().numpy(), answers.softmax(1)[0].cpu().numpy())
