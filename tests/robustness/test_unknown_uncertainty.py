"""OpenMax, dropout and ensembles: closed forms, other libraries, and what their idea changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import weibull_min
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError, ImagesError
from apercu.robustness.unknown import KnownImages, UnknownMethod, load_scorer, save_scorer
from apercu.robustness.unknown.deep_ensemble import DeepEnsemble, DeepEnsembleScorer
from apercu.robustness.unknown.monte_carlo_dropout import (
    MonteCarloDropout,
    MonteCarloDropoutScorer,
    drop_features,
)
from apercu.robustness.unknown.openmax import (
    OpenMax,
    OpenMaxScorer,
    fit_weibull,
    measure_distances,
)
from apercu.robustness.unknown.training import TrainingPlan, augment_images
from apercu.statistics import auroc

DrawFn = Callable[..., tuple[Tensor, Tensor]]
WrapFn = Callable[..., Classifier]
METHODS: dict[str, UnknownMethod] = {
    "openmax": OpenMax(),
    "monte_carlo_dropout": MonteCarloDropout(passes=20),
    "deep_ensemble": DeepEnsemble(members=2, steps=30, batch=32, rate=0.02),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, known: KnownImages, tmp_path: Path, draw_bars: DrawFn) -> None:
    """Same numbers again, alone and in a batch; kept and loaded with identical scores."""
    method = METHODS[name]
    state = torch.random.get_rng_state()
    scorer = method.fit(known)
    images = torch.cat([draw_bars(10, seed=2)[0], draw_bars(10, seed=3, kind="unknown")[0]])
    scores, probabilities = scorer.score(images), scorer.predict_probabilities(images)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert scores.shape == (20,) and probabilities.shape == (20, 2)
    assert torch.equal(method.fit(known).score(images), scores)
    torch.testing.assert_close(scorer.score(images[3:4]), scores[3:4], rtol=1e-4, atol=1e-5)
    loaded = load_scorer(save_scorer(scorer, tmp_path), known.classifier)
    assert torch.equal(loaded.score(images), scores)
    assert torch.equal(loaded.predict_probabilities(images), probabilities)


@pytest.mark.parametrize("shape", [0.7, 3.0])
def test_the_weibull_distribution_is_that_of_another_library(shape: float) -> None:
    values = weibull_min.rvs(shape, scale=0.2, size=60, random_state=1)
    own_shape, own_scale = fit_weibull(torch.from_numpy(values))
    expected_shape, _, expected_scale = weibull_min.fit(values, floc=0)
    assert own_shape == pytest.approx(expected_shape, rel=1e-3)
    assert own_scale == pytest.approx(expected_scale, rel=1e-3)
    assert fit_weibull(torch.full((5,), 0.3))[1] == pytest.approx(0.3, rel=0.01)


def test_openmax_is_the_algorithm_of_the_paper(known: KnownImages) -> None:
    """Image by image and class by class, with scipy's distribution."""
    scorer = OpenMax(tail=10, top=2).fit(known)
    assert isinstance(scorer, OpenMaxScorer) and known.labels is not None
    with torch.no_grad():
        logits = known.classifier(known.images).double()
    correct = logits.argmax(1) == known.labels
    image = torch.tensor([[3.0, 2.5]]).double()
    means, chances = [], []
    for index in range(2):
        own = logits[correct & (known.labels == index)]
        means.append(own.mean(0))
        tail = measure_distances(own, own.mean(0)[None]).flatten().sort().values[-10:]
        shape, _, scale = weibull_min.fit(tail.numpy(), floc=0)
        far = measure_distances(image, own.mean(0)[None]).item()
        chances.append(weibull_min.cdf(far, shape, scale=scale))
    torch.testing.assert_close(scorer.means, torch.stack(means))
    weights = [1 - 1.0 * chances[0], 1 - 0.5 * chances[1]]  # ranks 1 and 2 of 2
    shrunk = torch.tensor([3.0 * weights[0], 2.5 * weights[1]]).double()
    unknown = 5.5 - shrunk.sum()
    expected = torch.cat([shrunk, unknown[None]]).softmax(0)[None]
    torch.testing.assert_close(
        scorer.compute_open_probabilities(image), expected, rtol=1e-3, atol=1e-4
    )


def test_distances_add_a_cosine_and_a_200th_of_a_length() -> None:
    logits, means = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0], [1.0, 0.0]])
    torch.testing.assert_close(
        measure_distances(logits, means), torch.tensor([[1 + 5 / 200, 2 / 200]])
    )


class Dropping(nn.Module):
    """A network with dropout before its head."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source = source
        self.drop = nn.Dropout(0.4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.source.second(self.source.first(images)).mean((2, 3))
        logits: Tensor = self.source.head(self.drop(features))
        return logits


def test_dropout_averages_the_passes_of_the_network_itself(
    known: KnownImages, wrap_bars: WrapFn
) -> None:
    assert known.classifier.module is not None
    classifier = wrap_bars(Dropping(known.classifier.module))
    scorer = MonteCarloDropout(passes=400).fit(KnownImages(classifier, known.images))
    assert isinstance(scorer, MonteCarloDropoutScorer) and scorer.head is None
    network = classifier.module
    assert isinstance(network, Dropping)
    images = known.images[:4]
    network.drop.train()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        literal = torch.stack([network(2 * images - 1).softmax(1) for _ in range(400)]).mean(0)
    network.drop.eval()
    torch.testing.assert_close(scorer.predict_probabilities(images), literal, rtol=0, atol=0.05)
    with torch.no_grad():
        plain = classifier(images)
    torch.testing.assert_close(plain, known.classifier(images))  # no hook outlives a call


def test_features_are_dropped_at_their_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    kept = drop_features(torch.ones(3, 4000), 0.25, generator)
    assert torch.equal(kept[0], kept[2])
    assert kept[0].unique().tolist() == pytest.approx([0, 4 / 3])
    assert float((kept[0] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    channels = drop_features(torch.ones(1, 50, 3, 3), 0.5, generator, whole_channels=True)
    assert torch.equal(channels[0].amax((1, 2)), channels[0].amin((1, 2)))


def test_members_of_an_ensemble_disagree_on_unknown_images(
    known: KnownImages, draw_bars: DrawFn
) -> None:
    scorer = DeepEnsemble(members=3, steps=60, batch=32, rate=0.02).fit(known)
    assert isinstance(scorer, DeepEnsembleScorer)
    test, labels = draw_bars(40, seed=2)
    probabilities = scorer.predict_probabilities(test)
    assert (probabilities.argmax(1) == labels).float().mean() > 0.9
    first = [network(test)[0] for network in scorer.networks]
    assert not torch.allclose(first[0], first[1])
    mean = torch.stack([network(test).softmax(1) for network in scorer.networks]).mean(0)
    torch.testing.assert_close(probabilities, mean)
    others = scorer.score(draw_bars(40, seed=3, kind="unknown")[0])
    assert auroc(scorer.score(test).numpy(), others.numpy()) > 0.6


def test_training_images_are_mirrored_and_shifted() -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(
        8, -1, -1, -1
    )
    changed = augment_images(image, torch.Generator().manual_seed(1))
    assert changed.shape == image.shape
    assert 2 <= len(changed.unique(dim=0)) <= 2
    centre = image[0, :, 6:10, 6:10].flatten().sort().values
    assert changed.flatten(1).sort(1).values.isfinite().all() and len(centre) == 48


def test_what_cannot_be_trained_or_fitted(known: KnownImages, wrap_bars: WrapFn) -> None:
    images, labels = known.images, known.labels
    assert labels is not None and known.classifier.module is not None
    for method in (OpenMax(), DeepEnsemble()):
        with pytest.raises(ImagesError, match="learns from labels"):
            method.fit(KnownImages(known.classifier, images))
    several = wrap_bars(known.classifier.module, output="sigmoid")
    with pytest.raises(ClassifierError, match="decides each class by itself"):
        OpenMax().fit(KnownImages(several, images, labels))
    with pytest.raises(ImagesError, match="at least 3 images that are classified correctly"):
        OpenMax().fit(KnownImages(known.classifier, images, 1 - labels))
    with pytest.raises(ConfigError, match="deep_ensemble: steps: expected a number of at least 1"):
        DeepEnsemble(steps=0)
    with pytest.raises(ConfigError, match="members: expected a whole number from 2"):
        DeepEnsemble(members=1)
    with pytest.raises(ConfigError, match="rate: expected a number between 0 and 1"):
        MonteCarloDropout(rate=1.0)


def test_a_training_that_diverges_is_told() -> None:
    layer = nn.Linear(1, 1)
    data = torch.rand(20, 1, 4, 4), torch.zeros(20, dtype=torch.long)
    plan = TrainingPlan(steps=5, batch=2, rate=0.1, seed=0)
    with pytest.raises(ClassifierError, match="own: the loss is no number after 0 steps"):
        plan.train(
            layer.parameters(),
            data,
            lambda images, labels: layer.weight.sum() / 0,
            lambda *_: None,
            "own",
        )
