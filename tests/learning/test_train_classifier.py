"""From labelled images to a calibrated classifier in a run folder."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from apercu import open_classifier, open_images, train_classifier
from apercu.classifiers import Classifier
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS
from apercu.errors import ConfigError, ImagesError, RunError
from apercu.learning.measure import (
    MEASURES,
    MeasuredFigure,
    Predictions,
    count_confusions,
    measure_predictions,
)
from apercu.learning.report import draw_curves
from apercu.learning.results import LearningFigures, TrainedClassifier
from apercu.learning.search import (
    CHOICE,
    SEARCH,
    SearchContext,
    SearchResult,
    check_search,
    find_choice,
)
from apercu.learning.settings import LEARNING, LearningSettings
from apercu.learning.splits import LearningInputs, split_images
from apercu.log import redirect_warnings
from apercu.pages import Figure, FigureRow, render_page
from apercu.pages.charts import LEFT, RIGHT, WIDTH
from apercu.robustness.defences.settings import DEFENCES
from apercu.training.record import find_settings

from .conftest import PLANTED


def test_the_run_is_a_classifier_with_a_temperature(trained_folder: Path) -> None:
    card = json.loads((trained_folder / "card.json").read_text())
    figures = json.loads((trained_folder / "figures.json").read_text())
    assert card["source"] == "timm/test_resnet"
    assert card["temperature"] == pytest.approx(figures["temperature"], abs=1e-5)
    classifier = open_classifier(trained_folder)
    assert classifier.classes == tuple(figures["classes"])
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert classifier.module is not None
    raw = classifier.module(classifier.normalise(images))
    torch.testing.assert_close(classifier(images), raw / card["temperature"])


def test_a_result_is_shown_in_one_line(trained_folder: Path) -> None:
    """As a notebook shows it; its figures alone are long lists."""
    figures = LearningFigures.model_validate_json((trained_folder / "figures.json").read_text())
    result = TrainedClassifier(open_classifier(trained_folder), figures, trained_folder)
    balanced, auroc = (figures.figures[name].text for name in ("balanced_accuracy", "auroc"))
    assert repr(result) == (
        f"TrainedClassifier({trained_folder}, 3 classes, balanced_accuracy {balanced}, "
        f"auroc {auroc}, temperature {figures.temperature:.3g})"
    )


def test_a_finished_folder_is_not_trained_again(trained_folder: Path, backbone: Classifier) -> None:
    with pytest.raises(RunError, match="holds a finished training"):
        train_classifier(PLANTED, backbone, trained_folder, steps=12, batch=8)


def test_recipes_are_checked_before_anything_is_written(
    tmp_path: Path, backbone: Classifier
) -> None:
    for recipes, message in (
        (["frozen", "full"], "frozen and full both choose which layers learn"),
        (["frozn"], "did you mean frozen"),
        (["final_batch_norm:momentum=2"], "final_batch_norm:momentum"),
        (["frozen", "frozen"], "given twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_classifier(PLANTED, backbone, tmp_path / "run", recipes=recipes)
    with pytest.raises(ImagesError, match="expected at least 3"):
        train_classifier("planted:images=6,classes=6", backbone, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_are_given_in_any_form(tmp_path: Path) -> None:
    wanted = LEARNING.presets["frozen"].model_copy(update={"turned": True})
    (tmp_path / "settings.yaml").write_text("preset: frozen\nturned: true\n")
    for config in (wanted, {"preset": "frozen", "turned": True}, tmp_path / "settings.yaml"):
        assert find_settings(tmp_path / "run", config, LEARNING) == wanted
    for config, message in (
        ({"turnd": True}, "turnd"),
        (DEFENCES.presets["hybrid"], "expected LearningSettings, got DefenceSettings"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_settings(tmp_path / "run", config, LEARNING)


def test_several_classes_of_an_image_are_learnt_one_by_one(
    tmp_path: Path, backbone: Classifier
) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = ["file,bright,striped,night"]
    (tmp_path / "images").mkdir()
    for number in range(40):
        bright, striped = (bool(torch.rand((), generator=draw) < 0.5) for _ in range(2))
        pixels = torch.randint(0, 60, (32, 32, 3), generator=draw)
        pixels += 120 * bright
        pixels[::4] += 70 * striped
        Image.fromarray(pixels.byte().numpy()).save(tmp_path / "images" / f"{number}.png")
        rows.append(f"{number}.png,{bright:d},{striped:d},{number // 4}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    result = train_classifier(
        tmp_path / "images",
        backbone,
        tmp_path / "run",
        labels=tmp_path / "t.csv",
        group="night",
        steps=4,
        batch=8,
        say=lambda line: None,
    )
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["output"] == "sigmoid" and card["classes"] == ["bright", "striped"]
    assert result.classifier.decision is EACH_CLASS
    table = (tmp_path / "run" / "predictions.csv").read_text().splitlines()[1:]
    assert len(table) == result.figures.images["test"]
    assert len({row.split(",")[1] for row in table}) < len(table)  # nights, not images
    assert "Confusion matrix" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "expected"), [("accuracy", 0.75), ("balanced_accuracy", 0.75)])
def test_figures_of_four_images(name: str, expected: float) -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.5, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    predictions = Predictions.from_logits(logits, targets, ONE_CLASS)
    assert MEASURES[name][0](predictions) == pytest.approx(expected)
    assert count_confusions(predictions).tolist() == [[2, 0], [1, 1]]


def test_auroc_and_average_precision_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 3, generator=draw).mul(2).round()  # with ties
    labels = torch.randint(3, (60,), generator=draw)
    targets = torch.nn.functional.one_hot(labels, 3).float()
    predictions = Predictions.from_logits(logits, targets, ONE_CLASS)
    probabilities = predictions.probabilities
    expected = metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert MEASURES["auroc"][0](predictions) == pytest.approx(expected)
    expected = metrics.average_precision_score(predictions.targets, probabilities)
    assert MEASURES["average_precision"][0](predictions) == pytest.approx(expected)


def test_intervals_resample_groups() -> None:
    logits = torch.tensor([[1.0, 0.0]] * 20)
    targets = torch.tensor([[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 10)
    predictions = Predictions.from_logits(logits, targets, ONE_CLASS)
    alone = measure_predictions(predictions, [str(n) for n in range(20)], 0)["accuracy"]
    grouped = measure_predictions(predictions, [str(n // 5) for n in range(20)], 0)["accuracy"]
    assert alone.value == grouped.value == 0.5
    assert grouped.ci95[1] - grouped.ci95[0] > alone.ci95[1] - alone.ci95[0] > 0.3
    assert alone == measure_predictions(predictions, [str(n) for n in range(20)], 0)["accuracy"]


def test_damaged_images_of_a_rare_class_are_told_before_the_training(
    tmp_path: Path, backbone: Classifier
) -> None:
    """Of three images of a class two are damaged, so that one part at most has the class."""
    draw, lines = torch.Generator().manual_seed(0), []
    for name in [*(f"a/{n}" for n in range(9)), *(f"b/{n}" for n in range(9)), "c/0"]:
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(torch.randint(256, (32, 32, 3), generator=draw).byte().numpy()).save(path)
    for name in ("1", "2"):
        (tmp_path / "images" / "c" / f"{name}.png").write_bytes(b"damaged")

    def train(seed: int) -> TrainedClassifier:
        run = tmp_path / f"run-{seed}"
        with redirect_warnings(lines.append), torch.inference_mode():
            return train_classifier(
                tmp_path / "images", backbone, run, steps=1, seed=seed, say=lines.append
            )

    with pytest.raises(ImagesError, match="train on that can be read, no image has c"):
        next(train(seed) for seed in range(9) if not is_learnt(tmp_path, seed))
    result = train(next(seed for seed in range(9) if is_learnt(tmp_path, seed)))
    names = {name for part in result.figures.left_out.values() for name in part}
    assert names == {"c/1.png", "c/2.png"} and "training" not in result.figures.left_out
    assert any("images cannot be read and are left out, the first because" in s for s in lines)
    assert lines[-1].startswith("AUROC and the like are means of 2 of 3 classes")
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "AUROC, the mean over 2 of 3 classes" in page and lines[-1] in page


def is_learnt(folder: Path, seed: int) -> bool:
    """Whether the only readable image of the rare class is in the part to train on."""
    parts = split_images(LearningSettings(), LearningInputs(folder / "images"), open_images, seed)
    return "c/0.png" in parts.training.source.names


def test_short_trainings_have_curves_that_begin_with_the_first_step(trained_folder: Path) -> None:
    """Of twelve steps, and of more than are drawn one by one."""
    path = trained_folder / "logs" / "metrics.csv"
    loss, right = draw_curves(path)
    assert (loss["title"], right["title"]) == ("Loss", "Training images that are right")
    assert [len(places) for places in map(find_places, (loss, right))] == [12, 12]
    wide = WIDTH - LEFT - RIGHT
    assert find_places(loss) == pytest.approx([LEFT + wide * n / 12 for n in range(1, 13)], abs=0.1)


def test_long_curves_are_means_at_the_mean_of_their_steps(tmp_path: Path) -> None:
    path, wide = tmp_path / "metrics.csv", WIDTH - LEFT - RIGHT
    path.write_text("step,loss\n" + "".join(f"{step},1.0\n" for step in range(9, 1200, 10)))
    (loss,) = draw_curves(path)  # 120 rows: of steps 10 and 20 the mean, and so on
    assert find_places(loss) == pytest.approx(
        [LEFT + wide * step / 1200 for step in range(15, 1200, 20)], abs=0.1
    )


def find_places(chart: dict[str, Any]) -> list[float]:
    """Where the points of the curve are, from the left edge of the drawing."""
    (polyline,) = ElementTree.fromstring(chart["drawing"]).iter("polyline")
    return [float(pair.split(",")[0]) for pair in polyline.get("points", "").split(" ")]


@pytest.mark.parametrize(("count", "words"), [(5, "1 more mistake<"), (7, "3 more mistakes<")])
def test_the_page_counts_the_mistakes_that_are_folded(count: int, words: str) -> None:
    figure = Figure("image", "data:,", "an image")
    page = render_page(
        '{% import "macros.html" as ui %}{{ ui.rows(mistakes, 4, "mistake") }}',
        mistakes=[FigureRow("wrong", "a.png", [figure])] * count,
    )
    assert words in page


def test_figures_that_cannot_be_measured_are_read_again() -> None:
    logits, targets = torch.tensor([[2.0, 0.0]] * 2), torch.tensor([[1.0, 0.0]] * 2)
    figure = measure_predictions(Predictions.from_logits(logits, targets, ONE_CLASS), "ab", 0)
    stored = figure["auroc"].model_dump_json()
    assert '"value":null' in stored
    again = MeasuredFigure.model_validate_json(stored)
    assert again.value != again.value and again.text == "not measured"
    assert figure["accuracy"].text == "1.000 [1.000, 1.000]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"recipes": ["final_batch_norm"]},
            r"had settings.recipes \[\], now",
        ),
        ({"config": {"turned": True}}, "settings.turned False, now True"),
        ({"config": {"search": {"folds": 4}}}, "settings.search.folds 3, now 4"),
        ({"batch": 9}, "settings.schedule.batch"),
    ],
)
def test_a_search_that_has_ended_is_continued_with_the_same_settings(
    tmp_path: Path, backbone: Classifier, options: dict[str, Any], message: str
) -> None:
    run, settings = tmp_path / "run", LearningSettings()
    chosen = settings.model_copy(update={"recipes": ("frozen",)})
    run.mkdir()
    (run / "config.json").write_text(chosen.model_dump_json())
    with pytest.raises(RunError, match="had no search; leave --search out"):
        train_classifier(PLANTED, backbone, run, search=True, resume=True, **options)
    context = SearchContext(settings=settings, network="", images="", seed=0)
    (run / SEARCH).mkdir()
    (run / SEARCH / "search.json").write_text(context.model_dump_json())
    with pytest.raises(RunError, match=message):
        train_classifier(PLANTED, backbone, run, search=True, resume=True, **options)
    check_search(run, {"schedule": {"steps": 9000}}, (), None)
    check_search(run, None, (), settings.schedule.batch)


def test_the_report_has_a_table_of_the_trials(tmp_path: Path, backbone: Classifier) -> None:
    run, settings = tmp_path / "run", LearningSettings()
    trials = ({"rate": "0.001", "recipes": "frozen"}, {"rate": "0.01", "recipes": "full"})
    schedule = settings.schedule.model_copy(update={"rate": 0.01})
    chosen = settings.model_copy(update={"recipes": ("full",), "schedule": schedule})
    found = SearchResult(by="auroc", trials=trials, scores=(0.5, 0.625), best=1, settings=chosen)
    (run / SEARCH).mkdir(parents=True)
    (run / SEARCH / CHOICE).write_text(found.model_dump_json())
    assert find_choice(run, settings) is None  # those of another training
    train_classifier(PLANTED, backbone, run, config=chosen, steps=1, say=lambda line: None)
    page = (run / "report.html").read_text(encoding="utf-8")
    table = page.split("The search for the settings")[1].split("</table>")[0]
    rows = [row for row in table.split("<tr>") if "0.01" in row or "0.001" in row]
    assert len(rows) == 2 and "chosen" in rows[1] and "0.625" in rows[1]
    assert "chosen" not in rows[0] and "frozen" in rows[0] and "0.500" in rows[0]
