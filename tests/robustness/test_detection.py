"""Detectors against closed forms and another library's parts; what the features depend on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from apercu import open_classifier
from apercu.errors import ConfigError, ImagesError
from apercu.explainers.run_folder import load_explainer
from apercu.methods import Cam
from apercu.robustness.detection import (
    Autoencoder,
    DeepFeatures,
    Detector,
    Mahalanobis,
    MapFeatures,
    MethodMapFeatures,
    OneClassSvm,
    StabilityFeatures,
)
from apercu.robustness.detection.benchmark import make_rows
from apercu.robustness.detection.calibration import (
    CalibratedDetector,
    auroc,
    cross_validated_scores,
)
from apercu.robustness.detection.option_strings import parse_extractors
from apercu.robustness.filters import BitDepth, Jpeg

USUAL = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)
EVERY: tuple[Detector, ...] = (Autoencoder(steps=200), OneClassSvm(), Mahalanobis())


@pytest.mark.parametrize("detector", EVERY, ids=repr)
def test_every_detector(detector: Detector) -> None:
    before = USUAL.clone()
    judge = detector.fit(USUAL)
    assert torch.equal(USUAL, before)
    generator = torch.Generator().manual_seed(1)
    honest = torch.randn(200, 6, generator=generator) * torch.arange(1, 7)
    far = honest + 8 * torch.arange(1, 7)
    near, strange = judge(honest), judge(far)
    assert near.shape == (200,) and near.dtype == torch.float32
    assert auroc(near.double().numpy(), strange.double().numpy()) > 0.99
    assert torch.equal(detector.fit(USUAL)(honest), near)
    torch.testing.assert_close(judge(honest[:1]), near[:1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        detector.fit(3 * USUAL + 2)(3 * honest + 2), near, rtol=2e-2, atol=2e-2
    )  # the units of a feature do not matter
    with pytest.raises(ImagesError, match="at least 20 honest ones to learn from, got 5"):
        detector.fit(USUAL[:5])


def test_mahalanobis_is_the_distance_in_units_of_what_is_usual() -> None:
    """Many images of independent features: the sum of squared z-scores."""
    many = torch.randn(20000, 4, generator=torch.Generator().manual_seed(2))
    shown = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.0, 2.0]])
    found = Mahalanobis().fit(many)(shown)
    assert found.tolist() == pytest.approx([0.0, 9.0], rel=0.05, abs=0.01)


def test_the_area_is_that_of_another_library() -> None:
    generator = np.random.default_rng(3)
    honest, attacked = generator.normal(size=70).round(1), generator.normal(1, size=50).round(1)
    truth = np.r_[np.zeros(70), np.ones(50)]
    assert auroc(honest, attacked) == pytest.approx(roc_auc_score(truth, np.r_[honest, attacked]))


class Sum(Detector):
    """What is usual is 0."""

    def fit_standardised(self, usual: torch.Tensor):  # type: ignore[no-untyped-def]
        return lambda features: features.sum(1)


def test_rows_are_what_their_names_say() -> None:
    usual, honest = torch.linspace(-1, 1, 101)[:, None], torch.linspace(-1, 1, 40)[:, None]
    attacked = torch.tensor([[0.0], [2.0], [3.0]])
    case = ("pgd", 0.1, "map", "sum")
    judge = CalibratedDetector.fit(Sum(), usual, honest)
    rows = {row.metric: row for row in make_rows(case, judge, attacked, 0)}
    assert {row.n for row in rows.values()} == {3}
    assert rows["detected"].value == pytest.approx(2 / 3)
    assert rows["auroc"].value == pytest.approx((0.5 + 1 + 1) / 3)
    threshold = np.quantile(cross_validated_scores(usual, Sum()), 0.95)
    alarms = (Sum().fit(usual)(honest).numpy() > threshold).mean()
    assert 0.03 < alarms < 0.08
    assert rows["accuracy"].value == pytest.approx((2 / 3 + 1 - alarms) / 2)


def test_no_accuracy_is_certain() -> None:
    usual, honest = torch.linspace(-1, 1, 300)[:, None], torch.zeros(20, 1)
    judge = CalibratedDetector.fit(Sum(), usual, honest)
    rows = {row.metric: row for row in make_rows(("a", None, "b", "c"), judge, honest + 9, 0)}
    wilson = 1.96**2 / (20 + 1.96**2)  # how far a share of 20 of 20 may be from 1
    assert rows["detected"].ci95 == pytest.approx((1 - wilson, 1), abs=1e-3)
    low = 1 - (2 * wilson**2) ** 0.5 / 2  # Newcombe, of two such shares
    assert rows["accuracy"].value == 1
    assert rows["accuracy"].ci95 == pytest.approx((low, 1), abs=1e-3)


def test_looks(tiny_card: Path, tiny_run: Path) -> None:
    classifier, explainer = open_classifier(tiny_card), load_explainer(tiny_run)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    looks = (
        MapFeatures(classifier, explainer),
        StabilityFeatures(classifier, explainer, BitDepth(8)),
        MethodMapFeatures(classifier, Cam()),
        DeepFeatures(classifier),
    )
    for look in looks:
        seen = look(images)
        assert len(seen) == 3 and seen.isfinite().all() and not seen.requires_grad
        torch.testing.assert_close(look(images[:1]), seen[:1], rtol=1e-3, atol=1e-4)
    eight_bit = (255 * images).round() / 255  # which the filter leaves as they are
    still = StabilityFeatures(classifier, explainer, BitDepth(8))(eight_bit)
    torch.testing.assert_close(still[:, 0], torch.ones(3))
    torch.testing.assert_close(still[:, 1:], torch.zeros_like(still[:, 1:]), atol=1e-6, rtol=0)
    sorted_map = MethodMapFeatures(classifier, Cam())(images)
    assert (sorted_map.diff(dim=1) <= 0).all()


def test_what_a_map_should_stand_is_named(tiny_card: Path, tiny_run: Path) -> None:
    classifier, explainer = open_classifier(str(tiny_card)), load_explainer(tiny_run)
    named = parse_extractors("stability,stability:jpeg:quality=30,cam", classifier, explainer)
    filters = [look.filter for look in named.values() if isinstance(look, StabilityFeatures)]
    assert filters == [Jpeg(75), Jpeg(30)]
    for text, line in (
        ("stability:none", "needs a filter that changes images"),
        ("stability:medain", "did you mean median"),
        ("map:median", "expected some of map"),
    ):
        with pytest.raises(ConfigError, match=line):
            parse_extractors(text, classifier, explainer)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="one_class_svm: nu: expected a number between 0 and 1"):
        OneClassSvm(nu=1.0)
    with pytest.raises(ConfigError, match="autoencoder: steps: expected a number of at least 1"):
        Autoencoder(steps=0)


class Nearby(Detector):
    """Strange is what it has not seen: the distance to the nearest that it has."""

    def fit_standardised(self, usual: torch.Tensor):  # type: ignore[no-untyped-def]
        return lambda features: (features[:, None] - usual).norm(dim=2).amin(1)


def test_a_threshold_comes_from_images_that_were_not_learnt() -> None:
    assert (Nearby().fit(USUAL)(USUAL) < 1e-2).all()  # all of them would be an alarm
    scores = cross_validated_scores(USUAL, Nearby())
    assert (scores > 1e-2).all()
    generator = torch.Generator().manual_seed(9)
    honest = torch.randn(2000, 6, generator=generator) * torch.arange(1, 7)
    alarms = Nearby().fit(USUAL)(honest).double().numpy() > np.quantile(scores, 0.95)
    assert 0.01 < alarms.mean() < 0.1
