"""What a data set is: a number of images, in an order, each with a name."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import final

from apercu.types import Picture


class Dataset(ABC):
    """Images one at a time, in any order and from several threads; no picture is kept."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name_of(self, index: int) -> str:
        """What an image is called in the data set, whether it can be read or not."""

    @abstractmethod
    def read_picture(self, index: int) -> Picture:
        """An image as it was stored, upright.

        Raises:
            InputError: it cannot be read, and will not be the next time.
            UnreachableError: where it lies cannot be reached now.
        """

    @abstractmethod
    def compute_digest(self) -> str:
        """SHA-256 over the names and sizes of all files, or over how images are generated.

        Another one means other images.
        """


@final
@dataclass(frozen=True, eq=False)
class RandomSubset(Dataset):
    """Some images of a data set, in its order.

    Args:
        images: of which they are drawn.
        limit: how many, at most.
        seed: of the draw.
    """

    images: Dataset
    limit: int
    seed: int
    indices: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.images)
        drawn = random.Random(self.seed).sample(range(count), min(self.limit, count))
        object.__setattr__(self, "indices", tuple(sorted(drawn)))

    def __len__(self) -> int:
        return len(self.indices)

    def name_of(self, index: int) -> str:
        return self.images.name_of(self.indices[index])

    def read_picture(self, index: int) -> Picture:
        return self.images.read_picture(self.indices[index])

    def compute_digest(self) -> str:
        return self.images.compute_digest()
