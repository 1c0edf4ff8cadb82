"""Settings of a batch, what its result depends on, and how many threads work on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict

from apercu.deploy.inference import ExplainerInfo
from apercu.devices import count_cores
from apercu.errors import ConfigError
from apercu.explain.options import TOP

Format: TypeAlias = Literal["parquet", "zarr"]
MapEncoding: TypeAlias = Literal["png", "uint8", "float16"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
MAPS: Final[tuple[MapEncoding, ...]] = get_args(MapEncoding)
RECORD_FILE = "job.json"
"""File that says what the result in a folder was begun with."""
VERSION: Final = 1
"""Version of the result's layout."""


@dataclass(frozen=True)
class BatchSettings:
    """Everything that the result depends on besides the explainer and the images.

    Attributes:
        target: `top` for the class predicted most, or a class by name, identifier or index.
        level: where masks are cut for boxes, in (0, 1).
        format: the format of the shards.
        map: how a map is stored; arrays hold no PNG.
        shard: the number of images in each file, or in each chunk.
        batch: the number of images that are explained together.
        limit: the number of images, drawn at random; None for all.
        seed: the seed of the draw.
        keep: the columns of Parquet files that are kept beside the result.

    Raises:
        ConfigError: a value is out of range, or does not fit another.
    """

    target: str | int = TOP
    level: float = 0.5
    format: Format = "parquet"
    map: MapEncoding = "png"
    shard: int = 1000
    batch: int = 16
    limit: int | None = None
    seed: int = 0
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ConfigError(f"level: expected a number above 0 and below 1, got {self.level}")
        if self.format == "zarr" and self.map == "png":
            raise ConfigError("map: Zarr holds arrays; use uint8 or float16, or --format parquet")
        if self.format == "zarr" and self.keep:
            raise ConfigError(
                "keep: Zarr's arrays have no missing values; use --format parquet, or join the "
                "columns by the index of the rows"
            )
        if self.shard < self.batch:
            raise ConfigError(
                f"shard: expected at least the images of a batch, {self.batch}, got {self.shard}"
            )
        for name, value in (("batch", self.batch), ("limit", self.limit)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}")


class BatchRecord(BaseModel):
    """Everything that the rows depend on; written when a batch begins.

    Attributes:
        version: the version of the result's layout.
        images: the data set as the caller named it; only what it holds must stay the same.
        settings: the settings; where several parts differ, an error names the first of them.
        explainer: the explainer.
        count: the number of images.
        sha256: a digest over the names and sizes of all files, or over how images are generated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = VERSION
    images: str
    settings: BatchSettings
    explainer: ExplainerInfo
    count: int
    sha256: str


@dataclass(frozen=True)
class Workers:
    """The threads of one machine; rows depend on them only by the rounding of the last digit.

    Attributes:
        readers: the number of threads that read and decode images.
        threads: the number of threads that explain on the CPU; one core is left for the others.
        device: where the explainer computes: `cpu`, `cuda` or `mps`.
    """

    readers: int = field(default_factory=lambda: min(8, count_cores()))
    threads: int = field(default_factory=lambda: max(1, count_cores() - 1))
    device: str = "cpu"
