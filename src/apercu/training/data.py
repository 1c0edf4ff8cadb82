"""Training images in an order that depends on seed and step alone, so that training can resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from apercu.classifiers.distillation_data import PreparedImages
from apercu.classifiers.names import ClassNames
from apercu.classifiers.preprocessing import FitMode
from apercu.errors import ApercuError, ImageError, ImagesError, RunError
from apercu.images import ImageSource, Item
from apercu.progress import ProgressCallback, ignore_progress
from apercu.types import Images, Picture

MAX_UNUSABLE = 0.5
"""Fraction of unreadable images above which training stops."""

FEWEST_JUDGED = 8
"""Number of images held out below which the quality of a result is not stated."""
MAX_HELD_OUT = 96
"""Images that are kept from training, at most; never more than a twentieth of all."""

MAX_CACHED_BYTES = 512 << 20
"""Prepared images are kept in memory up to this size, and read again at every use above it."""


SEED_STEP = 1_000_003
"""Distance of the random streams of two seeds: more draws than any training has."""

FORWARD_BATCH = 8
"""Images that go through a network together where no gradient is needed."""

_LOST_READER = "DataLoader worker (pid"
"""How PyTorch begins the error of a process that was killed."""

TargetFunction: TypeAlias = Callable[[int, Item], Any]
"""From an index in the source and the image there to the target of a network."""


@runtime_checkable
class ImagePreparer(Protocol):
    """What prepares pictures: a classifier, or anything else with this method."""

    def prepare(self, picture: Picture, fit: FitMode = "squash") -> Tensor: ...


@dataclass(frozen=True)
class LabelTarget:
    """Returns the class of each image from its label.

    Args:
        names: the names of the classes.
    """

    names: ClassNames

    def __call__(self, index: int, item: Item) -> int:
        """Return the class of an image; raises ImagesError where it has no label."""
        if item.label is None:
            raise ImagesError(f"{item.name}: has no label")
        return self.names.find_label(item.label)


class TrainingImages(Dataset[Any]):
    """Prepared images of a source by index; an unreadable one is replaced by its neighbour.

    Args:
        source: the source of the pictures.
        classifier: prepares the pictures.
        indices: indices of the images in the source; all when None.
        target_of: returns the target that comes with each image; images alone where None.

    Attributes:
        unusable: reasons why images were replaced, by index in the source; of this process alone.
    """

    def __init__(
        self,
        source: ImageSource,
        classifier: ImagePreparer,
        indices: Sequence[int] | None = None,
        *,
        target_of: TargetFunction | None = None,
    ) -> None:
        self.source = source
        self.classifier = classifier
        self.indices = range(len(source)) if indices is None else indices
        self.target_of = target_of
        self.unusable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected an index of {len(self)} images, got {index}")
        tries, reason = max(1, int(MAX_UNUSABLE * len(self))), ""
        for offset in range(tries):
            position = self.indices[(index + offset) % len(self)]
            try:
                return self._read(position)
            except (ImageError, ImagesError) as error:
                self.unusable[position] = reason = str(error)
        raise ImagesError(
            f"{self.source.name}: {tries} images in a row cannot be used, the last because {reason}"
        )

    def _read(self, position: int) -> Any:
        item = self.source[position]
        image = self.classifier.prepare(item.picture)
        return image if self.target_of is None else (image, self.target_of(position, item))


@contextmanager
def describe_reading_errors(run: Path) -> Iterator[None]:
    """Turn what PyTorch raises of the processes that read images into errors of one line.

    Args:
        run: the folder of the training, which keeps what is done.

    Raises:
        RunError: such a process was killed.
        ApercuError: such a process raised this error; PyTorch puts a traceback into its message.
    """
    try:
        yield
    except ApercuError as error:
        error.args = (_strip_traceback(error), *error.args[1:])
        raise
    except (ConnectionError, EOFError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith(_LOST_READER):
            raise
        raise RunError(
            f"{run}: a process that reads images was killed; is there enough memory, and shared "
            "memory (of a container: --shm-size)? The folder keeps what is done; the same command "
            "with --resume goes on"
        ) from error


def _strip_traceback(error: ApercuError) -> str:
    """Return the message of an error without the traceback of the process that raised it."""
    text, name = str(error), f"{type(error).__module__}.{type(error).__qualname__}: "
    is_copy = text.startswith("Caught ") and name in text
    return text.rpartition(f"\n{name}")[2].strip() if is_copy else text


def cache_in_memory(
    images: TrainingImages, report: ProgressCallback = ignore_progress
) -> PreparedImages:
    """Return the same images, read once and kept if they take less than `MAX_CACHED_BYTES`.

    Args:
        images: images without targets.
        report: receives how many images are read, and how many there are.

    Returns:
        The images.
    """
    if not len(images) or images[0].nbytes * len(images) > MAX_CACHED_BYTES:
        return images
    cached = []
    for index in range(len(images)):
        cached.append(images[index])
        report("reading images", index + 1, len(images))
    return cached


def report_batches(
    batches: Iterable[Images], name: str, count: int, report: ProgressCallback
) -> Iterator[Images]:
    """Yield the same batches, and report how many images are done.

    Args:
        batches: the batches.
        name: name of the work.
        count: number of all images.
        report: receives the name, the images that are done, and the images in all.

    Yields:
        The batches.
    """
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        report(name, done, count)


def iterate_batches(
    images: TrainingImages, count: int, numbers: Iterable[int] | None = None
) -> Iterator[Images]:
    """Yield batches of the first `count` images of a seeded shuffle.

    Args:
        images: images without targets.
        count: number of images that are used, at most all.
        numbers: numbers of the batches, from 0; all when None.

    Returns:
        An iterator over batches, `batch × channels × height × width`.
    """
    count = min(count, len(images))
    numbers = range(-(-count // FORWARD_BATCH)) if numbers is None else numbers
    order = list(islice(EndlessSampler(len(images), seed=0), count))
    for number in numbers:
        indices = order[number * FORWARD_BATCH : (number + 1) * FORWARD_BATCH]
        yield torch.stack([images[index] for index in indices])


class Split(NamedTuple):
    """A split of images into two parts, as indices.

    Attributes:
        training: images to train on.
        held_out: images kept from training, to measure what was trained.
    """

    training: list[int]
    held_out: list[int]


def split_held_out(length: int, seed: int) -> Split:
    """Split so many images into those to train on and those held out.

    Raises:
        ImagesError: there are fewer than two images.
    """
    if length < 2:
        raise ImagesError(f"expected at least 2 images to train on, got {length}")
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
    kept = max(1, min(MAX_HELD_OUT, length // 20))
    return Split(sorted(order[kept:]), sorted(order[:kept]))


@dataclass(frozen=True)
class EndlessSampler(Sampler[int]):
    """Yields indices in shuffled passes, without end, from any start; each rank gets its own share.

    Args:
        length: number of images.
        seed: seed of the shuffling.
        start: indices of this rank that have been used already.
        rank: number of this process, from 0.
        ranks: number of processes.
    """

    length: int
    seed: int
    start: int = 0
    rank: int = 0
    ranks: int = 1

    def __iter__(self) -> Iterator[int]:
        position = self.start * self.ranks + self.rank
        shuffled, order = -1, torch.empty(0)
        while True:
            if position // self.length != shuffled:
                shuffled = position // self.length
                generator = torch.Generator().manual_seed(self.seed * SEED_STEP + shuffled)
                order = torch.randperm(self.length, generator=generator)
            yield int(order[position % self.length])
            position += self.ranks
