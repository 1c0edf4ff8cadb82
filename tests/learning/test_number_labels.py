"""Labels that are numbers, or are missing, in the column of a Parquet file or of a folder."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from apercu import find_similar, open_classifier, open_images
from apercu.classifiers import Classifier
from apercu.classifiers.names import ClassNames
from apercu.errors import ImagesError, TargetError
from apercu.evaluation.sample import EvalSample, draw_sample
from apercu.guard.observe import find_labels
from apercu.images.stream import SkippingReader
from apercu.learning.labelling import choose_images_to_label
from apercu.learning.settings import LearningSettings
from apercu.learning.splits import LearningInputs, split_images
from apercu.log import redirect_warnings
from apercu.progress import ignore_progress
from apercu.robustness.backdoors.parts import PartReader
from apercu.robustness.unknown.reading import read_images
from apercu.training.data import LabelTarget

COLOURS = ("red", "green", "blue")


def write_parquet(path: Path, objects: ModuleType, labels: list[object]) -> Path:
    """Write an image of each label; that of row n has the colour of n modulo 3."""
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    pictures = []
    for row in range(len(labels)):
        stream = io.BytesIO()
        Image.fromarray(objects.draw_object(COLOURS[row % 3], row % 4, row)).save(stream, "png")
        pictures.append({"bytes": stream.getvalue(), "path": f"{row}.png"})
    parquet.write_table(arrow.table({"image": pictures, "label": labels}), path)
    return path


def list_targets(sample: EvalSample) -> dict[int, int]:
    """Return the class of each image by its index."""
    return {record.index: record.target for record in (*sample.tune, *sample.test)}


@pytest.fixture(scope="module")
def classifier(objects: ModuleType) -> Classifier:
    """A classifier whose classes are called 1, 2 and 3, as after a training on such labels."""
    return open_classifier(objects.ColourNetwork(3), size=objects.SIDE, classes=["1", "2", "3"])


def test_labels_that_begin_at_one_are_the_classes_that_they_name(
    classifier: Classifier, objects: ModuleType, tmp_path: Path
) -> None:
    """1 was taken for the second class, and 3 for none."""
    table = write_parquet(tmp_path / "t.parquet", objects, [row % 3 + 1 for row in range(42)])
    source = open_images(table)
    sample = draw_sample(classifier, source, seed=0, limit=None)
    assert list_targets(sample) == {row: row % 3 for row in range(42)}
    cases = find_similar(classifier, objects.draw_object("red", 0, 50), source, count=4)
    assert cases.predicted is not None and cases.predicted.name == "1"
    assert cases.by_region is not None
    assert [case.label for case in cases.by_region] == ["1"] * 4
    assert find_labels(classifier, source, [3, 1, 9, None]) == [2, 0, -1, -1]
    images = read_images(
        classifier, SkippingReader(source), None, 0, ignore_progress, needs_classes=True
    )
    assert images.labels is not None and images.labels.tolist() == [0, 1, 2] * 14
    assert LabelTarget(classifier.names)(0, source[5]) == 2
    reader = PartReader(classifier, None, 0, ignore_progress)
    parts = reader.read(source, None, None, None, needs_labels=True)
    assert parts.test.labels is not None
    assert parts.test.labels.tolist() == [int(name[4:]) % 3 for name in parts.test.names]
    with pytest.raises(TargetError, match="no class is called 0"):
        classifier.names.find_label(0)
    digits = open_classifier(objects.ColourNetwork(3), size=objects.SIDE, classes=["2", "0", "1"])
    assert digits.names.find_label(2) == 2  # a number from 0 counts the classes, as before
    assert classifier.index_of(2) == 2  # a target is an index, whatever classes are called


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (["1", "2", "5", "7"], ["5", 5, "1", "3", 3], [2, 2, 0, None, None]),
        (["00", "01", "02"], [1, "1", "01"], [1, 1, 1]),
        (["1.0", "2.0", "3.0"], [1, "1", "2.0", "2"], [0, 0, 1, 1]),
        (["-2", "-1", "0", "1", "2"], [0, "0", -2, "2"], [2, 2, 0, 4]),
        (["1", "0"], [0, "0", "1"], [0, 1, 0]),
        (["a", "b"], [1, "1", "b"], [1, 1, 1]),
    ],
)
def test_numbers_name_classes_in_any_spelling(
    names: list[str], labels: list[object], classes: list[int | None]
) -> None:
    """A text that named no class counted them: "3" was 7, and 1 was 2.0."""
    for label, expected in zip(labels, classes, strict=True):
        if expected is None:
            with pytest.raises(TargetError, match="no class is called 3"):
                ClassNames.of(names).find_label(label)
        else:
            assert ClassNames.of(names).find_label(label) == expected


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([None, "b", "c"] + ["a", "b", "c"] * 3, ("a", "b", "c")),
        ([None, 1, 2] + [0, 1, 2] * 3, ("0", "1", "2")),
        ([float("nan"), 1.0, 2.0] + [0.0, 1.0, 2.0] * 3, ("0", "1", "2")),
        ([None, 1.5, 2.5] + [0.5, 1.5, 2.5] * 3, ("0.5", "1.5", "2.5")),
    ],
)
def test_rows_without_a_label(
    objects: ModuleType, tmp_path: Path, labels: list[object], classes: tuple[str, ...]
) -> None:
    """They were a class of their own, called None or nan."""
    table = write_parquet(tmp_path / "t.parquet", objects, labels)
    parts = split_images(LearningSettings(), LearningInputs(table), open_images, 0)
    assert parts.training.classes == classes
    assert sum(len(part) for part in parts[:3]) == 11
    assert parts.unlabelled is not None and parts.unlabelled.names == ("row-0",)
    classifier = open_classifier(objects.ColourNetwork(3), size=objects.SIDE, classes=[*classes])
    chosen = choose_images_to_label(classifier, table)
    assert [choice.name for choice in chosen.choices] == ["row-0"] and chosen.labelled == 11
    sample = draw_sample(classifier, open_images(table), seed=0, limit=None)
    assert list_targets(sample) == {row: row % 3 for row in range(1, 12)}
    assert len(sample.left_out) == 1


def test_a_table_may_begin_with_many_rows_without_a_label(
    classifier: Classifier, objects: ModuleType, tmp_path: Path
) -> None:
    """They were taken for images that cannot be read, of which 16 in a row are an error."""
    labels = [None] * 48 + [str(row % 3 + 1) for row in range(12)]
    table = write_parquet(tmp_path / "t.parquet", objects, labels)
    lines: list[str] = []
    with redirect_warnings(lines.append):
        sample = draw_sample(classifier, open_images(table), seed=0, limit=None)
    assert list_targets(sample) == {row: row % 3 for row in range(48, 60)}
    assert lines == [f"{table}: 48 of 60 images have no label and are left out"]
    table = write_parquet(tmp_path / "u.parquet", objects, [*labels[:20], float("nan")])
    with pytest.raises(ImagesError, match="no image that can be read has a label"):
        draw_sample(classifier, open_images(table), seed=0, limit=None)
