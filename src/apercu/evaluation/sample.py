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
class SampleRecord:
    """What is remembered of one image between passes."""

    index: int
    name: str
    target: int
    has_boxes: bool
    has_region: bool

    @property
    def digest_text(self) -> str:
        """The record as the digest of a sample reads it.

        Folders of results hold digests, so this text stays as it is.
        """
        return (
            f"Entry(index={self.index!r}, name={self.name!r}, target={self.target!r}, "
            f"has_boxes={self.has_boxes!r}, has_region={self.has_region!r})"
        )


@dataclass(frozen=True, eq=False)
class EvalBatch:
    """Some images at the classifier's size, and what is true of them there."""

    records: Sequence[SampleRecord]
    images: Images
    targets: Targets
    true_boxes: Float[Tensor, "batch truths 4"]
    """True boxes; filled up with empty ones, also for an image that has none."""
    regions: Regions
    """True masks; empty for an image that has none."""

    @property
    def objects(self) -> Regions:
        """The true mask where there is one, else the pixels of the true boxes."""
        boxed = true_regions(self.true_boxes, (self.images.shape[2], self.images.shape[3]))
        masked = self.regions.flatten(1).any(dim=1)[:, None, None]
        return torch.where(masked, self.regions, boxed)


@dataclass(frozen=True, eq=False)
class EvalSample:
    """The chosen images: some to choose thresholds on, the others to report."""

    source: ImageSource
    tune: tuple[SampleRecord, ...]
    test: tuple[SampleRecord, ...]
    digest: str
    """Equal only for the same images, targets and truths in the same halves."""

    def read_batches(
        self, classifier: Classifier, records: Sequence[SampleRecord], batch_size: int
    ) -> Iterator[EvalBatch]:
        """Read the images again, a few at a time."""
        indices = [entry.index for entry in records]
        found = batches(self.source, classifier.prepare, batch_size, indices=indices)
        for number, batch in enumerate(found):
            yield _make_batch(
                batch, records[number * batch_size :][: len(batch.names)], classifier.device
            )


def draw_sample(
    classifier: Classifier,
    source: ImageSource,
    limit: int | None,
    seed: int,
    *,
    halves: bool = True,
) -> EvalSample:
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
    parts = split_indices(len(source), limit, seed, halves=halves)
    digest = hashlib.sha256()
    entries: list[SampleRecord] = []
    for batch in batches(source, classifier.prepare, 16, indices=parts[0] + parts[1]):
        entries += _make_records(batch, _find_targets(classifier, source, batch))
        for entry, content in zip(entries[-len(batch.names) :], _pack_contents(batch), strict=True):
            digest.update(entry.digest_text.encode() + content)
    tune, test = tuple(entries[: len(parts[0])]), tuple(entries[len(parts[0]) :])
    return EvalSample(source, tune, test, digest.hexdigest())


def split_indices(
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


def _find_targets(classifier: Classifier, source: ImageSource, batch: Batch) -> list[int]:
    if source.labelled:
        return [classifier.index_of(label) for label in batch.labels if label is not None]
    with torch.no_grad():
        top = classifier(batch.images.to(classifier.device)).argmax(dim=1)
    return [int(target) for target in top]


def _make_records(batch: Batch, targets: Sequence[int]) -> list[SampleRecord]:
    truths = zip(batch.boxes, batch.regions, strict=True)
    known = [(_has_any(boxes), _has_any(region)) for boxes, region in truths]
    rows = zip(batch.indices, batch.names, targets, known, strict=True)
    return [SampleRecord(index, name, target, *truth) for index, name, target, truth in rows]


def _has_any(truth: Tensor | None) -> bool:
    return truth is not None and bool((truth != 0).any())


def _pack_contents(batch: Batch) -> Iterator[bytes]:
    """All that the scores of each image depend on, besides its entry."""
    for tensors in zip(batch.images, batch.boxes, batch.regions, strict=True):
        yield b"".join(t.contiguous().numpy().tobytes() for t in tensors if t is not None)


def _make_batch(batch: Batch, records: Sequence[SampleRecord], device: torch.device) -> EvalBatch:
    most = max(1, *(0 if boxes is None else len(boxes) for boxes in batch.boxes))
    truths = torch.zeros(len(records), most, 4)
    regions = torch.zeros(len(records), *batch.images.shape[2:], dtype=torch.bool)
    for row, (boxes, region) in enumerate(zip(batch.boxes, batch.regions, strict=True)):
        if boxes is not None:
            truths[row, : len(boxes)] = boxes
        if region is not None:
            regions[row] = region
    return EvalBatch(
        records=records,
        images=batch.images.to(device),
        targets=torch.tensor([entry.target for entry in records], device=device),
        true_boxes=truths.to(device),
        regions=regions.to(device),
    )
