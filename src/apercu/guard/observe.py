"""One pass over images that gives all that a guard looks at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.network import check_logits
from apercu.errors import NoFeatureMapsError, TargetError, name_images
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.encoder import Predictor
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.guard.signals import SignalKind, list_kinds
from apercu.guard.summaries import Observation
from apercu.images import Batch, ImageSource
from apercu.images.stream import SkippingReader
from apercu.io import keep_tensors
from apercu.networks.graph_encoder import open_feature_maps
from apercu.progress import ProgressCallback
from apercu.types import Images, Logits, Maps, Targets

BATCH: Final = 16
"""Images that are observed together."""
FEWEST_LABELS: Final = 20
"""Smallest number of images with labels that set a temperature."""
DIGEST_BYTES: Final = 8
"""Bytes of the digest of one image."""
FITTED_TITLE: Final = "clean images"
CALIBRATION_TITLE: Final = "calibration images"
PARTS: Final = "observed"
"""Folder of what was observed, inside that of the guard, until the guard is fitted."""
PART: Final = 128
"""Images of one file in `PARTS`."""
DIGESTS: Final = "digests"
"""Name of the digests of images in a file in `PARTS`."""


class Observer:
    """Classifies images, explains them where there is an explainer, and keeps what it saw.

    With an explainer its encoder is observed, which any classifier has, black boxes too; without
    one the classifier's own network, where it shows its layers, and else the logits alone.

    Args:
        classifier: the classifier that is guarded.
        explainer: an explainer that was trained for it.

    Raises:
        RunError: the explainer was trained for another classifier.
    """

    def __init__(
        self, classifier: Classifier, explainer: TrainedExplainer[Any, Any] | None = None
    ) -> None:
        self.classifier, self.explainer = classifier, explainer
        self.predictor = None if explainer is None else Predictor(explainer, classifier)
        self.outputs = None
        if explainer is None:
            with suppress(NoFeatureMapsError):  # then the logits alone are observed
                self.outputs = open_feature_maps(classifier).with_output().to(classifier.device)

    @torch.no_grad()
    def __call__(self, images: Images) -> Observation:
        """Return what one pass gives on prepared images; see `observe`."""
        return self.observe(images)

    def observe(self, images: Images) -> Observation:
        """Return what one pass gives on prepared images, with gradients where they are enabled.

        Args:
            images: images at the classifier's size, `batch × channels × height × width`.

        Returns:
            The observation, on the classifier's device.

        Raises:
            ClassifierError: the images have another size or number of channels.
            ImageError: pixels are outside [0, 1] or not numbers.
            NotFiniteError: logits are NaN or infinite.
        """
        classifier = self.classifier
        images = images.to(classifier.device)
        subject = f"classifier {classifier.spec}: its output"
        if self.predictor is not None:
            logits, features = self.predictor(images)
            check_logits(subject, logits)
            return self.complete(images, logits, features)
        if self.outputs is None:
            return Observation(images, classifier(images))
        output, features = self.outputs(classifier.normalise(images))
        logits = classifier.network.meaning.convert_to_logits(output)
        check_logits(subject, logits)
        return Observation(images, logits, [maps.float() for maps in features])

    def complete(
        self, images: Images, logits: Logits, features: list[Tensor], masks: Maps | None = None
    ) -> Observation:
        """Return the observation of a pass that an engine has made already.

        Args:
            images: prepared images.
            logits: logits of the classifier.
            features: what the predictor of the explainer returned besides.
            masks: masks of the classes predicted most; computed where they are None.

        Returns:
            The observation.
        """
        explainer = self.explainer
        if not isinstance(explainer, MaskExplainer):
            return Observation(images, logits, features)
        if masks is None:
            masks = explainer.decode_classes(features, logits.argmax(1, keepdim=True))[:, 0]
        explained = explainer.network.gate.predict_logits(features[-1])
        return Observation(images, logits, features, masks, explained)


def find_labels(
    classifier: Classifier, source: ImageSource, labels: Sequence[str | int | None]
) -> list[int]:
    """Return the class of each image of a batch.

    Args:
        classifier: the classifier.
        source: where the images come from.
        labels: their labels, such as the names of their folders.

    Returns:
        Class indices; −1 where there is no label, where it is no class, and where the classifier
        does not choose one class.
    """
    is_value = classifier.output.name == "value"
    if not source.labelled or classifier.decision.is_multiple or is_value:
        return [-1] * len(labels)
    found = []
    for label in labels:
        try:
            found.append(-1 if label is None else classifier.names.find_label(label))
        except TargetError:  # a folder that is no class, such as a day
            found.append(-1)
    return found


class Classified(NamedTuple):
    """What a guard must know of images in order to calibrate confidences.

    Attributes:
        logits: logits of the images, `images × classes`.
        labels: their true classes; below 0 where they are not known.
        digests: digests of their pixels; see `digest_images`.
    """

    logits: Logits
    labels: Int64[Tensor, " images"]
    digests: Int64[Tensor, " images"]

    def select_labelled(self) -> tuple[Logits, Targets]:
        """Return logits and classes of the images whose class is known."""
        return self.logits[self.labels >= 0], self.labels[self.labels >= 0]

    def leave_out(self, count: int) -> Classified:
        """Return the same without the first images."""
        return Classified(*(values[count:] for values in self))


def classify_images(
    observer: Observer, reader: SkippingReader, report: ProgressCallback
) -> Classified:
    """Classify the images of a source that can be read, and digest their pixels.

    Args:
        observer: the classifier, with what stands before it.
        reader: reads the images.
        report: receives a title, the number of finished images, and that of all.

    Returns:
        Logits, class indices, −1 for none, and digests.

    Raises:
        ImageError: no image can be read.
    """
    classifier, source = observer.classifier, reader.source
    logits: list[Tensor] = []
    labels: list[int] = []
    digests: list[Tensor] = []
    report(CALIBRATION_TITLE, 0, len(source))
    for batch in reader.read_batches(classifier.prepare, BATCH):
        with name_images(batch.names):
            logits.append(observer(batch.images).logits.float().cpu())
        labels += find_labels(classifier, source, batch.labels)
        digests.append(digest_images(batch.images))
        report(CALIBRATION_TITLE, len(labels) + len(reader.errors), len(source))
    report(CALIBRATION_TITLE, len(source), len(source))
    reader.warn_left_out()
    return Classified(torch.cat(logits), torch.tensor(labels), torch.cat(digests))


class ObservedImages(NamedTuple):
    """Summaries of all signals, and what is known of the images, in their random order.

    Attributes:
        kinds: kinds of the signals.
        summaries: the numbers that each signal is fitted to, one row per image.
        images: logits, labels and digests of the images.
    """

    kinds: list[SignalKind]
    summaries: list[Tensor]
    images: Classified


def observe_images(
    observer: Observer,
    reader: SkippingReader,
    chosen: Sequence[int],
    folder: Path,
    key: str,
    report: ProgressCallback,
) -> ObservedImages:
    """Observe images part by part; parts that are in the folder are not observed again.

    Args:
        observer: makes the passes.
        reader: reads the images; a warning names those that it cannot read.
        chosen: indices of the images, in the order in which they are observed.
        folder: folder of the parts, which makes an interrupted fit go on.
        key: what the parts depend on besides the images.
        report: receives a title, the number of finished images, and that of all.

    Returns:
        The summaries of all signals.

    Raises:
        ImageError: no image can be read.
    """
    kinds: list[SignalKind] = []
    parts: list[dict[str, Tensor]] = []
    report(FITTED_TITLE, 0, len(chosen))
    for start in range(0, len(chosen), PART):
        indices = chosen[start : start + PART]
        prepare = observer.classifier.prepare
        if not (read := list(reader.read_batches(prepare, BATCH, indices=indices))):
            continue
        path = folder / f"{digest_batches(read, key)}.safetensors"
        if not kinds:
            kinds = list_kinds(observer(read[0].images[:1]), observer.classifier.network)
        observe = partial(_observe_part, observer, reader.source, read, kinds)
        parts.append(keep_tensors(path, observe, [DIGESTS, *(kind.name for kind in kinds)]))
        report(FITTED_TITLE, start + len(indices), len(chosen))
    reader.warn_left_out()
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    summaries = [joined[kind.name] for kind in kinds]
    images = Classified(joined["logits"], joined["labels"], joined[DIGESTS])
    return ObservedImages(kinds, summaries, images)


def _observe_part(
    observer: Observer, source: ImageSource, read: Sequence[Batch], kinds: Sequence[SignalKind]
) -> dict[str, Tensor]:
    classifier, numbers = observer.classifier, dict[str, list[Tensor]]()
    labels: list[int] = []
    for batch in read:
        with name_images(batch.names):
            observation = observer(batch.images)
        for name, values in _summarise(observation, kinds):
            numbers.setdefault(name, []).append(values.float().cpu())
        labels += find_labels(classifier, source, batch.labels)
    part = {name: torch.cat(values) for name, values in numbers.items()}
    digests = torch.cat([digest_images(batch.images) for batch in read])
    return part | {"labels": torch.tensor(labels), DIGESTS: digests}


def _summarise(
    observation: Observation, kinds: Sequence[SignalKind]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the numbers of each signal by its name, and the logits."""
    for kind in kinds:
        yield kind.name, kind.summarise(observation)
    yield "logits", observation.logits


def digest_batches(read: Sequence[Batch], key: str) -> str:
    """Return a digest of the pixels and labels of images, and of what else a file depends on.

    Args:
        read: the images.
        key: what else the file depends on.

    Returns:
        20 hexadecimal digits.
    """
    sha = hashlib.sha256(key.encode())
    for batch in read:
        sha.update(repr(batch.labels).encode())
        sha.update(batch.images.contiguous().numpy().tobytes())
    return sha.hexdigest()[:20]


def digest_images(images: Images) -> Int64[Tensor, " batch"]:
    """Return a digest of the pixels of each prepared image.

    Args:
        images: images on the CPU, `batch × channels × height × width`.

    Returns:
        The first 8 bytes of a SHA-256 for each image.
    """
    digests = [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images]
    numbers = [int.from_bytes(digest[:DIGEST_BYTES], "little", signed=True) for digest in digests]
    return torch.tensor(numbers, dtype=torch.int64)
