"""Folders of chest films, as `prepare.py` leaves them, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from apercu.classifiers import InputSpec
from apercu.classifiers.preprocessing import fit_image
from apercu.images import open_images

CLASSES = ("normal", "pneumonia")
HOSPITALS = ("kermany", "nih")


@dataclass(frozen=True, eq=False)
class Films:
    """Films of some patients.

    Attributes:
        images: `films × 1 × height × width` in [0, 1].
        labels: places in CLASSES.
        hospitals: places in HOSPITALS.
    """

    images: Tensor
    labels: Tensor
    hospitals: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, hospital: str) -> Films:
        chosen = self.hospitals == HOSPITALS.index(hospital)
        return Films(self.images[chosen], self.labels[chosen], self.hospitals[chosen])


def read_films(folder: Path, spec: InputSpec) -> Films:
    """All films of one part."""
    items = list(open_images(folder, channels=1))
    hospitals = [Path(item.name).name.partition("-")[0] for item in items]
    return Films(
        torch.stack([fit_image(item.picture, spec, "squash") for item in items]),
        torch.tensor([CLASSES.index(str(item.label)) for item in items]),
        torch.tensor([HOSPITALS.index(name) for name in hospitals]),
    )
