"""Images that have a label in a catalogue."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apercu.errors import ConfigError, ImagesError
from apercu.images import batches, open_images
from apercu.images.catalogue import (
    Catalogue,
    LabelledImages,
    label_images,
    match_by_id,
    read_catalogue,
)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    values = np.arange(5.0)[:, None, None] * np.ones((5, 4, 4))
    np.savez(tmp_path / "s.npz", x=values, id=np.array([10, 11, 12, 13, 14]))
    return tmp_path / "s.npz"


def make_catalogue(labels: Any, ids: Any = (14, 13, 12, 11)) -> Catalogue:
    return Catalogue(Path("c.csv"), {"id": np.array(ids), "kind": labels})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array(["star", None, "galaxy", "star"], object), ["star", "galaxy", "star"]),
        (np.array([1.0, np.nan, 0.0, 1.0]), ["1", "0", "1"]),
        (np.array([True, None, False, True], object), ["True", "False", "True"]),
        (np.array(["1.0", None, "0", "1"], object), ["1", "0", "1"]),
    ],
)
def test_classes_are_text(stack: Path, labels: Any, expected: list[str]) -> None:
    source, table = open_images(stack, channels=1), make_catalogue(labels)
    labelled = label_images(source, match_by_id(source.names, table, "id").rows, table, "kind")
    assert labelled.names == tuple(item.name for item in labelled) == ("11", "12", "14")
    assert [item.label for item in labelled] == expected[::-1]
    assert [float(item.picture[0, 0, 0]) for item in labelled] == [1, 2, 4]
    assert labelled.class_names == tuple(sorted(set(expected)))
    assert labelled.labelled and len(labelled) == 3
    again = pickle.loads(pickle.dumps(labelled))
    assert isinstance(again, LabelledImages) and again[-1].name == "14"
    (batch,) = batches(labelled, lambda picture: picture, 8)
    assert batch.labels == tuple(expected[::-1])
    with pytest.raises(IndexError, match="image 3 of a source of 3"):
        labelled[3]


def test_values_that_are_not_classes_are_refused(stack: Path) -> None:
    source, rows = open_images(stack, channels=1), np.array([-1, 3, 2, 1, 0])
    with pytest.raises(
        ConfigError, match=r"expected classes in column kind, .* got 0\.25 in row 2"
    ):
        label_images(source, rows, make_catalogue(np.array([1, 0.25, 0, 1])), "kind")
    with pytest.raises(ConfigError, match="no column knd, got id, kind; did you mean kind"):
        label_images(source, rows, make_catalogue(np.zeros(4)), "knd")
    with pytest.raises(ImagesError, match=r"c\.csv: no image of .*s\.npz has a kind"):
        label_images(source, rows, make_catalogue(np.array([None] * 4, object)), "kind")


def test_real_alerts_by_a_column(apercu_data: Path) -> None:
    folder = apercu_data / "data" / "ztf"
    stack, table = open_images(folder / "alerts.npz"), read_catalogue(folder / "alerts.parquet")
    labelled = label_images(
        stack, match_by_id(stack.names, table, "candid").rows, table, "is_asteroid"
    )
    assert len(labelled) == 1284 and labelled.class_names == ("False", "True")
    distances = table.numbers("ssdistnr")
    expected = ["True" if 0 <= d <= 5 else "False" for d in distances]
    assert list(labelled.labels) == expected and labelled[0].label == expected[0]
