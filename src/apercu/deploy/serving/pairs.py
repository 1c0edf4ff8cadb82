"""What an explainer of counterparts answers: both images, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from apercu import render
from apercu.deploy.inference import Predictor
from apercu.deploy.serving.answering import DIGITS, Answering, Known, Record, shown_map, text64
from apercu.deploy.serving.facts import Facts
from apercu.deploy.serving.orders import Wanted
from apercu.deploy.serving.seen import Seen
from apercu.errors import TargetError
from apercu.explainers.counterfactual import CounterfactualExplainer
from apercu.types import Images, Logits, Picture, Targets


@final
class PairAnswering(Answering):
    """Counterparts for the classes that are asked for, or for the runners-up.

    Args:
        reading: of an explainer that changes images.
        explainer: the same one.
    """

    def __init__(self, reading: Predictor, explainer: CounterfactualExplainer[Any, Any]) -> None:
        super().__init__(Facts.of_explainer(explainer, reading))
        self.reading = reading
        self.explainer = explainer

    def read(self, images: Images, batch: Sequence[Seen]) -> tuple[Logits, list[Tensor]]:
        return self.reading(images)

    def choose(self, wanted: Wanted, answers: Float[Tensor, " classes"]) -> Targets:
        seen, *others = answers.argsort(descending=True).tolist()
        if seen in wanted.targets:
            raise TargetError(
                f"target: the image is seen as {self.classes[seen]} already; choose another class"
            )
        return torch.tensor(wanted.targets or others[: wanted.top])

    def explain(self, known: Known) -> list[list[Record]]:
        count = known.targets.shape[1]
        pairs = self.explainer.counterparts(
            known.images.repeat_interleave(count, 0),
            known.targets.flatten(),
            logits=known.answers.repeat_interleave(count, 0),
        )
        found: list[list[Record]] = []
        for place, seen in enumerate(known.seen):
            found.append([])
            for row in range(place * count, (place + 1) * count):
                strip = pairs.strip[:, row]
                record: Record = {
                    "index": int(pairs.target[row]),
                    "seen": self.classes[int(pairs.predicted[row])],
                    "change": round(float(pairs.maps[row].mean()), DIGITS),
                    "map": shown_map(pairs.maps[row], seen.wanted.format or "png"),
                    "similar": _png(strip[0]),
                    "adversarial": _png(strip[-1]),
                    "strip": [_png(picture) for picture in strip],
                }
                if self.reading.classifier is not None:
                    shares = self.reading.classifier(strip).softmax(1)[:, record["index"]]
                    record["probabilities"] = [round(share, DIGITS) for share in shares.tolist()]
                found[-1].append(record)
        return found


def _png(picture: Picture) -> str:
    return text64(render.encode_image(render.to_image(picture)))
