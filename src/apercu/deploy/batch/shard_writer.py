"""Rows of explained images as Arrow tables, and the interface that writes them as shards."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from apercu.classifiers.outputs import SOFTMAX, Output
from apercu.deploy.batch.settings import BatchSettings
from apercu.deploy.batch.work_folder import Plan, ShardRecord, Table, WorkFolder
from apercu.deploy.inference import ExplainedBatch
from apercu.explain.mask_explanation import tight_box
from apercu.verdicts import Trust

Schema: TypeAlias = Any

CORNERS = ("xmin", "ymin", "xmax", "ymax")
COLUMNS = (
    *("index", "id", "width", "height", "target", "class", "probability"),
    *(*CORNERS, "map", "error"),
)
"""The columns of every result, besides those that are kept of the source."""
PREDICTED, VALUE = "predicted", "value"
"""Further columns of Parquet: all predicted classes where there may be several; the value of a
regression."""
TRUST_COLUMNS: Mapping[str, str] = {
    "tampered": "float32",
    "unknown": "float32",
    "confidence": "float32",
    "alarms": "string",
    "why": "string",
}
"""Further columns with a guard, and their types of Arrow; alarms are words with commas between."""
_PNG_LEVEL = 3
"""Level of compression: files are a fifth larger than at 9, in a fifteenth of the time."""


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image that was read, or the reason why it was not.

    Attributes:
        index: the row of the image in the result.
        name: the name of the image in the data set.
        size: the stored height and width.
        image: the image, prepared for the explainer.
        error: one line that says why it could not be read.
        values: the further columns that are kept, by their names in the source.
    """

    index: int
    name: str
    size: tuple[int, int] | None = None
    image: Float[Tensor, "channels rows columns"] | None = None
    error: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


def build_schema(
    settings: BatchSettings,
    size: tuple[int, int],
    kept: Sequence[Any] = (),
    output: Output = SOFTMAX,
    has_guard: bool = False,
) -> Schema:
    """Return the Arrow schema of every shard.

    Args:
        settings: the settings, which say how maps are stored.
        size: the height and width of the maps.
        kept: the Arrow fields of the columns that are kept of the source.
        output: what the numbers of the classifier mean.
        has_guard: whether a guard judges the predictions.

    Returns:
        A `pyarrow.Schema`.
    """
    import pyarrow as pa

    stored = {"encoding": settings.map, "shape": list(size), "range": "0..255 is 0..1"}
    if settings.map == "float16":
        stored["range"] = "0..1"
    width = {"uint8": 1, "float16": 2}.get(settings.map, 0) * size[0] * size[1]
    map_type = pa.binary(width) if width else pa.binary()
    numbers = [(name, pa.int32()) for name in ("width", "height", "target")]
    return pa.schema(
        [
            ("index", pa.int64()),
            ("id", pa.string()),
            *numbers,
            ("class", pa.string()),
            ("probability", pa.float32()),
            *((corner, pa.int32()) for corner in CORNERS),
            pa.field("map", map_type, metadata={"apercu.map": json.dumps(stored)}),
            ("error", pa.string()),
            *_list_prediction_fields(output),
            *((name, getattr(pa, kind)()) for name, kind in TRUST_COLUMNS.items() if has_guard),
            *(
                pa.field(name_kept_column(column.name, has_guard=has_guard), column.type)
                for column in kept
            ),
        ]
    )


def _list_prediction_fields(output: Output) -> list[tuple[str, Any]]:
    """Return the columns of all predicted classes, or of the value of a regression."""
    import pyarrow as pa

    if output.decision.is_multiple:
        return [(PREDICTED, pa.list_(pa.string()))]
    return [(VALUE, pa.float64())] if output.name == "value" else []


def name_kept_column(name: str, *, has_guard: bool = False) -> str:
    """Return the name of a kept column in the result, where it may be taken already.

    >>> name_kept_column("patient"), name_kept_column("id")
    ('patient', 'source.id')
    """
    own = (*COLUMNS, PREDICTED, VALUE, *(TRUST_COLUMNS if has_guard else ()))
    return f"source.{name}" if name in own else name


@dataclass(frozen=True)
class RowBuilder:
    """Builds the rows of explained images.

    Attributes:
        settings: the settings, which say how maps are cut and stored.
        classes: the names of the classes.
        size: the height and width of the maps.
        kept: the Arrow fields of the columns that are kept of the source.
        output: what the numbers of the classifier mean.
        has_guard: whether a guard judges the predictions.
    """

    settings: BatchSettings
    classes: tuple[str, ...]
    size: tuple[int, int]
    kept: tuple[Any, ...] = ()
    output: Output = SOFTMAX
    has_guard: bool = False

    @property
    def schema(self) -> Schema:
        """The Arrow schema of every shard."""
        return build_schema(self.settings, self.size, self.kept, self.output, self.has_guard)

    def build_table(self, images: Sequence[LoadedImage], explained: ExplainedBatch | None) -> Table:
        """Build a table with a row for each image; images with an error have no map.

        Args:
            images: the images in the order of the rows.
            explained: the explanations of the images that were read, in their order; None if
                none was.

        Returns:
            A `pyarrow.Table`.
        """
        import pyarrow as pa

        maps = iter(() if explained is None else self._list_results(explained))
        rows = [
            self._build_row(image, None if image.image is None else next(maps)) for image in images
        ]
        return pa.Table.from_pylist(rows, self.schema)

    def _list_results(self, explained: ExplainedBatch) -> list[tuple[Tensor, dict[str, Any]]]:
        """Return the map of each image, and its columns of what is predicted."""
        results = []
        decision = self.output.decision
        logits = decision.restore_logits(explained.probabilities)
        predicted, values = decision.find_predicted(logits), self.output.find_values(logits)
        for row, (mask, target) in enumerate(
            zip(explained.maps, explained.targets.tolist(), strict=True)
        ):
            columns: dict[str, Any] = {
                "target": target,
                "class": self.classes[target],
                "probability": float(explained.probabilities[row, target]),
            }
            if decision.is_multiple:
                indices = predicted[row].nonzero()[:, 0].tolist()
                columns[PREDICTED] = [self.classes[index] for index in indices]
            if values is not None:
                columns[VALUE] = float(values[row])
            if explained.trust is not None:
                columns |= _list_trust(explained.trust[row])
            results.append((mask, columns))
        return results

    def _build_row(
        self, image: LoadedImage, explained: tuple[Tensor, dict[str, Any]] | None
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"index": image.index, "id": image.name, "error": image.error}
        row |= {
            name_kept_column(name, has_guard=self.has_guard): value
            for name, value in image.values.items()
        }
        if explained is None or image.size is None:
            return row
        (mask, columns), (height, width) = explained, image.size
        box = tight_box(mask, self.settings.level, image.size) or (None,) * len(CORNERS)
        return {
            **row,
            **{"width": width, "height": height},
            **columns,
            **dict(zip(CORNERS, box, strict=True)),
            "map": _encode_map(mask.numpy(), self.settings.map),
        }


def _list_trust(trust: Trust) -> dict[str, Any]:
    """Return what a guard says of one image, by column; nothing where it cannot judge."""
    alarms = ",".join(trust.alarms) if trust.can_judge else None
    return {name: getattr(trust, name) for name in TRUST_COLUMNS} | {"alarms": alarms}


def _encode_map(values: NDArray[np.float32], encoding: str) -> bytes:
    """Return a map in [0, 1] as bytes."""
    if encoding == "float16":
        return values.astype("<f2").tobytes()
    grey = (values.clip(0, 1) * 255).round().astype(np.uint8)
    if encoding == "uint8":
        return grey.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


@dataclass(frozen=True)
class ShardWriter(ABC):
    """Writes finished shards; a shard that is written twice has the same bytes.

    Attributes:
        out: the folder of the result.
        plan: which images belong to each shard.
        row_builder: builds the rows.
    """

    out: Path
    plan: Plan
    row_builder: RowBuilder

    @abstractmethod
    def prepare_output(self) -> None:
        """Prepare what the shards share, before the first of them is written.

        Raises:
            OutputError: the folder cannot be written.
        """

    @abstractmethod
    def remove_output(self) -> None:
        """Remove all shards that the folder holds."""

    @abstractmethod
    def write_shard(self, shard: int) -> ShardRecord:
        """Write a shard whose units are all explained.

        Returns:
            The record of the shard.

        Raises:
            OutputError: the folder cannot be written.
            RunError: a unit is damaged.
        """

    @abstractmethod
    def read_failures(self, record: ShardRecord) -> list[tuple[int, str, str]]:
        """Return index, name and error of each image of a shard that could not be read."""

    def finish_shard(self, shard: int) -> ShardRecord:
        """Write a shard, record that it is finished and remove its units."""
        record = self.write_shard(shard)
        WorkFolder(self.out).finish_shard(record)
        return record
