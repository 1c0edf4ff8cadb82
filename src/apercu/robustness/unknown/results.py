"""The rows of a measurement of unknown images, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from apercu.errors import ConfigError

KNOWN = "known"
"""Name of the known images in the rows."""
METRICS = {
    "auroc": ("AUROC", "higher"),
    "aupr_in": ("AUPR-in", "higher"),
    "aupr_out": ("AUPR-out", "higher"),
    "fpr95": ("FPR at 95 % TPR", "lower"),
    "detected": ("detected", "higher"),
    "false_alarms": ("false alarms", "lower"),
    "accuracy": ("accuracy", "higher"),
    "calibration_error": ("calibration error", "lower"),
    "success_auroc": ("AUROC correct/wrong", "higher"),
    "pixel_auroc": ("AUROC of pixels", "higher"),
    "pointing": ("pointing game", "higher"),
}
"""Titles of the metrics, and which direction is better."""
COLUMNS = ("method", "images")
"""What a row is about, besides its metric."""
NAMES = ("method {method}", "images {images}")
"""Names on which a row depends, as `definitions` of the results say what they stand for."""


class UnknownRow(NamedTuple):
    """One number that was measured.

    Attributes:
        method: name of the method with settings.
        images: name of the unknown images, or `known`.
        metric: `auroc`, `aupr_in`, `aupr_out` and `fpr95` compare known with unknown images;
            `fpr95` is the fraction of unknown images that pass where 95 % of the known ones pass,
            and `aupr_in` takes the known images for the positive ones. `detected` and
            `false_alarms` are the fractions of images above the threshold. `accuracy`,
            `calibration_error` and `success_auroc`, whether confidence tells correct from wrong
            predictions, are those of known images with labels. `pixel_auroc` and `pointing` are
            those of maps where the unknown part is marked.
        value: value of the metric.
        ci95: both ends of its 95 % interval.
        n: number of images.
        better: direction that is better.
    """

    method: str
    images: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    better: str


class UnknownRows(list[UnknownRow]):
    """The rows of a measurement; printed and in a notebook a table."""

    def __str__(self) -> str:
        return "\n".join("  ".join(line) for line in self.table())

    def __repr__(self) -> str:
        return f"UnknownRows({len(self)} rows)"

    def table(self) -> list[tuple[str, ...]]:
        """Return the values with their intervals as texts.

        Returns:
            The heads, then a row for each method and set of images; `–` where there is no value.
        """
        cells = {(row.method, row.images, row.metric): row for row in self}
        metrics = [name for name in METRICS if any(row.metric == name for row in self)]
        lines = []
        for method, images in dict.fromkeys((row.method, row.images) for row in self):
            rows = [cells.get((method, images, metric)) for metric in metrics]
            count = next(str(row.n) for row in rows if row is not None)
            lines.append((method, images, count, *map(_format_value, rows)))
        return [("method", "images", "n", *(METRICS[name][0] for name in metrics)), *lines]

    def _repr_html_(self) -> str:
        """Return the table, for notebooks."""
        from apercu.pages import render_output

        heads, *cells = self.table()
        note = "AUROC: 1 separates unknown from known images, 0.5 is chance."
        return render_output(header=heads, cells=cells, notes=[note])


def _format_value(row: UnknownRow | None) -> str:
    if row is None:
        return "–"
    return f"{row.value:.3f} ({row.ci95[0]:.3f} to {row.ci95[1]:.3f})"


def name_image_sets(texts: Sequence[str]) -> dict[str, str]:
    """Give sets of images short names: as many last parts of their paths as tell them apart.

    Args:
        texts: folders, files, or other names of images, as they were typed.

    Returns:
        The texts by their names, in the same order.

    Raises:
        ConfigError: the same images are there twice.

    >>> name_image_sets(["data/ships/", "planted:size=32", "test"])
    {'ships': 'data/ships/', 'planted': 'planted:size=32', 'test': 'test'}
    """
    if repeated := next((text for text in texts if texts.count(text) > 1), None):
        raise ConfigError(f"unknown: {repeated} is there twice, expected once")
    paths = [PurePath(text.partition(":")[0] or text).parts for text in texts]
    names = []
    for text, path in zip(texts, paths, strict=True):
        ends = (path[-count:] for count in range(1, len(path) + 1))
        alone = (end for end in ends if sum(each[-len(end) :] == end for each in paths) == 1)
        name = "/".join(next(alone, (text,)))
        names.append(text if name == KNOWN else name)
    return dict(zip(names, texts, strict=True))
