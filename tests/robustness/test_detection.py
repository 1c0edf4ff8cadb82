"""Detectors against closed forms and another library's parts; what the features depend on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from apercu import open_classifier, open_images
from apercu.classifiers import ClassifierCard, InputSpec, wrap_module
from apercu.errors import ConfigError, ImagesError
from apercu.explainers.run_folder import load_explainer
from apercu.filters import BitDepth, Jpeg
from apercu.methods import Cam
from apercu.robustness.attacks import Fgsm
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
from apercu.robustness.detection.benchmark import DetectionBenchmark, make_rows
from apercu.robustness.detection.detect import detect_attacks
from apercu.robustness.detection.detectors.calibrated import (
    CalibratedDetector,
    cross_validated_scores,
)
from apercu.robustness.detection.features import FeatureExtractor, parse_extractors
from apercu.statistics import auroc

TRAINING = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)
EVERY: tuple[Detector, ...] = (Autoencoder(steps=200), OneClassSvm(), Mahalanobis())


@pytest.mark.parametrize("detector", EVERY, ids=repr)
def test_every_detector(detector: Detector) -> None:
    before = TRAINING.clone()
    score = detector.fit(TRAINING)
    assert torch.equal(TRAINING, before)
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(200, 6, generator=generator) * torch.arange(1, 7)
    far = clean + 8 * torch.arange(1, 7)
    near, anomalous = score(clean), score(far)
    assert near.shape == (200,) and near.dtype == torch.float32
    assert auroc(near.double().numpy(), anomalous.double().numpy()) > 0.99
    assert torch.equal(detector.fit(TRAINING)(clean), near)
    torch.testing.assert_close(score(clean[:1]), near[:1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        detector.fit(3 * TRAINING + 2)(3 * clean + 2), near, rtol=2e-2, atol=2e-2
    )  # the units of a feature do not matter
    with pytest.raises(ImagesError, match="at least 20 clean images to learn from, got 5"):
        detector.fit(TRAINING[:5])


def test_mahalanobis_is_the_distance_in_standard_deviations() -> None:
    """Many images of independent features: the sum of squared z-scores."""
    many = torch.randn(20000, 4, generator=torch.Generator().manual_seed(2))
    image = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.0, 2.0]])
    result = Mahalanobis().fit(many)(image)
    assert result.tolist() == pytest.approx([0.0, 9.0], rel=0.05, abs=0.01)


def test_the_area_is_that_of_another_library() -> None:
    generator = np.random.default_rng(3)
    clean, attacked = generator.normal(size=70).round(1), generator.normal(1, size=50).round(1)
    truth = np.r_[np.zeros(70), np.ones(50)]
    assert auroc(clean, attacked) == pytest.approx(roc_auc_score(truth, np.r_[clean, attacked]))


class Sum(Detector):
    """Scores the sum of the features."""

    def fit_standardised(self, training: torch.Tensor):  # type: ignore[no-untyped-def]
        return lambda features: features.sum(1)


def test_rows_by_hand() -> None:
    training, clean = torch.linspace(-1, 1, 101)[:, None], torch.linspace(-1, 1, 40)[:, None]
    attacked = torch.tensor([[0.0], [2.0], [3.0]])
    case = ("pgd", 0.1, "map", "sum")
    score = CalibratedDetector.fit(Sum(), training, clean)
    rows = {row.metric: row for row in make_rows(case, score, attacked, 0)}
    assert {row.n for row in rows.values()} == {3}
    assert rows["detected"].value == pytest.approx(2 / 3)
    assert rows["auroc"].value == pytest.approx((0.5 + 1 + 1) / 3)
    threshold = np.quantile(cross_validated_scores(training, Sum()), 0.95)
    alarms = (Sum().fit(training)(clean).numpy() > threshold).mean()
    assert 0.03 < alarms < 0.08
    assert rows["accuracy"].value == pytest.approx((2 / 3 + 1 - alarms) / 2)


def test_no_accuracy_is_certain() -> None:
    training, clean = torch.linspace(-1, 1, 300)[:, None], torch.zeros(20, 1)
    score = CalibratedDetector.fit(Sum(), training, clean)
    rows = {row.metric: row for row in make_rows(("a", None, "b", "c"), score, clean + 9, 0)}
    wilson = 1.96**2 / (20 + 1.96**2)  # how far a fraction of 20 of 20 may be from 1
    assert rows["detected"].ci95 == pytest.approx((1 - wilson, 1), abs=1e-3)
    low = 1 - (2 * wilson**2) ** 0.5 / 2  # Newcombe, of two such fractions
    assert rows["accuracy"].value == 1
    assert rows["accuracy"].ci95 == pytest.approx((low, 1), abs=1e-3)


def test_feature_extractors(tiny_card: Path, tiny_run: Path) -> None:
    classifier, explainer = open_classifier(tiny_card), load_explainer(tiny_run)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    extractors = (
        MapFeatures(classifier, explainer),
        StabilityFeatures(classifier, explainer, BitDepth(8)),
        MethodMapFeatures(classifier, Cam()),
        DeepFeatures(classifier),
    )
    for extractor in extractors:
        features = extractor(images)
        assert len(features) == 3 and features.isfinite().all() and not features.requires_grad
        torch.testing.assert_close(extractor(images[:1]), features[:1], rtol=1e-3, atol=1e-4)
    eight_bit = (255 * images).round() / 255  # the filter does not change these
    still = StabilityFeatures(classifier, explainer, BitDepth(8))(eight_bit)
    torch.testing.assert_close(still[:, 0], torch.ones(3))
    torch.testing.assert_close(still[:, 1:], torch.zeros_like(still[:, 1:]), atol=1e-6, rtol=0)
    sorted_map = MethodMapFeatures(classifier, Cam())(images)
    assert (sorted_map.diff(dim=1) <= 0).all()


def test_the_filter_of_stability_is_named(tiny_card: Path, tiny_run: Path) -> None:
    classifier, explainer = open_classifier(str(tiny_card)), load_explainer(tiny_run)
    named = parse_extractors("stability,stability:jpeg:quality=30,cam", classifier, explainer)
    filters = [
        extractor.filter for extractor in named.values() if isinstance(extractor, StabilityFeatures)
    ]
    assert filters == [Jpeg(75), Jpeg(30)]
    for text, line in (
        ("stability:none", "needs a filter that changes images"),
        ("stability:medain", "did you mean median"),
        ("map:median", "expected some of map"),
    ):
        with pytest.raises(ConfigError, match=line):
            parse_extractors(text, classifier, explainer)


def test_the_map_of_an_own_method_is_a_feature(
    tiny_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "def own_map(classifier, images, targets):\n    return images.mean(dim=1)\n"
    (tmp_path / "own_features.py").write_text(text)
    named = parse_extractors("own_features:own_map", open_classifier(tiny_card), None)
    assert named["own_features:own_map"](torch.rand(2, 3, 32, 32)).shape[0] == 2


def test_gradient_shap_is_a_feature(tiny_card: Path, tmp_path: Path) -> None:
    """With baselines of one's own, other files of these are other features."""
    classifier = open_classifier(tiny_card)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "one.png")
    text = f"gradient_shap:samples=2,gradient_shap:samples=2,baselines={tmp_path}"
    named = parse_extractors(text, classifier, None)
    features = [extractor(torch.rand(2, 3, 32, 32)) for extractor in named.values()]
    assert [each.shape for each in features] == [(2, 49), (2, 49)]
    assert all((each.diff(dim=1) <= 0).all() for each in features)
    benchmark = DetectionBenchmark.__new__(DetectionBenchmark)
    object.__setattr__(benchmark, "extractors", named)
    before = benchmark.describe_extractors()
    assert list(before) == list(named) and len({texts[1] for texts in before.values()}) == 2
    os.utime(tmp_path / "one.png", (1, 1))
    assert benchmark.describe_extractors() != before


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="one_class_svm: nu: expected a number between 0 and 1"):
        OneClassSvm(nu=1.0)
    with pytest.raises(ConfigError, match="autoencoder: steps: expected a number of at least 1"):
        Autoencoder(steps=0)


class Nearby(Detector):
    """Scores the distance to the nearest training image."""

    def fit_standardised(self, training: torch.Tensor):  # type: ignore[no-untyped-def]
        return lambda features: (features[:, None] - training).norm(dim=2).amin(1)


def test_a_threshold_comes_from_images_that_were_not_trained_on() -> None:
    assert (Nearby().fit(TRAINING)(TRAINING) < 1e-2).all()  # all of them would be an alarm
    scores = cross_validated_scores(TRAINING, Nearby())
    assert (scores > 1e-2).all()
    generator = torch.Generator().manual_seed(9)
    clean = torch.randn(2000, 6, generator=generator) * torch.arange(1, 7)
    alarms = Nearby().fit(TRAINING)(clean).double().numpy() > np.quantile(scores, 0.95)
    assert 0.01 < alarms.mean() < 0.1


class Brightness(torch.nn.Module):
    """Two classes that are decided by themselves; neither is predicted of a dark image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = 100 * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([mean, mean - 200], 1)


class Means(FeatureExtractor):
    """The mean of each image."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).cpu()


def test_an_image_without_a_predicted_class_is_no_attacked_image(tmp_path: Path) -> None:
    """It has no class to lose, so that the unchanged image would count as one that fools."""
    for index in range(60):
        level = 150 if index % 2 else 40
        Image.new("RGB", (8, 8), (level, level, level - index % 7)).save(tmp_path / f"{index}.png")
    card = ClassifierCard(source="brightness", input=InputSpec(size=(8, 8)), output="sigmoid")
    classifier = wrap_module(Brightness(), card)
    benchmark = DetectionBenchmark(
        classifier,
        open_images(tmp_path),
        {"means": Means()},
        {"mahalanobis": Mahalanobis()},
        {("fgsm", 0.01): Fgsm(0.01), ("fgsm", 0.2): Fgsm(0.2)},
    )
    rows = detect_attacks(benchmark, tmp_path / "out")
    images = [open_images(tmp_path)[record.index] for record in benchmark.sample.test]
    bright = sum(float(image.picture.mean()) > 0.5 for image in images)
    assert 0 < bright < len(images)
    assert {(row.epsilon, row.n) for row in rows} == {(0.2, bright)}
    stored = json.loads((tmp_path / "out" / "detection.json").read_text())
    assert stored["without_class"] == len(images) - bright
