"""Methods that train a network: each idea has its effect, and what is trained can be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError, ImagesError
from apercu.robustness.unknown import KnownImages, UnknownMethod, load_scorer, save_scorer
from apercu.robustness.unknown.boundary_samples import (
    BoundarySamples,
    measure_confidence,
    walk_to_level,
)
from apercu.robustness.unknown.conditional_generator import (
    ConditionalAutoencoder,
    ConditionalGenerator,
    LatentGame,
    normalise_one_vs_all,
)
from apercu.robustness.unknown.discriminative_reconstruction import (
    DiscriminativeReconstruction,
    DiscriminativeReconstructionScorer,
)
from apercu.robustness.unknown.max_softmax import MaxSoftmax
from apercu.robustness.unknown.on_manifold import Manifold, OnManifold
from apercu.robustness.unknown.one_class import OneClassRepresentation, OneClassScorer
from apercu.robustness.unknown.stain_noise import AXES, StainNoise, add_stains, draw_stains
from apercu.robustness.unknown.training import CopiedNetwork, TrainingPlan, make_seeded
from apercu.statistics import auroc

DrawFn = Callable[..., tuple[Tensor, Tensor]]
WrapFn = Callable[..., Classifier]
METHODS: dict[str, UnknownMethod] = {
    "conditional_generator": ConditionalGenerator(steps=4, code_steps=4, batch=16, code=8),
    "boundary_samples": BoundarySamples(steps=4, batch=16, walk=3),
    "on_manifold": OnManifold(steps=4, code_steps=4, batch=16, code=8),
    "discriminative_reconstruction": DiscriminativeReconstruction(steps=4, batch=16, code=8),
    "one_class": OneClassRepresentation(steps=4, batch=16, code=8),
    "stain_noise": StainNoise(steps=4, batch=16),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, known: KnownImages, tmp_path: Path, draw_bars: DrawFn) -> None:
    """Same numbers again, alone and in a batch; kept and loaded with identical scores."""
    method = METHODS[name]
    state = torch.random.get_rng_state()
    work: list[tuple[str, int, int]] = []
    scorer = method.fit(known, lambda *call: work.append(call))
    images = torch.cat([draw_bars(10, seed=2)[0], draw_bars(10, seed=3, kind="unknown")[0]])
    scores, probabilities = scorer.score(images), scorer.predict_probabilities(images)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert work[-1][1:] == (4, 4)
    assert scores.shape == (20,) and probabilities.shape == (20, 2)
    assert torch.equal(method.fit(known).score(images), scores)
    torch.testing.assert_close(scorer.score(images[3:4]), scores[3:4], rtol=1e-3, atol=1e-5)
    loaded = load_scorer(save_scorer(scorer, tmp_path), known.classifier)
    assert loaded.method == method
    assert torch.equal(loaded.score(images), scores)
    assert torch.equal(loaded.predict_probabilities(images), probabilities)


def measure_auroc(method: UnknownMethod, known: KnownImages, draw_bars: DrawFn) -> float:
    """Fit a method, and return how well it separates discs from new bars."""
    scorer = method.fit(known)
    honest = scorer.score(draw_bars(60, seed=2)[0])
    others = scorer.score(draw_bars(60, seed=3, kind="unknown")[0])
    return auroc(honest.numpy(), others.numpy())


@pytest.mark.parametrize(
    "method",
    [
        ConditionalGenerator(steps=40, code_steps=30, batch=16, code=8, rate=5e-3),
        BoundarySamples(steps=40, batch=16, rate=5e-3),
        DiscriminativeReconstruction(steps=50, batch=16, code=8),
        OneClassRepresentation(steps=50, batch=16, code=8),
        StainNoise(steps=50, batch=16, rate=5e-3),
    ],
    ids=lambda method: method.name,
)
def test_unknown_images_get_higher_scores(
    method: UnknownMethod, known: KnownImages, draw_bars: DrawFn
) -> None:
    assert measure_auroc(method, known, draw_bars) > 0.9


def test_confidence_is_a_divergence() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [1.0, 1.0, 1.0]])
    equal = torch.full((2, 3), 1 / 3)
    expected = (equal * (equal.log() - logits.log_softmax(1))).sum(1)
    torch.testing.assert_close(measure_confidence(logits), expected)


def test_boundary_samples_lie_on_one_level_set(known: KnownImages) -> None:
    network = CopiedNetwork(known.classifier).eval().requires_grad_(False)
    images = known.images[:32]
    before = (measure_confidence(network(images)) - 0.5).abs()
    samples = walk_to_level(network, images, 0.5, 20)
    after = (measure_confidence(network(samples)) - 0.5).abs()
    assert before.median() > 0.5 and after.median() < 0.02
    assert samples.min() >= 0 and samples.max() <= 1 and not samples.requires_grad
    assert torch.equal(
        walk_to_level(network, torch.zeros(2, 3, 16, 16), 0.5, 0).unique(), torch.zeros(1)
    )


def test_training_on_boundary_samples_makes_a_network_unsure_there(known: KnownImages) -> None:
    network = CopiedNetwork(known.classifier).eval().requires_grad_(False)
    noise = 0.2 * torch.randn(known.images.shape, generator=torch.Generator().manual_seed(0))
    samples = walk_to_level(network, (known.images + noise).clamp(0, 1), 0.5, 8)
    plain = MaxSoftmax().fit(known).score(samples).mean()
    trained = BoundarySamples(steps=60, batch=32, rate=5e-3).fit(known)
    assert trained.score(samples).mean() > plain + 0.1
    correct = trained.predict_probabilities(known.images).argmax(1) == known.labels
    assert correct.float().mean() > 0.9


def test_one_vs_all_shares() -> None:
    logits = torch.tensor([[2.0, -1.0, -3.0], [-90.0, -91.0, -95.0]])
    chances = logits.double().sigmoid()
    expected = chances / chances.sum(1, keepdim=True)
    torch.testing.assert_close(normalise_one_vs_all(logits), expected.float())


class FirstNumber(nn.Module):
    """The logits of two classes from the first number of each image."""

    def forward(self, images: Tensor) -> Tensor:
        first = images.flatten(1)[:, :1]
        return 2 * torch.cat([-first, first], 1)


def test_the_generator_leaves_its_class_and_spreads(known: KnownImages) -> None:
    """With weights, samples are less often taken for their class, and lie in more directions."""
    labels = torch.arange(64) % 2
    codes = 0.3 * torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    codes[:, 0] += 2.0 * labels - 1
    measured = {}
    for weight in (0.0, 5.0):
        method = ConditionalGenerator(
            code=6, class_weight=weight, spread_weight=weight, gradient_weight=1.0
        )
        coder: Any = make_seeded(0, lambda: ConditionalAutoencoder(known, 6)).eval()
        coder.encode = lambda images, labels: codes.clone()
        coder.decode = lambda samples, labels: nn.functional.pad(samples, (0, 762)).view(
            known.images.shape
        )
        game: Any = make_seeded(0, lambda m=method, c=coder: LatentGame(m, 2, c))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for _ in range(150):
                game.step(known.images, labels, FirstNumber())
            noise = torch.randn(64, 6)
        marks = nn.functional.one_hot(labels, 2).float()
        with torch.no_grad():
            samples = game.generator(torch.cat([noise, marks], 1))
            chances = FirstNumber()(samples).gather(1, labels[:, None]).sigmoid()
            likeness = game._measure_similarity(samples, labels)
        measured[weight] = float(chances.mean()), float(likeness)
    assert measured[5.0][0] < measured[0.0][0] - 0.1
    assert measured[5.0][1] < measured[0.0][1] - 0.1


def test_codes_walk_to_another_class_on_the_manifold(known: KnownImages) -> None:
    assert known.labels is not None
    manifold: Any = make_seeded(0, lambda: Manifold(known.classifier, 8))
    plan = TrainingPlan(steps=60, batch=16, rate=5e-3, seed=0, augment=False)
    data = known.images, known.labels
    plan.train(manifold.parameters(), data, manifold.compute_loss, lambda *_: None, "latent space")
    manifold.eval().requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        between, soft = manifold.make_between(known.images, known.labels)
    own = manifold.head(manifold.encoder(known.images)).softmax(1)
    before = own.gather(1, known.labels[:, None]).mean()
    after = soft.gather(1, known.labels[:, None]).mean()
    assert before > 0.9 and after < before - 0.1
    assert between.shape == known.images.shape and between.min() >= 0 and between.max() <= 1
    torch.testing.assert_close(soft.sum(1), torch.ones(64))


def test_soft_labels_make_a_network_less_confident(known: KnownImages) -> None:
    method = OnManifold(steps=30, code_steps=40, batch=16, code=8, rate=5e-3, weight=2.0)
    scorer = method.fit(known)
    ours = scorer.predict_probabilities(known.images).max(1).values
    no_weight = replace(method, weight=0.0)
    without = no_weight.fit(known).predict_probabilities(known.images).max(1).values
    assert ours.mean() < without.mean()


def test_the_discriminator_weighs_its_layers(known: KnownImages) -> None:
    scorer = METHODS["discriminative_reconstruction"].fit(known)
    assert isinstance(scorer, DiscriminativeReconstructionScorer)
    pair = scorer.pair
    restored = pair.reconstruct(known.images)[1]
    torch.testing.assert_close(pair.compare(known.images, restored).mean(0), pair.units)
    assert scorer.score(known.images).mean() == pytest.approx(1.0, rel=1e-4)
    first = [maps[0] for maps in map(pair.discriminator.compute_maps, (known.images, restored))]
    expected = (first[0] - first[1]).square().mean((1, 2, 3))
    torch.testing.assert_close(pair.compare(known.images, restored)[:, 0], expected)


def test_the_joint_representation_adds_two_parts(known: KnownImages) -> None:
    scorer = METHODS["one_class"].fit(known)
    assert isinstance(scorer, OneClassScorer)
    joint = scorer.joint
    codes = joint.encoder(known.images)
    error = (joint.decoder(codes) - known.images).square().flatten(1).mean(1)
    distance = (codes - joint.centre).square().mean(1)
    expected = (distance / distance.mean() + error / error.mean()) / 2
    torch.testing.assert_close(scorer.score(known.images), expected, rtol=1e-4, atol=1e-5)


def test_stains_are_removed_and_mapped(known: KnownImages, draw_bars: DrawFn) -> None:
    scorer = StainNoise(steps=100, batch=16, rate=5e-3).fit(known)
    clean = draw_bars(40, seed=6)[0]
    stained = clean.clone()
    stained[:, :, 5:9, 6:11] = torch.tensor([0.9, 0.1, 0.5])[:, None, None]
    maps = scorer.map_anomalies(stained)
    inside = maps[:, 5:9, 6:11].mean((1, 2))
    assert (inside > maps.mean((1, 2))).float().mean() > 0.9
    assert auroc(scorer.score(clean).numpy(), scorer.score(stained).numpy()) > 0.9
    residual = scorer.network(stained[:3]) - stained[:3]
    torch.testing.assert_close(scorer.score(stained[:3]), residual.flatten(1).norm(dim=1))


def test_stains_have_a_size_and_one_colour() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stains = draw_stains(200, (40, 60))
        images = add_stains(torch.zeros(3, 2, 20, 20))
    shares = stains.float().mean((1, 2))
    assert stains.any(2).any(1).all()
    assert shares.max() <= 3.15 * (AXES[1] * 1.2) ** 2
    for image in images:
        assert len(image[:, image.sum(0) > 0].unique(dim=1).T) == 1


def test_what_cannot_be_trained(known: KnownImages, wrap_bars: WrapFn, draw_bars: DrawFn) -> None:
    assert known.classifier.module is not None and known.labels is not None
    unlabelled = KnownImages(known.classifier, known.images)
    several = wrap_bars(known.classifier.module, output="sigmoid")
    for method in METHODS.values():
        if not method.needs_labels:
            continue
        with pytest.raises(ImagesError, match=f"{method.name}: learns from labels"):
            method.fit(unlabelled)
        with pytest.raises(ClassifierError, match="decides each class by itself"):
            method.fit(KnownImages(several, known.images, known.labels))
        one = KnownImages(known.classifier, known.images, torch.zeros_like(known.labels))
        with pytest.raises(ImagesError, match="at least 2 classes, got 1"):
            method.fit(one)
    with pytest.raises(ConfigError, match="real_fraction: expected a number from 0 to 1"):
        ConditionalGenerator(real_fraction=2.0)
    with pytest.raises(ConfigError, match="level: expected a number above 0"):
        BoundarySamples(level=0.0)
    with pytest.raises(ConfigError, match="stain_noise: rate: expected a number above 0"):
        StainNoise(rate=0.0)
    with pytest.raises(ConfigError, match="one_class: code: expected a whole number from 2"):
        OneClassRepresentation(code=1)
