"""Our explainers and metrics in the form that Quantus, foolbox and torchmetrics expect.

For captum's form see `apercu.methods.BoundMethod`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.extras import require_extra
from apercu.methods import BoundMethod, MapExplainer
from apercu.types import Images, Logits, Scores

require_extra("torchmetrics", "interop")

from torchmetrics import Metric  # noqa: E402


def explain_func(
    explainer: TrainedExplainer[Any, Any] | MapExplainer, classifier: Classifier | None = None
) -> Callable[..., NDArray[np.float32]]:
    """Return an `explain_func` for Quantus.

    The inputs of Quantus must be images in [0, 1]. The model that Quantus passes is not used: a
    trained explainer needs none, and a method queries `classifier`. What Quantus measures by
    changing the weights of the model is therefore meaningless here; use
    `apercu.metrics.randomisation` for that.

    Args:
        explainer: a trained explainer, or any method.
        classifier: the classifier that a method explains.

    Returns:
        A function of model, inputs and targets to maps, `batch × 1 × height × width`.

    Raises:
        ConfigError: a method is given without a classifier.
    """
    if isinstance(explainer, TrainedExplainer):
        attribute: Callable[[Tensor, Tensor], Tensor] = explainer.attribute
    elif classifier is not None:
        attribute = BoundMethod(explainer, classifier).attribute
    else:
        raise ConfigError(
            f"explain_func: {explainer!r} needs the classifier that it explains; "
            "pass it as the second argument"
        )

    def explain(model: Any, inputs: Any, targets: Any, **_: Any) -> NDArray[np.float32]:
        images = torch.as_tensor(inputs, dtype=torch.float32)
        indices = torch.as_tensor(targets, dtype=torch.long).flatten()
        return attribute(images, indices).detach().cpu().numpy()[:, None]

    return explain


class ClassifierModule(nn.Module):
    """A classifier as a PyTorch module, from images in [0, 1] to logits."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.device_follower = nn.Parameter(torch.zeros(0, device=classifier.device))

    def forward(self, images: Images) -> Logits:
        """Return the logits of images, whose pixels are clamped to [0, 1]."""
        return self.classifier(images.clamp(0, 1))


def as_module(classifier: Classifier) -> nn.Module:
    """Return a classifier as the module that attack libraries expect.

    It fits foolbox's `PyTorchModel(…, bounds=(0, 1))` and the Adversarial Robustness Toolbox's
    `PyTorchClassifier(…, clip_values=(0, 1))`. The classifier normalises the images itself.
    """
    return ClassifierModule(classifier).eval()


class MeanScore(Metric):
    """Any of our metrics as a `torchmetrics.Metric`: the mean over all images of all processes.

    Args:
        metric: a function of `apercu.metrics` that returns one score per image.
        settings: the settings of `torchmetrics.Metric`.

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
        """Add one batch; the arguments are passed to the metric as they are."""
        scores = self.metric(*arguments, **settings)
        self.total += scores.detach().cpu().double().sum().to(self.total.device)
        self.count += scores.numel()

    def compute(self) -> Tensor:
        """Return the mean over all images so far."""
        return self.total / self.count
