"""Chest films, as `prepare.py` leaves them in folders, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from apercu.classifiers import Classifier, InputSpec
from apercu.classifiers.preprocessing import fit_image
from apercu.images import batches, open_images
from apercu.metrics.pointing import true_regions

CLASSES = ("normal", "pneumonia")
HOSPITALS = ("kermany", "nih")
BATCH_SIZE = 64
"""Films that are read at once."""


@dataclass(frozen=True, eq=False)
class Films:
    """Films with their classes and the hospitals that they come from.

    Attributes:
        images: films in [0, 1], `films × 1 × height × width`.
        labels: true classes, as indices in CLASSES.
        hospitals: hospitals, as indices in HOSPITALS.
    """

    images: Tensor
    labels: Tensor
    hospitals: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select_hospital(self, hospital: str) -> Films:
        """Return the films of one of HOSPITALS, in the same order."""
        chosen = self.hospitals == HOSPITALS.index(hospital)
        return Films(self.images[chosen], self.labels[chosen], self.hospitals[chosen])


@dataclass(frozen=True, eq=False)
class MarkedFilms:
    """Films on which somebody marked a region.

    Attributes:
        images: films in [0, 1], `films × 1 × height × width`.
        regions: the marked pixels, `films × height × width`.
        patients: each film's patient, as `find_patient` returns it.
    """

    images: Tensor
    regions: Tensor
    patients: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def select(self, chosen: Tensor) -> MarkedFilms:
        """Return the films for which a mask of one truth value per film is true."""
        patients = [
            name
            for name, is_chosen in zip(self.patients, chosen.tolist(), strict=True)
            if is_chosen
        ]
        return MarkedFilms(self.images[chosen], self.regions[chosen], patients)


def read_films(folder: Path, spec: InputSpec) -> Films:
    """Return all films of one part of the data.

    Args:
        folder: one folder per class, in which names of files begin with the hospital.
        spec: the input of the classifier, whose size the films get.

    Returns:
        The films in the order of their names.
    """
    items = list(open_images(folder, channels=1))
    hospitals = [Path(item.name).name.partition("-")[0] for item in items]
    return Films(
        torch.stack([fit_image(item.picture, spec, "squash") for item in items]),
        torch.tensor([CLASSES.index(str(item.label)) for item in items]),
        torch.tensor([HOSPITALS.index(name) for name in hospitals]),
    )


def read_marked_films(classifier: Classifier, folder: Path) -> MarkedFilms:
    """Return the films of a folder with their boxes or outlines, at the classifier's size."""
    images, regions, names = [], [], []
    for batch in batches(open_images(folder, channels=1), classifier.prepare, BATCH_SIZE):
        names += batch.names
        images.append(batch.images)
        for boxes, region in zip(batch.boxes, batch.regions, strict=True):
            size = (batch.images.shape[2], batch.images.shape[3])
            regions.append(region if region is not None else true_regions(boxes[None], size)[0])
    patients = [find_patient(name) for name in names]
    return MarkedFilms(torch.cat(images), torch.stack(regions), patients)


def find_patient(name: str) -> str:
    """Return the patient's number, with which the name of a file of the NIH begins."""
    return Path(name).stem.removeprefix("nih-").partition("_")[0]
