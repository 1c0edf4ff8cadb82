"""Images restricted to those whose class is known."""

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


def catalogue(labels: Any, ids: Any = (14, 13, 12, 11)) -> Catalogue:
    return Catalogue(Path("c.csv"), {"id": np.array(ids), "kind": labels})


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (np.array(["star", None, "galaxy", "star"], object), ["star", "galaxy", "star"]),
        (np.array([1.0, np.nan, 0.0, 1.0]), ["1", "0", "1"]),
        (np.array([True, None, False, True], object), ["True", "False", "True"]),
        (np.array(["1.0", None, "0", "1"], object), ["1", "0", "1"]),
    ],
)
def test_classes_are_text(stack: Path, labels: Any, wanted: list[str]) -> None:
    source, known = open_images(stack, channels=1), catalogue(labels)
    found = label_images(source, match_by_id(source.names, known, "id").rows, known, "kind")
    assert found.names == tuple(item.name for item in found) == ("11", "12", "14")
    assert [item.label for item in found] == wanted[::-1]
    assert [float(item.picture[0, 0, 0]) for item in found] == [1, 2, 4]
    assert found.class_names == tuple(sorted(set(wanted))) and found.labelled and len(found) == 3
    again = pickle.loads(pickle.dumps(found))
    assert isinstance(again, LabelledImages) and again[-1].name == "14"
    (batch,) = batches(found, lambda picture: picture, 8)
    assert batch.labels == tuple(wanted[::-1])
    with pytest.raises(IndexError, match="image 3 of a source of 3"):
        found[3]


def test_what_is_no_class(stack: Path) -> None:
    source, rows = open_images(stack, channels=1), np.array([-1, 3, 2, 1, 0])
    with pytest.raises(
        ConfigError, match=r"expected classes in column kind, .* got 0\.25 in row 2"
    ):
        label_images(source, rows, catalogue(np.array([1, 0.25, 0, 1])), "kind")
    with pytest.raises(ConfigError, match="no column knd, got id, kind; did you mean kind"):
        label_images(source, rows, catalogue(np.zeros(4)), "knd")
    with pytest.raises(ImagesError, match=r"c\.csv: no image of .*s\.npz has a kind"):
        label_images(source, rows, catalogue(np.array([None] * 4, object)), "kind")


def test_real_alerts_by_a_column(apercu_data: Path) -> None:
    folder = apercu_data / "data" / "ztf"
    stack, known = open_images(folder / "alerts.npz"), read_catalogue(folder / "alerts.parquet")
    found = label_images(
        stack, match_by_id(stack.names, known, "candid").rows, known, "is_asteroid"
    )
    assert len(found) == 1284 and found.class_names == ("False", "True")
    distances = known.numbers("ssdistnr")
    wanted = ["True" if 0 <= d <= 5 else "False" for d in distances]
    assert list(found.labels) == wanted and found[0].label == wanted[0]
