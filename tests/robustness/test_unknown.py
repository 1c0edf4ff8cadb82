"""Unknown images: contract of every method, and the methods that need no training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.covariance import LedoitWolf
from torch import Tensor

from apercu import open_classifier
from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError, ImageError, ImagesError, RunError
from apercu.robustness.unknown import (
    UNKNOWN_METHODS,
    AnomalyMapScorer,
    ConditionalGenerator,
    Energy,
    Entropy,
    KnownImages,
    LayerMahalanobis,
    MaxSoftmax,
    UnknownMethod,
    load_scorer,
    parse_unknown_methods,
    restore_scorer,
    save_scorer,
)
from apercu.robustness.unknown.base import ScorerState
from apercu.robustness.unknown.mahalanobis import LayerGaussians, find_chi_square_quantile
from apercu.statistics import auroc, build_gaussian, shrink_covariance

SIDE = 16
DrawFn = Callable[..., tuple[Tensor, Tensor]]
WrapFn = Callable[..., Classifier]
FAST: dict[str, UnknownMethod] = {
    "max_softmax": MaxSoftmax(),
    "entropy": Entropy(),
    "energy": Energy(),
    "mahalanobis": LayerMahalanobis(maps=True),
}


def test_the_registry_names_every_method() -> None:
    def find_final(method: type[UnknownMethod]) -> set[type[UnknownMethod]]:
        below = method.__subclasses__()
        return {method} if not below else set().union(*map(find_final, below))

    own = {each for each in find_final(UnknownMethod) if each.__module__.startswith("apercu.")}
    assert set(UNKNOWN_METHODS.values()) == own
    assert all(name == method.name for name, method in UNKNOWN_METHODS.items())


@pytest.mark.parametrize("name", FAST)
def test_every_fast_method(
    name: str, known: KnownImages, tmp_path: Path, draw_bars: DrawFn
) -> None:
    """Same numbers again, alone and in a batch; kept and loaded with identical scores."""
    method, before = FAST[name], known.images.clone()
    scorer = method.fit(known)
    images = torch.cat([draw_bars(10, seed=2)[0], draw_bars(10, seed=3, kind="unknown")[0]])
    scores = scorer.score(images)
    assert scores.shape == (20,) and scores.dtype == torch.float32 and not scores.requires_grad
    assert torch.equal(known.images, before)
    assert torch.equal(method.fit(known).score(images), scores)
    torch.testing.assert_close(scorer.score(images[3:4]), scores[3:4], rtol=1e-4, atol=1e-5)
    loaded = load_scorer(str(save_scorer(scorer, str(tmp_path))), known.classifier)
    assert loaded.method == method
    assert torch.equal(loaded.score(images), scores)
    assert torch.equal(loaded.predict_probabilities(images), scorer.predict_probabilities(images))
    if isinstance(scorer, AnomalyMapScorer):
        assert isinstance(loaded, AnomalyMapScorer)
        maps = scorer.map_anomalies(images)
        assert maps.shape == (20, SIDE, SIDE)
        assert torch.equal(loaded.map_anomalies(images), maps)


def test_settings_with_older_names_are_read(
    known: KnownImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    (method,) = parse_unknown_methods("conditional_generator:real_share=0.5").values()
    assert method == ConditionalGenerator(real_fraction=0.5)
    monkeypatch.setattr(Energy, "renamed_settings", {"warmth": "temperature"})
    scorer = restore_scorer(ScorerState("energy", {"warmth": 3.0}, {}), known.classifier)
    assert scorer.method == Energy(3.0)


def test_softmax_entropy_and_energy_are_their_formulas(known: KnownImages) -> None:
    images = known.images[:5]
    with torch.no_grad():
        logits = known.classifier(images).double()
    probabilities = logits.softmax(1)
    expected = {
        MaxSoftmax(): 1 - probabilities.max(1).values,
        Entropy(): torch.distributions.Categorical(probs=probabilities).entropy(),
        Energy(2.0): -2 * (logits / 2).exp().sum(1).log(),
    }
    for method, values in expected.items():
        scores = method.fit(known).score(images)
        torch.testing.assert_close(scores, values.float(), rtol=1e-4, atol=1e-5)


def test_independent_classes_have_their_own_formulas(
    bars: Classifier, draw_bars: DrawFn, wrap_bars: WrapFn
) -> None:
    assert bars.module is not None
    several = wrap_bars(bars.module, output="sigmoid")
    known = KnownImages(several, draw_bars(20, seed=1)[0])
    with torch.no_grad():
        chances = several(known.images).double().sigmoid()
    wrong = chances.minimum(1 - chances).mean(1)
    torch.testing.assert_close(
        MaxSoftmax().fit(known).score(known.images), wrong.float(), rtol=1e-4, atol=1e-6
    )
    entropy = torch.distributions.Bernoulli(probs=chances).entropy().mean(1)
    torch.testing.assert_close(
        Entropy().fit(known).score(known.images), entropy.float(), rtol=1e-3, atol=1e-5
    )
    energy = (1 - chances).log().sum(1)
    torch.testing.assert_close(
        Energy().fit(known).score(known.images), energy.float(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("count", [12, 500])
def test_the_covariance_is_shrunk_as_by_another_library(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn(count, 7, generator=generator).double() * torch.arange(1, 8)
    centred = rows - rows.mean(0)
    fourth = float(centred.square().sum(1).square().sum())
    covariance = shrink_covariance(centred.T @ centred / count, fourth, count)
    estimate = LedoitWolf().fit(rows.numpy())
    np.testing.assert_allclose(covariance.numpy(), estimate.covariance_, rtol=1e-9)
    gaussian = build_gaussian(rows.mean(0), covariance)
    distances = (centred @ gaussian.whitening.T).square().sum(1)
    np.testing.assert_allclose(distances.numpy(), estimate.mahalanobis(rows.numpy()), rtol=1e-8)


def test_few_components_explain_their_variance() -> None:
    covariance = torch.diag(torch.tensor([1.0, 90.0, 9.0], dtype=torch.double))
    point = torch.tensor([2.0, 30.0, 6.0], dtype=torch.double)
    squares = {"all": 4 + 10 + 4, "high": 10 + 4, "low": 4}
    for components, square in squares.items():
        gaussian = build_gaussian(torch.zeros(3).double(), covariance, components, variance=0.95)  # type: ignore[arg-type]
        assert float((gaussian.whitening @ point).square().sum()) == pytest.approx(square)


@pytest.mark.parametrize(("probability", "freedom"), [(0.9973, 1), (0.9973, 1280), (0.5, 24)])
def test_the_quantile_is_that_of_another_library(probability: float, freedom: int) -> None:
    expected = chi2.ppf(probability, freedom)
    assert find_chi_square_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9)


def test_mahalanobis_adds_the_distances_of_all_layers(
    known: KnownImages, draw_bars: DrawFn
) -> None:
    """The paper literally: hooks, spatial means, and a distance in each layer."""
    outputs: list[Tensor] = []
    network = known.classifier.module
    assert network is not None

    def compute_features(images: Tensor) -> list[np.ndarray]:  # type: ignore[type-arg]
        outputs.clear()
        handles = [
            layer.register_forward_hook(lambda *call: outputs.append(call[2]))
            for layer in (network.first, network.second)
        ]
        network(2 * images - 1)
        for handle in handles:
            handle.remove()
        return [output.detach().mean((2, 3)).double().numpy() for output in outputs]

    others = draw_bars(8, seed=5, kind="unknown")[0]
    training, test = compute_features(known.images), compute_features(others)
    expected = sum(
        np.sqrt(LedoitWolf().fit(first).mahalanobis(second))
        for first, second in zip(training, test, strict=True)
    )
    scores = LayerMahalanobis().fit(known).score(others)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-3)


def test_mahalanobis_finds_what_is_unknown_and_where(known: KnownImages, draw_bars: DrawFn) -> None:
    for method in (LayerMahalanobis(maps=True), LayerMahalanobis("low", 0.9, maps=True)):
        scorer = method.fit(known)
        honest = scorer.score(draw_bars(60, seed=2)[0])
        others = scorer.score(draw_bars(60, seed=3, kind="unknown")[0])
        assert auroc(honest.numpy(), others.numpy()) > 0.99
        threshold = scorer.find_threshold()
        assert (others > threshold).float().mean() > 0.9
        assert (honest > threshold).float().mean() < 0.2
        clean = draw_bars(20, seed=4)[0]
        patched = clean.clone()
        patched[:, 0, 4:8, 8:12] = 1.0
        change = scorer.map_anomalies(patched) - scorer.map_anomalies(clean)
        inside = change[:, 4:8, 8:12].mean((1, 2))
        change[:, 2:10, 6:14] = 0  # and what lies in the reach of the convolutions
        assert inside.mean() > 10 * change.abs().mean()
        assert (inside > 0).float().mean() > 0.8


def test_positions_have_the_moments_of_their_features(known: KnownImages) -> None:
    scorer = LayerMahalanobis(maps=True).fit(known)
    network = known.classifier.module
    assert network is not None and scorer.positions is not None
    with torch.no_grad():
        maps = network.first(2 * known.images - 1)
    rows = maps.movedim(1, 3).flatten(0, 2).double().numpy()
    estimate = LedoitWolf().fit(rows)
    mean, whitening = scorer.positions.get_gaussian(0)
    np.testing.assert_allclose(mean.numpy(), estimate.location_, rtol=1e-3, atol=1e-5)
    precision = (whitening.T @ whitening).double().numpy()
    np.testing.assert_allclose(precision, estimate.precision_, rtol=2e-2, atol=1e-2)


def test_gaussians_are_a_module_that_can_be_exported(known: KnownImages) -> None:
    scorer = LayerMahalanobis().fit(known)
    maps = [torch.rand(2, 6, 8, 8), torch.rand(2, 8, 4, 4)]
    program = torch.export.export(scorer.layers, (maps,))
    torch.testing.assert_close(program.module()(maps), scorer.layers(maps))
    assert isinstance(scorer.layers, LayerGaussians)


def test_maps_must_have_been_asked_for(known: KnownImages) -> None:
    with pytest.raises(ConfigError, match="without maps; fit it with mahalanobis:maps=true"):
        LayerMahalanobis().fit(known).map_anomalies(known.images)


def test_names_with_settings() -> None:
    methods = parse_unknown_methods("energy:temperature=2,mahalanobis:components=low,maps=true")
    assert list(methods.values()) == [Energy(2.0), LayerMahalanobis("low", maps=True)]
    with pytest.raises(ConfigError, match="got mahalanobi; did you mean mahalanobis"):
        parse_unknown_methods("mahalanobi")
    with pytest.raises(ConfigError, match="one of all, high, low"):
        parse_unknown_methods("mahalanobis:components=few")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        parse_unknown_methods("mahalanobis:variance=1")
    with pytest.raises(ConfigError, match="above 0"):
        parse_unknown_methods("energy:temperature=0")


def test_images_that_nothing_can_be_learnt_from(bars: Classifier, draw_bars: DrawFn) -> None:
    images, labels = draw_bars(40, seed=1)
    with pytest.raises(ImagesError, match=r"at least 20 known images.* got 5"):
        KnownImages(bars, images[:5])
    with pytest.raises(ImagesError, match="classes from 0 to 1, got 0 to 2"):
        KnownImages(bars, images, labels + (torch.arange(40) == 7))
    with pytest.raises(ImagesError, match=r"own: learns from labels; .* such as mahalanobis"):
        KnownImages(bars, images).require_labels("own")
    with pytest.raises(ImagesError, match="own: expected known images of at least 2 classes"):
        KnownImages(bars, images, torch.zeros(40, dtype=torch.long)).require_labels("own")


def test_images_that_the_classifier_refuses_are_not_judged(known: KnownImages) -> None:
    """No score, and nothing that is fitted, for methods that do not ask the classifier, too."""
    scorers = [MaxSoftmax().fit(known), LayerMahalanobis(maps=True).fit(known)]
    small, loud = torch.rand(20, 3, 8, 8), 2 * torch.ones(20, 3, SIDE, SIDE)
    empty = torch.full((20, 3, SIDE, SIDE), torch.nan)
    for scorer in scorers:
        with pytest.raises(ClassifierError, match="expects images of 16×16 pixels, got 8×8"):
            scorer.score(small)
        for wrong in (loud, empty):
            with pytest.raises(ImageError, match=r"expected pixels in \[0, 1\]"):
                scorer.score(wrong)
    for wrong in (loud, empty):
        with pytest.raises(ImageError, match=r"expected pixels in \[0, 1\]"):
            KnownImages(known.classifier, wrong)


@pytest.mark.usefixtures("shapes_unchecked")
def test_every_image_has_a_label(bars: Classifier, draw_bars: DrawFn) -> None:
    images, labels = draw_bars(40, seed=1)
    with pytest.raises(ImagesError, match="one for each of 40 images, got 39"):
        KnownImages(bars, images, labels[:39])


def test_features_that_are_no_numbers_are_no_score(
    bars: Classifier, known: KnownImages, wrap_bars: WrapFn
) -> None:
    """A network that overflows for bright images classifies them, but cannot be judged by them."""

    class Overflow(type(bars.module)):  # type: ignore[misc]
        def forward(self, images: Tensor) -> Tensor:
            features = self.first(images)
            bright = images.amax((1, 2, 3), keepdim=True) > 0.999
            features = torch.where(bright, features / 0, features)
            logits: Tensor = self.head(self.second(features).mean((2, 3)).nan_to_num())
            return logits

    assert bars.module is not None
    network = Overflow()
    network.load_state_dict(bars.module.state_dict())
    classifier = wrap_bars(network)
    images = known.images.clone().clamp(max=0.99)
    scorer = LayerMahalanobis().fit(KnownImages(classifier, images))
    images[[3, 8], 0, 0, 0] = 1.0
    with pytest.raises(ClassifierError, match="no finite numbers for 2 of 64 images"):
        scorer.score(images)
    with pytest.raises(ClassifierError, match="no finite numbers for 2 of 64 images"):
        LayerMahalanobis().fit(KnownImages(classifier, images))


def test_classifiers_that_do_not_give_what_is_needed(bars: Classifier, draw_bars: DrawFn) -> None:
    images = draw_bars(20, seed=1)[0]
    black_box = open_classifier(
        lambda batch: torch.stack([batch.mean((1, 2, 3)), 1 - batch.mean((1, 2, 3))], 1),
        size=SIDE,
        output="probabilities",
        classes=["a", "b"],
    )
    known = KnownImages(black_box, images)
    with pytest.raises(ClassifierError, match=r"shows no layers that are maps; .* energy"):
        LayerMahalanobis().fit(known)
    with pytest.raises(ClassifierError, match="same for every image; choose max_softmax"):
        Energy().fit(known)
    assert MaxSoftmax().fit(known).score(images).isfinite().all()


def test_folders_that_hold_no_scorer(known: KnownImages, tmp_path: Path, wrap_bars: WrapFn) -> None:
    classifier = known.classifier
    with pytest.raises(RunError, match=r"holds no readable unknown\.json"):
        load_scorer(tmp_path, classifier)
    folder = save_scorer(LayerMahalanobis().fit(known), tmp_path / "kept")
    assert json.loads((folder / "unknown.json").read_text())["method"] == "mahalanobis"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        other = wrap_bars(type(classifier.module)())
    with pytest.raises(RunError, match="fitted for another classifier"):
        load_scorer(folder, other)
    state = LayerMahalanobis().fit(known).state()
    del state.tensors["layer.mean_0"]
    with pytest.raises(RunError, match="does not fit"):
        restore_scorer(state, classifier)
    with pytest.raises(RunError, match="no setting depth"):
        restore_scorer(state._replace(settings={"depth": 2}), classifier)
    with pytest.raises(RunError, match="got energies; did you mean energy"):
        restore_scorer(state._replace(method="energies"), classifier)
    (folder / "unknown.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match="holds no readable"):
        load_scorer(folder, classifier)
    assert replace(LayerMahalanobis(), maps=True) != LayerMahalanobis()
