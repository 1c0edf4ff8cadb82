"""Explains image after image into a folder; what cannot be read is told and left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError, ImagesError, InputError
from apercu.explain.answer import Answer
from apercu.explain.pick import Pick
from apercu.explain.sheets import PAGE, Sheets
from apercu.explainers.mask import MaskExplainer
from apercu.output import write
from apercu.types import Images

TOP, ALL = "top", "all"


@dataclass(frozen=True)
class Asked:
    """What is asked about every image.

    Args:
        target: `top`, `all`, or a class by name, identifier or index.
        top: `all` means every class up to this many, else this many that are seen most.
        level: where the mask is cut for boxes and crops, in (0, 1).

    Raises:
        ConfigError: a number is out of range.
    """

    target: str = TOP
    top: int = 20
    level: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"level: expected a number between 0 and 1, got {self.level}")
        if self.top < 1:
            raise ConfigError(f"top: expected at least 1 class, got {self.top}")


@dataclass
class Explaining:
    """One explainer at work on a list of images.

    Args:
        explainer: a trained explainer.
        asked: what is asked.
        out: the folder that is written.
        classifier: names the top classes where it is given; else the explainer does.
        warn: told in one line about each image that cannot be read.

    Raises:
        RunError: the explainer was trained for another classifier.
        TargetError: there is no such class.
    """

    explainer: MaskExplainer
    asked: Asked
    out: Path
    classifier: Classifier | None = None
    warn: Callable[[str], None] = field(default=print, repr=False)

    def __post_init__(self) -> None:
        passport = self.explainer.passport
        if self.classifier is not None:
            passport.check_classifier(self.classifier)
        target = self.asked.target
        self._fixed = None if target in (TOP, ALL) else passport.names.index_of(target)
        self._stems: set[str] = set()
        self._records: list[dict[str, Any]] = []

    def __call__(self, picks: Sequence[Pick], progress: Callable[[int, int], None]) -> None:
        """Writes the files of each image, contact sheets, and `explain.json`.

        Raises:
            ImageError: the only image cannot be read.
            ImagesError: some images could not be read; the others are finished.
            OutputError: the folder cannot be written.
        """
        sheets = Sheets(self.out, len(picks) * self._targets_per_image())
        failed = 0
        try:
            for done, chosen in enumerate(picks, start=1):
                try:
                    self._one(chosen, sheets)
                except InputError as error:
                    if len(picks) == 1:
                        raise
                    failed += 1
                    self.warn(f"{error}")
                if done % PAGE == 0:
                    self._write(sheets)
                progress(done, len(picks))
        finally:
            sheets.flush()
            self._write(sheets)
        if failed:
            raise ImagesError(
                f"{failed} of {len(picks)} images could not be read; the others are in {self.out}"
            )

    def _one(self, chosen: Pick, sheets: Sheets) -> None:
        name, picture = chosen.read()
        images = self.explainer.prepare(picture)[None]
        targets = self._targets(images)
        masks = self.explainer.attribute_classes(images, targets[None])[0].cpu()
        stem, answers = self._stem(name), []
        for target, mask in zip(targets.tolist(), masks, strict=True):
            title = self.explainer.passport.classes[target]
            answer = Answer(picture, target, title, mask, self.asked.level)
            several = self.asked.target == ALL
            answers.append(answer.save(self.out, f"{stem}.{answer.slug}" if several else stem))
            sheets.add(answer.tiles(name))
        self._records.append(
            {
                "image": name,
                "source": chosen.source.name,
                "width": picture.shape[2],
                "height": picture.shape[1],
                "answers": answers,
            }
        )

    def _targets_per_image(self) -> int:
        several = self.asked.target == ALL
        return min(self.asked.top, len(self.explainer.passport.classes)) if several else 1

    @torch.inference_mode()
    def _targets(self, images: Images) -> Tensor:
        """Indices of the classes to explain, the one seen most first."""
        if self._fixed is not None:
            return torch.tensor([self._fixed])
        if self.classifier is not None:
            logits = self.classifier(images.to(self.classifier.device))
        else:
            network = self.explainer.network
            features = network.encode(images.to(self.explainer.device))
            logits = network.gate.answers(features[-1])
        return logits[0].topk(self._targets_per_image()).indices.cpu()

    def _stem(self, name: str) -> str:
        """The file's name without its ending, numbered where another image has it already."""
        first = Path(name).stem
        stem, number = first, 2
        while stem.casefold() in self._stems:
            stem, number = f"{first}-{number}", number + 1
        self._stems.add(stem.casefold())
        return stem

    def _write(self, sheets: Sheets) -> None:
        passport = self.explainer.passport
        content = {
            "classifier": passport.spec,
            "fingerprint": passport.fingerprint,
            "level": self.asked.level,
            "map_size": list(passport.input.size),
            "sheets": sheets.files,
            "images": self._records,
        }
        write(self.out / "explain.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
