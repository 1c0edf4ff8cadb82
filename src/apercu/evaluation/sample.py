"""The images of a comparison: which, with what targets and truths, in what halves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ImagesError
from apercu.images import Batch, ImageSource, batches
from apercu.metrics.pointing import true_regions
from apercu.types import Images, Regions, Targets


@dataclass(frozen=True)
class Entry:
    """What is remembered of one image between passes."""

    index: int
    name: str
    target: int
    has_boxes: bool
    has_region: bool


@dataclass(frozen=True, eq=False)
class Trial:
    """Some images at the classifier's size, and what is true of them there."""

    entries: Sequence[Entry]
    images: Images
    targets: Targets
    truths: Float[Tensor, "batch truths 4"]
    """True boxes; filled up with empty ones, also for an image that has none."""
    regions: Regions
    """True masks; empty for an image that has none."""

    @property
    def objects(self) -> Regions:
        """The true mask where there is one, else the pixels of the true boxes."""
        boxed = true_regions(self.truths, (self.images.shape[2], self.images.shape[3]))
        masked = self.regions.flatten(1).any(dim=1)[:, None, None]
        return torch.where(masked, self.regions, boxed)


@dataclass(frozen=True, eq=False)
class Sample:
    """The chosen images: some to choose thresholds on, the others to report."""

    source: ImageSource
    tune: tuple[Entry, ...]
    test: tuple[Entry, ...]
    digest: str
    """Equal only for the same images, targets and truths in the same halves."""

    def trials(
        self, classifier: Classifier, entries: Sequence[Entry], size: int
    ) -> Iterator[Trial]:
        """Read the images again, a few at a time."""
        indices = [entry.index for entry in entries]
        found = batches(self.source, classifier.prepare, size, indices=indices)
        for number, batch in enumerate(found):
            yield _trial(batch, entries[number * size :][: len(batch.names)], classifier.device)


def draw(
    classifier: Classifier,
    source: ImageSource,
    limit: int | None,
    seed: int,
    *,
    halves: bool = True,
) -> Sample:
    """Choose `limit` images at random, and read each once.

    They are split into halves, of which one chooses thresholds; without `halves` all are reported.
    Targets are the true labels where the source has them, else the classifier's top class.

    Raises:
        ImagesError: there are fewer than two images to split.
        ImageError: an image cannot be read.
        TargetError: a label is no class of the classifier.
    """
    if halves and len(source) < 2:
        raise ImagesError(
            f"{source.name}: expected at least 2 images (half choose thresholds), got {len(source)}"
        )
    parts = split(len(source), limit, seed, halves=halves)
    digest = hashlib.sha256()
    entries: list[Entry] = []
    for batch in batches(source, classifier.prepare, 16, indices=parts[0] + parts[1]):
        entries += _entries(batch, _targets(classifier, source, batch))
        for entry, content in zip(entries[-len(batch.names) :], _contents(batch), strict=True):
            digest.update(f"{entry}".encode() + content)
    tune, test = tuple(entries[: len(parts[0])]), tuple(entries[len(parts[0]) :])
    return Sample(source, tune, test, digest.hexdigest())


def split(
    length: int, limit: int | None, seed: int, *, halves: bool = True
) -> tuple[list[int], list[int]]:
    """Which images choose thresholds and which are reported: two random halves, each in order.

    A limited sample takes from each half, so its images are in the same halves as without a limit.
    Without `halves` the first part is empty, and the second holds the images of both.
    """
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
    tune, test = order[: length // 2], order[length // 2 :]
    count = min(length, limit or length)
    tune, test = sorted(tune[: count // 2]), sorted(test[: count - count // 2])
    return (tune, test) if halves else ([], sorted(tune + test))


def _targets(classifier: Classifier, source: ImageSource, batch: Batch) -> list[int]:
    if source.labelled:
        return [classifier.index_of(label) for label in batch.labels if label is not None]
    with torch.no_grad():
        top = classifier(batch.images.to(classifier.device)).argmax(dim=1)
    return [int(target) for target in top]


def _entries(batch: Batch, targets: Sequence[int]) -> list[Entry]:
    truths = zip(batch.boxes, batch.regions, strict=True)
    known = [(_some(boxes), _some(region)) for boxes, region in truths]
    rows = zip(batch.indices, batch.names, targets, known, strict=True)
    return [Entry(index, name, target, *truth) for index, name, target, truth in rows]


def _some(truth: Tensor | None) -> bool:
    return truth is not None and bool((truth != 0).any())


def _contents(batch: Batch) -> Iterator[bytes]:
    """All that the scores of each image depend on, besides its entry."""
    for tensors in zip(batch.images, batch.boxes, batch.regions, strict=True):
        yield b"".join(t.contiguous().numpy().tobytes() for t in tensors if t is not None)


def _trial(batch: Batch, entries: Sequence[Entry], device: torch.device) -> Trial:
    most = max(1, *(0 if boxes is None else len(boxes) for boxes in batch.boxes))
    truths = torch.zeros(len(entries), most, 4)
    regions = torch.zeros(len(entries), *batch.images.shape[2:], dtype=torch.bool)
    for row, (boxes, region) in enumerate(zip(batch.boxes, batch.regions, strict=True)):
        if boxes is not None:
            truths[row, : len(boxes)] = boxes
        if region is not None:
            regions[row] = region
    return Trial(
        entries=entries,
        images=batch.images.to(device),
        targets=torch.tensor([entry.target for entry in entries], device=device),
        truths=truths.to(device),
        regions=regions.to(device),
    )
