"""Our explainers and metrics in the shapes that captum, Quantus and torchmetrics know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric

from apercu.classifiers import Classifier
from apercu.errors import ConfigError, TargetError
from apercu.explainers.base import TrainedExplainer
from apercu.methods import Explainer
from apercu.types import Images, Logits, Maps, Scores


def explain_func(
    explainer: TrainedExplainer[Any, Any] | Explainer, classifier: Classifier | None = None
) -> Callable[..., NDArray[np.float32]]:
    """An `explain_func` for Quantus: (model, inputs, targets) → `batch × 1 × height × width`.

    Quantus' inputs must be images in [0, 1]; the model it passes is not looked at, since a trained
    explainer needs none and a method asks `classifier`. What Quantus finds by changing the model's
    weights therefore means nothing here; `apercu.metrics.randomisation` does that.

    Args:
        explainer: a trained explainer, or any method.
        classifier: whom a method asks.

    Raises:
        ConfigError: a method without a classifier.
    """
    if isinstance(explainer, TrainedExplainer):
        attribute: Callable[[Tensor, Tensor], Tensor] = explainer.attribute
    elif classifier is not None:
        attribute = BoundMethod(explainer, classifier).attribute
    else:
        raise ConfigError(f"explain_func: {explainer!r} needs the classifier it asks")

    def explain(model: Any, inputs: Any, targets: Any, **_: Any) -> NDArray[np.float32]:
        images = torch.as_tensor(inputs, dtype=torch.float32)
        indices = torch.as_tensor(targets, dtype=torch.long).flatten()
        return attribute(images, indices).detach().cpu().numpy()[:, None]

    return explain


class ClassifierModule(nn.Module):
    """A classifier as the module that other libraries expect: images in [0, 1] → logits."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.device_follower = nn.Parameter(torch.zeros(0, device=classifier.device))

    def forward(self, images: Images) -> Logits:
        return self.classifier(images.clamp(0, 1))


def as_module(classifier: Classifier) -> nn.Module:
    """For foolbox's `PyTorchModel(…, bounds=(0, 1))` and the Adversarial Robustness Toolbox's
    `PyTorchClassifier(…, clip_values=(0, 1))`; normalisation stays behind the door."""
    return ClassifierModule(classifier).eval()


class MeanScore(Metric):
    """Any of our metrics as a `torchmetrics.Metric`: the mean over all images, on all processes.

    Args:
        metric: a function of `apercu.metrics`, anything → one score per image.

    Example:
        >>> from apercu.metrics import box_iou
        >>> mean = MeanScore(box_iou)
        >>> mean.update(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]]))
        >>> mean.compute()
        tensor(0.3333, dtype=torch.float64)
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    count: Tensor

    def __init__(self, metric: Callable[..., Scores], **settings: Any) -> None:
        super().__init__(**settings)
        self.metric = metric
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, *arguments: Any, **settings: Any) -> None:
        """Takes in one batch, given to the metric as it is."""
        scores = self.metric(*arguments, **settings)
        self.total += scores.detach().double().sum()
        self.count += scores.numel()

    def compute(self) -> Tensor:
        """The mean over all images so far."""
        return self.total / self.count
