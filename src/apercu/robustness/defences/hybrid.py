"""Hybrid training: each image also in another representation, such as a halftone."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Generator

from apercu.filters import NONE, parse_filter
from apercu.robustness.defences.base import Defence, DefenceBatch, FilterName
from apercu.types import Images, Scores


@final
class Hybrid(Defence):
    """Trains with clean images and with their copies in other representations, half and half.

    Halftones follow Huang et al. (2020), low resolution and strong compression
    follow Liao and Huang (2020).

    Attributes:
        representations: filters; one of them is drawn for each image.
    """

    form: Literal["hybrid"] = "hybrid"
    representations: tuple[FilterName, ...] = Field(("floyd_steinberg",), min_length=1)

    @property
    def test_filters(self) -> tuple[str, ...]:
        return (NONE, *self.representations)

    def compute_losses(self, batch: DefenceBatch) -> dict[str, Scores]:
        images = torch.cat([batch.images, self.make_hard_images(batch)])
        clean, represented = batch.training_logits(images).chunk(2)
        return {
            "honest": batch.compute_loss(clean) / 2,
            "represented": batch.compute_loss(represented) / 2,
        }

    @torch.no_grad()
    def make_hard_images(self, batch: DefenceBatch) -> Images:
        images, generator = batch.images, Generator().manual_seed(batch.seed)
        drawn = torch.randint(len(self.representations), (len(images),), generator=generator)
        filtered = images.clone()
        for number, name in enumerate(self.representations):
            filter, rows = parse_filter(name), drawn.to(images.device) == number
            if filter is not None and rows.any():
                filtered[rows] = filter(images[rows])
        return filtered
