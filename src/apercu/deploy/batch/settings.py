"""What is asked of a data set, and who works on it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from apercu.deploy.inference import InferenceEngine, open_engine
from apercu.errors import ConfigError
from apercu.explain.options import TOP

Format: TypeAlias = Literal["parquet", "zarr"]
MapEncoding: TypeAlias = Literal["png", "uint8", "float16"]
FORMATS: Final[tuple[Format, ...]] = ("parquet", "zarr")
MAPS: Final[tuple[MapEncoding, ...]] = ("png", "uint8", "float16")


@dataclass(frozen=True)
class BatchSettings:
    """What is asked; everything that the result depends on besides the run and the images.

    Args:
        target: `top`, or a class by name, identifier or index.
        level: where masks are cut for boxes, in (0, 1).
        format: of the shards.
        map: how a map is stored; arrays hold no PNG.
        shard: images in each file, or in each chunk.
        batch: images that are explained together.
        limit: only so many of the images, drawn at random.
        seed: of that draw.

    Raises:
        ConfigError: a value is out of range, or does not fit another.
    """

    target: str = TOP
    level: float = 0.5
    format: Format = "parquet"
    map: MapEncoding = "png"
    shard: int = 1000
    batch: int = 16
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"level: expected a number above 0 and below 1, got {self.level}")
        if self.format == "zarr" and self.map == "png":
            raise ConfigError("map: Zarr holds arrays; use uint8 or float16, or --format parquet")
        if self.shard < self.batch:
            raise ConfigError(
                f"shard: expected at least the images of a batch, {self.batch}, got {self.shard}"
            )
        for name, value in (("batch", self.batch), ("limit", self.limit)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Workers:
    """Who works; no row depends on it, but for the rounding of the last digit.

    Args:
        workers: threads that read and decode.
        threads: that explain, on the CPU; one core is left for reading and writing.
        device: `cpu` or `cuda`.
    """

    readers: int = field(default_factory=lambda: min(8, _count_cores()))
    threads: int = field(default_factory=lambda: max(1, _count_cores() - 1))
    device: str = "cpu"


@dataclass(frozen=True)
class ExplainerRef:
    """An explainer as it is named on a command line.

    Args:
        run: folder of a trained explainer, or one that `apercu export` wrote.
        classifier: SPEC of the explained classifier, where the explainer does not carry it.
    """

    run: Path
    classifier: str | None = None

    def open(self, device: str = "cpu") -> InferenceEngine:
        """Opens it, as `open_engine` does."""
        return open_engine(self.run, self.classifier, device)
