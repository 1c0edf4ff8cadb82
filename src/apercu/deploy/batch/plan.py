"""Which images belong together: shards of the result, and units that are explained at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """Images that are explained together: the smallest work that is kept or done again.

    Attributes:
        shard: that they belong to.
        number: in that shard.
        start: the first image.
        stop: one past the last image.
    """

    shard: int
    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """Images, cut into shards and units in the order of the source, the same in every attempt.

    Attributes:
        images: how many there are.
        shard: images per shard.
        batch: images per unit.
    """

    images: int
    shard: int
    batch: int

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.images // self.shard)

    def rows(self, shard: int) -> range:
        """The images of a shard.

        >>> Plan(25, 10, 4).rows(2)
        range(20, 25)
        """
        return range(shard * self.shard, min((shard + 1) * self.shard, self.images))

    def split_into_units(self, shard: int) -> Iterator[Unit]:
        """The units of a shard, in order.

        >>> [len(unit) for unit in Plan(25, 10, 4).units(0)]
        [4, 4, 2]
        """
        rows = self.rows(shard)
        for number, start in enumerate(range(rows.start, rows.stop, self.batch)):
            yield Unit(shard, number, start, min(start + self.batch, rows.stop))
