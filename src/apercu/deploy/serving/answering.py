"""Images and what is asked about them → answers as JSON will hold them."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from apercu import render
from apercu.deploy.serving.facts import Facts
from apercu.deploy.serving.orders import Format, Wanted
from apercu.deploy.serving.seen import Seen
from apercu.errors import ApercuError, TargetError
from apercu.types import Images, Logits, Targets

MOST_NAMED = 5
"""Classes that every answer names, with their probabilities."""
DIGITS = 6
Record: TypeAlias = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Known:
    """Images that are asked about the same number of classes.

    Args:
        seen: the images, and what is asked.
        images: as the explainer takes them.
        answers: how strongly each class is seen.
        features: what `read` found besides, one row per image.
        targets: class indices.
    """

    seen: Sequence[Seen]
    images: Images
    answers: Logits
    features: list[Tensor]
    targets: Int[Tensor, "batch asked"]


class Answering(ABC):
    """Answers a batch of images.

    Args:
        facts: about the explainer.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.classes = facts.names.names

    @torch.inference_mode()
    def __call__(self, batch: Sequence[Seen]) -> list[Record | ApercuError]:
        """One record per image, or why there is none."""
        images = torch.stack([seen.image for seen in batch])
        answers, features = self.read(images, batch)
        images = images.to(answers.device)
        shares = answers.softmax(1).cpu()
        records: list[Record | ApercuError] = []
        groups: dict[int, list[tuple[int, Targets]]] = {}
        for place, seen in enumerate(batch):
            try:
                if seen.wanted.format is not None:
                    targets = self.choose(seen.wanted, answers[place].cpu())
                    groups.setdefault(len(targets), []).append((place, targets))
                records.append(self._about(seen, shares[place]))
            except TargetError as error:
                records.append(error)
        for group in groups.values():
            places, targets = [place for place, _ in group], torch.stack([t for _, t in group])
            known = Known(
                [batch[place] for place in places],
                images[places],
                answers[places],
                [values[places] for values in features],
                targets.to(images.device),
            )
            for place, found in zip(places, self.explain(known), strict=True):
                named = [self._named(int(one.pop("index")), shares[place]) | one for one in found]
                records[place]["answers"] = named  # type: ignore[index]
        return records

    def warm_up(self) -> None:
        """Explains one grey image, so that the first caller does not wait for what loads late."""
        spec = self.facts.input
        wanted = Wanted(top=min(2, len(self.classes)))
        self([Seen(torch.full((spec.channels, *spec.size), 0.5), spec.size, wanted, None)])

    @abstractmethod
    def read(self, images: Images, batch: Sequence[Seen]) -> tuple[Logits, list[Tensor]]:
        """How strongly each class is seen, and what `explain` needs to know of each image.

        Args:
            images: of the batch, as the explainer takes them.
            batch: says what will be asked.
        """

    @abstractmethod
    def choose(self, wanted: Wanted, answers: Float[Tensor, " classes"]) -> Targets:
        """The classes to explain in an image.

        Raises:
            TargetError: a class that was asked for cannot be explained in it.
        """

    @abstractmethod
    def explain(self, known: Known) -> list[list[Record]]:
        """Each image's answers, in the order of its targets, each with the `index` of its class."""

    def _about(self, seen: Seen, shares: Float[Tensor, " classes"]) -> Record:
        most = min(max(MOST_NAMED, seen.wanted.top), len(self.classes))
        height, width = seen.size
        record: Record = {
            "explainer": self.facts.kind,
            "read_by": self.facts.read_by,
            "size": {"width": width, "height": height},
            "top": [self._named(index, shares) for index in shares.topk(most).indices.tolist()],
        }
        if seen.picture is not None:
            record["picture"] = text64(seen.picture)
        return record

    def _named(self, index: int, shares: Float[Tensor, " classes"]) -> Record:
        share = round(float(shares[index]), DIGITS)
        return {"class": self.classes[index], "index": index, "probability": share}


def shown_map(map: Float[Tensor, "height width"], format: Format) -> Record:
    """A map in [0, 1] as a grey PNG, as rows of numbers, or as both."""
    values = map.cpu().numpy()
    record: Record = {}
    if format != "array":
        grey = Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
        record["png"] = text64(render.encode_image(grey, fast=True))
    if format != "png":
        record["array"] = values.astype(np.float64).round(DIGITS).tolist()
    return record


def text64(content: bytes) -> str:
    """Base64, as JSON can hold it."""
    return base64.b64encode(content).decode()
