"""Hybrid training: every image also in another representation."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Generator

from apercu.robustness.defences.base import Defence, DefenceBatch, FilterName
from apercu.robustness.plan import NONE, parse_filter
from apercu.types import Images, Scores


@final
class Hybrid(Defence):
    """Honest images beside their copies in other representations, half and half.

    Halftones are those of Huang et al. (2020), low resolution and strong compression those of
    Liao and Huang (2020).

    Attributes:
        representations: filters; each image is drawn one of them.
    """

    form: Literal["hybrid"] = "hybrid"
    representations: tuple[FilterName, ...] = Field(("floyd_steinberg",), min_length=1)

    @property
    def test_filters(self) -> tuple[str, ...]:
        return (NONE, *self.representations)

    def compute_losses(self, lesson: DefenceBatch) -> dict[str, Scores]:
        shown = torch.cat([lesson.images, self.make_hard_images(lesson)])
        honest, represented = lesson.training_logits(shown).chunk(2)
        return {
            "honest": lesson.compute_loss(honest) / 2,
            "represented": lesson.compute_loss(represented) / 2,
        }

    @torch.no_grad()
    def make_hard_images(self, lesson: DefenceBatch) -> Images:
        images, generator = lesson.images, Generator().manual_seed(lesson.seed)
        drawn = torch.randint(len(self.representations), (len(images),), generator=generator)
        shown = images.clone()
        for number, name in enumerate(self.representations):
            filter, rows = parse_filter(name), drawn.to(images.device) == number
            if filter is not None and rows.any():
                shown[rows] = filter(images[rows])
        return shown
