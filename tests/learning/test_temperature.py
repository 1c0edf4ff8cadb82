"""The temperature of a card: probabilities are scaled wherever a classifier is used."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from apercu import methods, open_classifier, train_classifier
from apercu.classifiers import Classifier, save_classifier
from apercu.classifiers.calibration import Reliability, fit_temperature, measure_reliability
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS, Decision
from apercu.classifiers.outputs import Output
from apercu.deploy.inference import open_engine
from apercu.errors import ClassifierError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.kind import find_kind
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.learning.data import weigh_classes
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Task
from apercu.log import redirect_warnings

from .conftest import PLANTED

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEMPERATURE = 2.5


@pytest.fixture
def scale_card(tiny_card: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the tiny classifier, with changes of its card."""

    def scale(**changes: object) -> Path:
        folder = tmp_path / "scaled"
        shutil.copytree(tiny_card.parent, folder, dirs_exist_ok=True)
        content = json.loads((folder / "card.json").read_text()) | changes
        (folder / "card.json").write_text(json.dumps(content))
        return folder / "card.json"

    return scale


@pytest.fixture
def scaled(scale_card: Callable[..., Path]) -> Classifier:
    return open_classifier(scale_card(temperature=TEMPERATURE), trust=True)


def test_logits_are_divided_where_the_numbers_become_logits(
    tiny_card: Path, scaled: Classifier
) -> None:
    plain = open_classifier(tiny_card, trust=True)
    torch.testing.assert_close(scaled(IMAGES), plain(IMAGES) / TEMPERATURE)
    expected = (plain(IMAGES) / TEMPERATURE).softmax(1)
    torch.testing.assert_close(scaled.predict_probabilities(IMAGES), expected)
    assert scaled.fingerprint != plain.fingerprint


@pytest.mark.parametrize("output", ["sigmoid", "sigmoid_probabilities", "probabilities"])
def test_every_output_that_is_classes_has_one(output: Any) -> None:
    numbers = torch.tensor([[0.2, 0.5, 0.3]])
    plain = Output(name=output, columns=3)
    hot = plain.model_copy(update={"temperature": TEMPERATURE})
    expected = plain.convert_to_logits(numbers) / TEMPERATURE
    torch.testing.assert_close(hot.convert_to_logits(numbers), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": "warm"},
        {"temperature": "2"},
        {"temperature": True},
        {"temperature": [2]},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 1e-320},
        {"temperature": 1e300},
        {"temperature": 2, "output": "value"},
    ],
)
def test_a_wrong_temperature_is_refused(
    scale_card: Callable[..., Path], changes: dict[str, object]
) -> None:
    with pytest.raises(ClassifierError, match="temperature"):
        open_classifier(scale_card(**changes), trust=True)


def test_a_saved_classifier_keeps_it(scaled: Classifier, tmp_path: Path) -> None:
    card = save_classifier(scaled, tmp_path / "saved")
    again = open_classifier(card, trust=True)
    assert again.fingerprint == scaled.fingerprint
    torch.testing.assert_close(again(IMAGES), scaled(IMAGES))


def test_methods_explain_the_scaled_logits(tiny_card: Path, scaled: Classifier) -> None:
    plain = open_classifier(tiny_card, trust=True)
    gradient = methods.get("gradient")
    first, second = (gradient(each, IMAGES, 1) for each in (plain, scaled))
    torch.testing.assert_close(second, first / TEMPERATURE, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        methods.get("cam")(scaled, IMAGES, 1),
        methods.get("cam")(plain, IMAGES, 1) / TEMPERATURE,
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("preset", [pytest.param("light", marks=pytest.mark.slow), "small"])
def test_an_export_contains_it(
    scaled: Classifier, preset: str, export_alone: Callable[..., None], tmp_path: Path
) -> None:
    settings = MASK_PRESETS.parse({"preset": preset, "decoder": {"width": 16, "resolution": 2}})
    info, kind = ClassifierInfo.from_classifier(scaled), find_kind("mask")
    own = scaled if settings.encoder == "own" else None
    network = kind.build_network(settings, info, own, pretrained=False)
    network.gate.set_threshold(0.5, 0.0)
    explainer = kind.explainer(network, info, settings, {})
    export_alone(explainer, tmp_path, scaled)
    explained = open_engine(tmp_path)(IMAGES)
    expected = scaled.predict_probabilities(IMAGES).detach()
    np.testing.assert_allclose(explained.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("decision", [ONE_CLASS, EACH_CLASS])
def test_restored_frequencies_undo_the_weights_of_the_classes(decision: Decision) -> None:
    """Of noise that says nothing of the class, only the frequencies are left to learn."""
    targets = torch.tensor([[1.0, 0.0]] * 9 + [[0.0, 1.0]])
    weights = weigh_classes(targets, decision, balanced=True)
    logits = torch.zeros(1, 2, requires_grad=True)
    task = cast(Any, SimpleNamespace(class_weights=weights, decision=decision))
    optimiser = torch.optim.LBFGS([logits], max_iter=50, tolerance_grad=1e-9)

    def compute_loss() -> torch.Tensor:
        optimiser.zero_grad()
        loss = Task.compute_loss(task, logits.expand(10, 2), targets).mean()
        loss.backward()
        return loss

    optimiser.step(compute_loss)
    probabilities = decision.probabilities(logits.detach())
    torch.testing.assert_close(probabilities, torch.full((1, 2), 0.5), atol=1e-3, rtol=0)
    present, absent = weights.log()
    shifted = logits.detach() + (absent - present if decision.is_multiple else -present)
    expected = torch.tensor([[0.9, 0.1]])
    torch.testing.assert_close(decision.probabilities(shifted), expected, atol=1e-3, rtol=0)


def test_the_shift_is_in_the_last_layer(build_network: Callable[[], LearningNetwork]) -> None:
    network, shift = build_network().eval(), torch.tensor([0.5, -1.0, 2.0])
    before = network(IMAGES)
    network.add_to_logits(shift)
    assert network.kept_source is not None
    torch.testing.assert_close(network(IMAGES), before + shift)
    network.set_head(torch.nn.Sequential(network.head))
    network.add_to_logits(shift)
    assert network.kept_source is None
    torch.testing.assert_close(network(IMAGES), before + 2 * shift)


def test_the_temperature_is_that_of_the_best_cross_entropy() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=draw)
    labels = (logits / 1.7).softmax(1).multinomial(1, generator=draw)[:, 0]
    targets = torch.nn.functional.one_hot(labels, 3).float()
    assert fit_temperature(3 * logits, targets, ONE_CLASS) == pytest.approx(3 * 1.7, rel=0.1)
    grid = [0.1 * step for step in range(10, 100)]
    costs = [ONE_CLASS.cross_entropy(3 * logits / t, targets).mean() for t in grid]
    best = grid[int(torch.stack(costs).argmin())]
    assert fit_temperature(3 * logits, targets, ONE_CLASS) == pytest.approx(best, abs=0.1)
    few = fit_temperature(3 * logits[:2], targets[:2], ONE_CLASS)
    assert 0.1 < few < 10


@pytest.mark.parametrize(
    ("scale", "words"),
    [(1e3, "20 is the largest"), (1e-2, "0.05 is the smallest"), (3.0, None)],
)
def test_a_temperature_at_an_end_of_its_range_is_told(scale: float, words: str | None) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 3, generator=draw)
    labels = logits.softmax(1).multinomial(1, generator=draw)[:, 0]
    targets = torch.nn.functional.one_hot(labels, 3).float()
    lines: list[str] = []
    with redirect_warnings(lines.append):
        fit_temperature(scale * logits, targets, ONE_CLASS)
    assert len(lines) == (words is not None)
    if words is not None:
        assert lines[0].startswith(f"temperature: {words} that is tried, and the logits are still")


def test_the_report_and_the_terminal_tell_of_a_temperature_at_an_end(
    backbone: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apercu.classifiers.calibration.RANGE", (-1e-3, 1e-3))
    lines: list[str] = []
    with redirect_warnings(lines.append):
        train_classifier(PLANTED, backbone, tmp_path, steps=1, batch=4, say=lambda line: None)
    (line,) = (line for line in lines if line.startswith("temperature: "))
    assert line.split(": ")[1].split(",")[0] in (tmp_path / "report.html").read_text()


def test_the_calibration_error_is_the_mean_distance_over_bins() -> None:
    rows = [[0.92, 0.08], [0.92, 0.08], [0.45, 0.55], [0.25, 0.75]]
    probabilities = torch.tensor(rows, dtype=torch.double)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    bins = measure_reliability(probabilities, targets, is_multiple=False, bins=10)
    assert bins.counts == (1, 1, 2)
    assert bins.error == pytest.approx((0.45 + 0.25 + 2 * 0.42) / 4)


@pytest.mark.parametrize("confidence", [0.3, 0.5, 0.97])
def test_few_predictions_have_a_calibration_error_by_chance(confidence: float) -> None:
    counts = (1, 2, 7, 40)
    bins = Reliability((confidence,) * 4, (1.0,) * 4, counts)
    expected = sum(
        math.comb(count, right)
        * confidence**right
        * (1 - confidence) ** (count - right)
        * abs(right - count * confidence)
        for count in counts
        for right in range(count + 1)
    )
    assert bins.chance_error == pytest.approx(expected / sum(counts))
    assert Reliability((1.0, 0.0), (1.0, 0.0), (3, 2)).chance_error == 0


def test_few_images_do_not_make_a_calibration_bad() -> None:
    assert Reliability((0.7,), (0.8,), (20,)).is_good
    assert not Reliability((0.7,), (0.8,), (2000,)).is_good
    assert Reliability((0.7,), (0.72,), (10**6,)).is_good


def test_a_classifier_that_is_trained_further_keeps_its_filter(
    scale_card: Callable[..., Path],
) -> None:
    start = open_classifier(scale_card(filter="bit_depth:bits=1"), trust=True)
    network = make_network(start, 2, 0, scratch=False)
    trained = network.to_classifier(("a", "b"), ONE_CLASS)
    assert trained.network.filter == "bit_depth:bits=1"
    torch.testing.assert_close(trained(IMAGES), trained.without_filter()(IMAGES.round()))
