"""What a mask explainer answers: a map, and the box around what reaches the level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.deploy.export.graphs import TOP
from apercu.deploy.inference import InferenceEngine
from apercu.deploy.serving.answering import DIGITS, Answering, Known, Record, shown_map
from apercu.deploy.serving.facts import Facts
from apercu.deploy.serving.orders import Wanted
from apercu.deploy.serving.seen import Seen
from apercu.explain.explanation import tight_box
from apercu.types import Images, Logits, Targets


@final
class MaskAnswering(Answering):
    """Masks of the classes that are asked for, or of those seen most.

    Args:
        engine: of a run, or of an export.
    """

    def __init__(self, engine: InferenceEngine) -> None:
        super().__init__(Facts.of_engine(engine))
        self.engine = engine

    def read(self, images: Images, batch: Sequence[Seen]) -> tuple[Logits, list[Tensor]]:
        first = [(*seen.wanted.targets, TOP)[0] for seen in batch]
        return self.engine.predict_logits(images, torch.tensor(first))

    def choose(self, wanted: Wanted, answers: Float[Tensor, " classes"]) -> Targets:
        if wanted.targets:
            return torch.tensor(wanted.targets)
        return answers.topk(min(wanted.top, len(answers))).indices

    def explain(self, known: Known) -> list[list[Record]]:
        masks = self.engine.compute_masks(known.features, known.targets).cpu()
        found = []
        for seen, targets, several in zip(known.seen, known.targets.tolist(), masks, strict=True):
            wanted = seen.wanted
            found.append(
                [
                    {
                        "index": target,
                        "box": tight_box(mask, wanted.level, seen.size),
                        "area": round(float(mask.mean()), DIGITS),
                        "map": shown_map(mask, wanted.format or "png"),
                    }
                    for target, mask in zip(targets, several, strict=True)
                ]
            )
        return found
