"""How often counterparts do to the classifier what they are meant to, and how much they change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ImagesError
from apercu.explainers.counterfactual import CounterfactualExplainer
from apercu.explainers.counterpart.objective import runner_up
from apercu.explainers.counterpart.training import measure_difference
from apercu.types import Images


@torch.inference_mode()
def measure_counterparts(
    explainer: CounterfactualExplainer[Any, Any], classifier: Classifier, batches: Iterable[Images]
) -> dict[str, float]:
    """Shares of images whose similar counterpart keeps the decision (`kept`), and whose
    adversarial one is seen as the runner-up (`flipped`); mean size of the difference.

    Raises:
        ImagesError: there are no images.
    """
    rows: list[dict[str, Tensor]] = []
    for images in batches:
        images = images.to(classifier.device)
        logits = classifier(images)
        seen = logits.argmax(1)
        wanted = runner_up(logits, seen)
        pair = explainer.counterparts(images, wanted, logits=logits)
        rows += [
            {
                "kept": (classifier(pair.stable).argmax(1) == seen).float().mean(),
                "flipped": (classifier(pair.adversarial).argmax(1) == wanted).float().mean(),
                **measure_difference(pair.maps),
                "weight": torch.tensor(float(len(images))),
            }
        ]
    if not rows:
        raise ImagesError("counterparts: expected at least one image to measure them on")
    weights = torch.stack([row.pop("weight") for row in rows])
    shares = weights / weights.sum()
    return {
        name: float(torch.stack([row[name].cpu() for row in rows]) @ shares) for name in rows[0]
    }
