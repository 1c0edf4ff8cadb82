"""Labels of several classes per image, of which some are unknown: they are masked and counted."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from apercu import open_images, train_classifier
from apercu.classifiers import Classifier
from apercu.classifiers.calibration import fit_temperature, measure_reliability
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS
from apercu.errors import ImagesError
from apercu.learning.data import (
    LabelledSet,
    check_classes,
    describe_test_gaps,
    match_labels,
    weigh_classes,
)
from apercu.learning.labels import read_label_rows
from apercu.learning.measure import MEASURES, Predictions, count_confusions
from apercu.learning.recipes.base import Task
from apercu.learning.report import find_mistakes
from apercu.learning.results import LearningFigures, MeasuredTest
from apercu.learning.splits import split_by_class
from apercu.log import redirect_warnings

NAN = float("nan")


def draw_targets(images: int, classes: int, unknown: float = 0.3, seed: int = 0) -> torch.Tensor:
    """Labels of each class, of which some are unknown, but never all of an image."""
    draw = torch.Generator().manual_seed(seed)
    targets = (torch.rand(images, classes, generator=draw) < 0.4).float()
    hidden = torch.rand(images, classes, generator=draw) < unknown
    hidden[hidden.all(1), 0] = False
    return targets.masked_fill(hidden, NAN)


def make_set(targets: torch.Tensor) -> LabelledSet:
    source = open_images(f"planted:images={len(targets)},size=32")
    return LabelledSet(source, tuple("abcdef"[: targets.shape[1]]), targets, EACH_CLASS)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for number in range(6):
        Image.new("L", (8, 8)).save(folder / f"{number}.png")
    return folder


def read(films: Path, folder: Path, *rows: str) -> LabelledSet:
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return match_labels(open_images(films), read_label_rows(folder / "t.csv"))[0]


# --- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "NA", "na", "-1", "-1.0"])
def test_a_cell_that_says_that_nobody_knows(films: Path, tmp_path: Path, cell: str) -> None:
    head = ("file,ill,Old", "0.png,1,1", f"1.png,{cell},0", f"2.png,{cell},{cell}")
    images = read(films, tmp_path, *head)
    assert images.source.names == ("0.png", "1.png") and images.decision is EACH_CLASS
    torch.testing.assert_close(
        images.targets, torch.tensor([[1, 1], [NAN, 0]]), equal_nan=True, check_dtype=False
    )
    assert images.count_unknown() == 1 and images.unlabelled == 1


def test_columns_of_one_class_are_read_as_before(films: Path, tmp_path: Path) -> None:
    """One column of 0 and 1 is a class and its absence; a column of names has any names."""
    images = read(films, tmp_path, "file,ill", "0.png,1", "1.png,0", "2.png,NaN", "3.png,-1")
    assert images.classes == ("not ill", "ill") and images.decision is ONE_CLASS
    assert images.targets.tolist() == [[0, 1], [1, 0]] and images.unlabelled == 2
    images = read(films, tmp_path, "file,label", "0.png,nan", "1.png,-1", "2.png,")
    assert images.classes == ("-1", "nan") and not images.count_unknown()


def test_a_class_without_a_column_in_the_table_of_the_test_is_unknown(
    films: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("file,a,x\n0.png,1,0\n1.png,0,0\n2.png,,0\n")
    rows = read_label_rows(tmp_path / "t.csv")
    images, others = match_labels(open_images(films), rows, ("a", "b"))
    assert images.source.names == ("0.png", "1.png") and images.unlabelled == 1
    torch.testing.assert_close(images.targets, torch.tensor([[1, NAN], [0, NAN]]), equal_nan=True)
    assert others is not None and others.names[0] == "2.png"
    assert describe_test_gaps(images) == (
        "AUROC and the like are those of 1 of 2 classes: of the test images, no image is known to "
        "have b"
    )
    with pytest.raises(ImagesError, match="says of no image whether it has one of c, d"):
        match_labels(open_images(films), rows, ("c", "d"))


def test_one_image_with_two_sets_of_unknown_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "0.png")
    (tmp_path / "t.csv").write_text("file,a,b\n0.png,1,\nimages/0.png,1,0\n")
    with pytest.raises(ImagesError, match="are one image with two labels"):
        read_label_rows(tmp_path / "t.csv").match(open_images(tmp_path / "images"))


def test_a_class_needs_images_that_are_known_to_have_it_and_not_to() -> None:
    targets = torch.tensor([[1, 1], [1, 0], [NAN, 1], [NAN, 0], [1, 0]])
    with pytest.raises(ImagesError, match="every image of which it is known has the class a"):
        check_classes(make_set(targets), 1)
    targets[0, 0] = 0
    with pytest.raises(ImagesError, match="class a is absent from 1 image, expected at least 2"):
        check_classes(make_set(targets), 2)
    check_classes(make_set(targets), 1)


def test_known_labels_of_each_class_are_in_every_part() -> None:
    targets = draw_targets(60, 2)
    targets[:, 0] = NAN
    targets[:8, 0] = torch.tensor([1, 0] * 4)
    targets[:, 1] = targets[:, 1].nan_to_num(1)
    for seed in range(5):
        for part in split_by_class(make_set(targets), (0.5, 0.25, 0.25), seed):
            for value in (0, 1):
                assert int((targets[part, 0] == value).sum()) >= 1
                assert abs(int((targets[part, 1] == value).sum()) - 30 * len(part) / 60) < 10


# --- the loss, the weights, the temperature ------------------------------------------------------


def test_the_loss_is_that_of_the_known_labels(planted_task: Task) -> None:
    targets = draw_targets(12, 3)
    weights = weigh_classes(targets, EACH_CLASS, balanced=True)
    for column in range(3):
        known = targets[:, column][~targets[:, column].isnan()]
        expected = [len(known) / (2 * int((known == value).sum())) for value in (1, 0)]
        assert weights[:, column].tolist() == pytest.approx(expected)
    task = replace(planted_task, decision=EACH_CLASS, targets=targets, class_weights=weights)
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    losses, expected = task.compute_loss(logits, targets), 0.0
    for row, column in (~targets.isnan()).nonzero().tolist():
        label = float(targets[row, column])
        weight = weights[0 if label else 1, column]
        probability = logits.detach()[row, column].sigmoid()
        expected -= float(weight * (probability if label else 1 - probability).log())
    assert losses.shape == (12,)
    assert float(losses.detach().mean()) == pytest.approx(
        expected / int((~targets.isnan()).sum()), rel=1e-5
    )
    (gradients,) = torch.autograd.grad(losses.mean(), logits)
    assert bool(((gradients == 0) == targets.isnan()).all())
    complete = targets.nan_to_num(0)  # as before where all is known
    plain = F.binary_cross_entropy_with_logits(logits, complete, reduction="none")
    plain = plain * (weights[0] * complete + weights[1] * (1 - complete))
    assert torch.equal(task.compute_loss(logits, complete), plain.mean(1))


def test_the_temperature_is_that_of_the_known_labels() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(80, 3, generator=draw), draw_targets(80, 3)
    labels = torch.bernoulli(logits.sigmoid(), generator=draw)
    targets = labels.masked_fill(targets.isnan(), NAN)
    known = ~targets.isnan()
    scaled = 4 * logits
    expected = fit_temperature(scaled[known][:, None], targets[known][:, None], EACH_CLASS)
    assert fit_temperature(scaled, targets, EACH_CLASS) == pytest.approx(expected)
    assert expected == pytest.approx(4, rel=0.3)
    assert fit_temperature(scaled.masked_fill(~known, 50), targets, EACH_CLASS) == pytest.approx(
        expected
    )


# --- the figures ---------------------------------------------------------------------------------


def test_figures_are_those_of_the_known_labels() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    targets = draw_targets(90, 3)
    logits = torch.randn(90, 3, generator=torch.Generator().manual_seed(2))
    predictions = Predictions.from_logits(logits, targets, EACH_CLASS)
    columns = []
    for column in range(3):
        known = ~targets[:, column].isnan()
        scores = logits[known, column].double().sigmoid().numpy()
        columns.append((targets[known, column].numpy(), scores))
    labels, scores = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    recalls = [metrics.balanced_accuracy_score(truths, values >= 0.5) for truths, values in columns]
    bins = measure_reliability(
        torch.from_numpy(scores)[:, None], torch.from_numpy(labels)[:, None], is_multiple=True
    )
    expected = {
        "accuracy": metrics.accuracy_score(labels, scores >= 0.5),
        "balanced_accuracy": np.mean(recalls),
        "auroc": np.mean([metrics.roc_auc_score(*pair) for pair in columns]),
        "average_precision": np.mean([metrics.average_precision_score(*pair) for pair in columns]),
        "calibration_error": bins.error,
        "log_loss": 3 * metrics.log_loss(labels, scores),
    }
    others = Predictions.from_logits(
        torch.where(targets.isnan(), -logits, logits), targets, EACH_CLASS
    )
    for name, (measure, _) in MEASURES.items():
        assert measure(predictions) == pytest.approx(expected[name], rel=1e-6), name
        assert measure(others) == pytest.approx(measure(predictions)), name
    assert sum(bins.counts) == len(labels) == int((~targets.isnan()).sum())
    counted = count_confusions(predictions).diagonal().tolist()
    assert counted == [int(((values >= 0.5) * truths).sum()) for truths, values in columns]


def test_what_nobody_knows_is_no_mistake() -> None:
    part = make_set(torch.tensor([[NAN, 1.0], [NAN, 1.0]]))
    test = MeasuredTest(part, torch.zeros(2, 3, 8, 8), torch.tensor([[9.0, 2.0], [-9.0, -2.0]]))
    assert [(each.image, each.predicted, each.label) for each in find_mistakes(test)] == [
        (1, 1, None)
    ]


# --- a training ----------------------------------------------------------------------------------


def test_a_training_with_a_third_of_the_labels_unknown_learns(
    tmp_path: Path, backbone: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apercu.learning.measure.RESAMPLES", 20)
    draw = torch.Generator().manual_seed(0)
    rows = ["file,bright,striped", "0.png,-1,"]
    (tmp_path / "images").mkdir()
    for number in range(121):
        bright, striped = (bool(torch.rand((), generator=draw) < 0.5) for _ in range(2))
        pixels = torch.randint(0, 60, (32, 32, 3), generator=draw)
        pixels += 120 * bright
        pixels[::4] += 70 * striped
        Image.fromarray(pixels.byte().numpy()).save(tmp_path / "images" / f"{number}.png")
        hidden = int(torch.randint(10, (), generator=draw))  # 30 % of all cells
        cells = ("NA" if hidden < 3 else int(bright), "" if hidden in (3, 4, 5) else int(striped))
        if number:
            rows.append(f"{number}.png,{cells[0]},{cells[1]}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    lines: list[str] = []
    with redirect_warnings(lambda line: None):  # of a test of few images
        result = train_classifier(
            tmp_path / "images",
            backbone,
            tmp_path / "run",
            labels=tmp_path / "t.csv",
            steps=30,
            batch=16,
            say=lines.append,
        )
    unknown = sum(cell in ("NA", "") for row in rows[2:] for cell in row.split(",")[1:])
    figures = result.figures
    assert sum(figures.unknown.values()) == unknown and 60 <= unknown <= 84
    each = ", ".join(f"{name} {count}" for name, count in figures.unknown.items())
    assert lines[1] == (
        f"{unknown} of 240 cells of the table are unknown and not used ({each}); 1 row counts as "
        "without label, as all cells are unknown"
    )
    assert figures.figures["auroc"].value > 0.95
    assert figures.figures["balanced_accuracy"].value > 0.8
    with (tmp_path / "run" / "predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    cells = {row.split(",")[0]: row.split(",")[1:] for row in rows[2:]}
    for row in table:
        named = dict(zip(("bright", "striped"), cells[row["file"]], strict=True))
        assert row["labels"] == "|".join(name for name, cell in named.items() if cell == "1")
        assert row["unknown"] == "|".join(n for n, cell in named.items() if cell in ("NA", ""))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    total = 2 * figures.images["test"]
    assert f"{figures.unknown['test']} of {total} labels of the test images are not known" in page
    content = json.loads((tmp_path / "run" / "figures.json").read_text())
    assert content.pop("unknown") == figures.unknown
    assert LearningFigures.model_validate(content).unknown == {}  # an older run folder
