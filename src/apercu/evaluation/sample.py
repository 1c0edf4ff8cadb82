"""The images of a comparison: their targets, what is known of them, and the two halves."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ImagesError, NotFiniteError, TargetError
from apercu.images import Batch, ImageSource, batches
from apercu.images.stream import SkippingReader, list_names
from apercu.log import warn
from apercu.methods import TrueBox
from apercu.metrics import Metric
from apercu.metrics.pointing import true_regions
from apercu.progress import ProgressCallback, ignore_progress
from apercu.types import Images, Regions, Targets

READING_TITLE = "reading images"
"""Title of the work of reading a sample."""
_BOXES = "boxes.csv (file,xmin,ymin,xmax,ymax in pixels)"
TRUTHS: Mapping[str, tuple[str, str]] = {
    "boxes": ("true boxes", _BOXES),
    "region": ("true masks", "masks/NAME.png"),
    "any": ("true boxes or masks", f"{_BOXES} or masks/NAME.png"),
}
"""What truths are called, and the form in which a folder has them."""


@dataclass(frozen=True)
class SampleRecord:
    """What is remembered of one image between passes.

    Attributes:
        index: the place of the image in its source.
        name: the name of the image.
        target: the index of the class that is explained.
        has_boxes: whether true boxes are known.
        has_region: whether a true mask is known.
    """

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
    """Some images at the classifier's size, with the truth at the same size.

    Attributes:
        records: what is remembered of each image.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: the class that each image is explained for.
        true_boxes: true boxes in pixels, padded with empty ones; all empty where none is known.
        regions: true masks; empty where none is known.
        sizes: height and width of the pictures before they were prepared, `batch × 2`.
    """

    records: Sequence[SampleRecord]
    images: Images
    targets: Targets
    true_boxes: Float[Tensor, "batch truths 4"]
    regions: Regions
    sizes: Int[Tensor, "batch 2"]

    @property
    def objects(self) -> Regions:
        """The true mask where it is known, else the pixels of the true boxes."""
        boxed = true_regions(self.true_boxes, (self.images.shape[2], self.images.shape[3]))
        masked = self.regions.flatten(1).any(dim=1)[:, None, None]
        return torch.where(masked, self.regions, boxed)


@dataclass(frozen=True, eq=False)
class EvalSample:
    """The chosen images: one half to choose thresholds, the other half to report.

    Attributes:
        source: the source of the images.
        tune: the images that choose thresholds.
        test: the images that are reported.
        digest: a text that is equal only for the same images, targets and truths in the same
            halves.
        has_labels: whether the targets are true labels; else they are predicted classes.
        left_out: the names of the images in whose place others were drawn, or none, as they cannot
            be read.
    """

    source: ImageSource
    tune: tuple[SampleRecord, ...]
    test: tuple[SampleRecord, ...]
    digest: str
    has_labels: bool = True
    left_out: tuple[str, ...] = ()

    @property
    def everything(self) -> tuple[SampleRecord, ...]:
        """The images of both halves, in the order of the source."""
        return tuple(sorted(self.tune + self.test, key=lambda record: record.index))

    def read_batches(
        self, classifier: Classifier, records: Sequence[SampleRecord], batch_size: int
    ) -> Iterator[EvalBatch]:
        """Read images again, some at a time, so that a sample of any size fits in memory."""
        indices = [record.index for record in records]
        read = batches(self.source, classifier.prepare, batch_size, indices=indices)
        for number, batch in enumerate(read):
            of_batch = records[number * batch_size :][: len(batch.names)]
            yield _make_batch(batch, of_batch, classifier.device)


def draw_sample(
    classifier: Classifier,
    source: ImageSource,
    limit: int | None,
    seed: int,
    *,
    halves: bool = True,
    predicted: bool = False,
    report: ProgressCallback = ignore_progress,
) -> EvalSample:
    """Choose `limit` images at random, and read each once.

    They are split into halves, of which one chooses thresholds; without `halves` all are reported.
    Targets are the true labels where the source has them, else the predicted classes; with
    `predicted` always these. For an image that cannot be read, or has no finite logits, the next
    one of its half is drawn, as long as there are any; a warning says so once.

    Raises:
        ImagesError: there are fewer than two images to split.
        ImageError: no image can be read, or none of the first `FIRST_UNREADABLE`.
        TargetError: a label is no class of the classifier.
    """
    if halves and len(source) < 2:
        raise ImagesError(
            f"{source.name}: expected at least 2 images (half choose thresholds), got {len(source)}"
        )
    has_labels = source.labelled and not predicted
    unlabelled: set[int] = set()
    digest = hashlib.sha256()
    records: dict[int, SampleRecord] = {}
    reader = SkippingReader(source)
    while True:
        left_out = unlabelled | set(reader.errors)
        tune, test = split_indices(len(source), limit, seed, halves=halves, left_out=left_out)
        unread = [index for index in tune + test if index not in records]
        if not unread:
            break
        total = len(tune) + len(test)
        report(READING_TITLE, len(records), total)
        for read in reader.read_batches(classifier.prepare, 16, indices=unread):
            if has_labels:
                read = _leave_out_unlabelled(read, unlabelled)
            if not read.names or (classified := _classify(classifier, read, reader)) is None:
                continue
            batch, top = classified
            targets = _find_targets(classifier, source, batch, top, has_labels)
            new = _make_records(batch, targets)
            for record, content in zip(new, _pack_contents(batch), strict=True):
                digest.update(record.digest_text.encode() + content)
            records |= {record.index: record for record in new}
            report(READING_TITLE, len(records), total)
    if unlabelled:
        _report_unlabelled(source, unlabelled, len(records))
    if halves and left_out and reader.readable and not (tune and test):
        reason = next(iter(reader.errors.values()), "the others have no label")
        raise ImagesError(
            f"{source.name}: expected at least 2 images that can be read, as half choose "
            f"thresholds, got {len(records)}; {reason}"
        )
    reader.warn_left_out()
    return EvalSample(
        source=source,
        tune=tuple(records[index] for index in tune),
        test=tuple(records[index] for index in test),
        digest=digest.hexdigest(),
        has_labels=has_labels,
        left_out=list_names(source, left_out),
    )


def has_ground_truth(record: SampleRecord, metric: Metric, explainer: object = None) -> bool:
    """Whether the truth that a metric, or the true boxes, need is known of an image."""
    if isinstance(explainer, TrueBox) and not record.has_boxes:
        return False
    is_known = {
        "none": True,
        "boxes": record.has_boxes,
        "region": record.has_region,
        "any": record.has_boxes or record.has_region,
    }
    return is_known[metric.truth]


def describe_missing_truth(metric: Metric, sample: EvalSample, protocol: str | None) -> str:
    """Return which truth a metric needs, of which images, and in which form it can be given.

    Args:
        metric: the metric that cannot be measured.
        sample: the images.
        protocol: the protocol that names the metric; None for none.

    Returns:
        The line of an error.
    """
    subject = metric.name if protocol is None else f"the protocol {protocol}"
    truth, form = TRUTHS[metric.truth]
    records = sample.tune + sample.test
    is_partial = any(has_ground_truth(record, metric) for record in records)
    where = " in both halves of the images" if is_partial else ""
    other = "leave the metric out" if protocol is None else "choose another protocol"
    return (
        f"{sample.source.name}: {subject} needs {truth}{where}; add {form} to a folder of images, "
        f"or {other}"
    )


def split_indices(
    length: int,
    limit: int | None,
    seed: int,
    *,
    halves: bool = True,
    left_out: Collection[int] = (),
) -> tuple[list[int], list[int]]:
    """Split the indices of images at random into those that choose thresholds and the others.

    A limited sample takes from each half, so its images are in the same halves as without a limit.

    Args:
        length: the number of images in the source.
        limit: the number of images in both halves together; None for all.
        seed: the seed of the split.
        halves: False to leave the first half empty and to put all indices into the second.
        left_out: the indices in whose place the next ones of their half are taken.

    Returns:
        The ascending indices of both halves.
    """
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
    tune, test = (
        [index for index in half if index not in left_out]
        for half in (order[: length // 2], order[length // 2 :])
    )
    count = min(length, limit or length)
    first, second = tune[: count // 2], test[: count - count // 2]
    if halves:
        return sorted(first), sorted(second)
    spare = [*tune[len(first) :], *test[len(second) :]]
    return [], sorted([*first, *second, *spare[: count - len(first) - len(second)]])


def _leave_out_unlabelled(batch: Batch, unlabelled: set[int]) -> Batch:
    """Return the images of a batch that have a label, as some rows of a table may have none.

    The indices of the others are added to `unlabelled`.
    """
    rows = [row for row, label in enumerate(batch.labels) if label is not None]
    unlabelled.update(set(batch.indices).difference(batch.indices[row] for row in rows))
    return batch if len(rows) == len(batch.names) else batch.choose(rows)


def _report_unlabelled(source: ImageSource, unlabelled: Collection[int], labelled: int) -> None:
    """Warn of images without a label; raises ImagesError where there are no others."""
    if not labelled:
        raise ImagesError(f"{source.name}: no image that can be read has a label")
    tried = len(unlabelled) + labelled
    warn(f"{source.name}: {len(unlabelled)} of {tried} images have no label and are left out")


def _classify(
    classifier: Classifier, batch: Batch, reader: SkippingReader
) -> tuple[Batch, Targets] | None:
    """Return images with their predicted classes; those without finite logits are left out."""
    try:
        with torch.no_grad():
            return batch, classifier(batch.images.to(classifier.device)).argmax(dim=1)
    except NotFiniteError as error:
        for row in error.rows:
            reader.leave_out(batch.indices[row], error.name_row(batch.names[row]))
        rows = [row for row in range(len(batch.names)) if row not in error.rows]
        return _classify(classifier, batch.choose(rows), reader) if rows else None


def _find_targets(
    classifier: Classifier, source: ImageSource, batch: Batch, predicted: Targets, has_labels: bool
) -> list[int]:
    if has_labels:
        return [find_class(classifier, source, each) for each in batch.labels if each is not None]
    return [int(target) for target in predicted]


def find_class(classifier: Classifier, source: ImageSource, label: str | int) -> int:
    """Return the class of a classifier that a label of a source names.

    Raises:
        ImagesError: the classifier has no such class.
    """
    try:
        return classifier.names.find_label(label)
    except TargetError as error:
        raise ImagesError(
            f"{source.name}: the label {label!r} is no class of the classifier ({error}); expected "
            "images of its classes, or images without labels"
        ) from error


def _make_records(batch: Batch, targets: Sequence[int]) -> list[SampleRecord]:
    rows = zip(batch.indices, batch.names, targets, batch.boxes, batch.regions, strict=True)
    return [
        SampleRecord(index, name, target, _has_any(boxes), _has_any(region))
        for index, name, target, boxes, region in rows
    ]


def _has_any(truth: Tensor | None) -> bool:
    return truth is not None and bool((truth != 0).any())


def _pack_contents(batch: Batch) -> Iterator[bytes]:
    """Yield, per image, all bytes that its scores depend on besides its record."""
    for tensors in zip(batch.images, batch.boxes, batch.regions, strict=True):
        yield b"".join(t.contiguous().numpy().tobytes() for t in tensors if t is not None)


def _make_batch(batch: Batch, records: Sequence[SampleRecord], device: torch.device) -> EvalBatch:
    most = max(1, *(0 if boxes is None else len(boxes) for boxes in batch.boxes))
    true_boxes = torch.zeros(len(records), most, 4)
    regions = torch.zeros(len(records), *batch.images.shape[2:], dtype=torch.bool)
    for row, (boxes, region) in enumerate(zip(batch.boxes, batch.regions, strict=True)):
        if boxes is not None:
            true_boxes[row, : len(boxes)] = boxes
        if region is not None:
            regions[row] = region
    return EvalBatch(
        records=records,
        images=batch.images.to(device),
        targets=torch.tensor([record.target for record in records], device=device),
        true_boxes=true_boxes.to(device),
        regions=regions.to(device),
        sizes=torch.tensor(batch.sizes, device=device),
    )
