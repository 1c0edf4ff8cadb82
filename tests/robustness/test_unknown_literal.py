"""Losses and scores of methods that train a network, written out as plain sums and loops."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.robustness.unknown import KnownImages
from apercu.robustness.unknown.boundary_samples import BoundarySamples
from apercu.robustness.unknown.conditional_generator import (
    ConditionalAutoencoder,
    ConditionalGenerator,
    LatentGame,
)
from apercu.robustness.unknown.on_manifold import Manifold, OnManifold
from apercu.robustness.unknown.training import CopiedNetwork, TrainingPlan, make_seeded

LossFn = Callable[[Tensor, Tensor], Tensor]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2])
COUNT, CLASSES = 7, 3


@pytest.fixture
def linear(wrap_bars: Callable[..., Classifier]) -> KnownImages:
    """Random images, and a classifier with weights and a bias alone, of three classes."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES))
        torch.nn.init.normal_(network[1].weight, std=0.05)
        images = torch.rand(3 * COUNT, 3, 16, 16)
    classifier = wrap_bars(network, classes=("a", "b", "c"))
    return KnownImages(classifier, images, LABELS.repeat(3))


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[LossFn]:
    """The losses that are to be trained with; instead, what would be trained is changed a bit."""
    found: list[LossFn] = []

    def keep(plan: TrainingPlan, parameters: Any, data: Any, loss: LossFn, *words: Any) -> None:
        found.append(loss)
        with torch.no_grad():
            for index, each in enumerate(parameters):
                each.mul_(0.8 + 0.1 * (index % 3))

    monkeypatch.setattr(TrainingPlan, "train", keep)
    return found


def softmax(logits: Tensor) -> Tensor:
    """The probabilities of one image."""
    chances = torch.stack([each.exp() for each in logits])
    return chances / sum(chances)


def surprise(logits: Tensor, label: int) -> Tensor:
    """The cross-entropy of one image."""
    return -softmax(logits)[label].log()


def measure_divergence(chances: Tensor) -> float:
    """The divergence of equal probabilities from those of one image."""
    return sum(1 / CLASSES * math.log(1 / CLASSES / float(each)) for each in chances)


def test_boundary_samples(linear: KnownImages, losses: list[LossFn]) -> None:
    """Newton's steps of noisy images along the gradient of the network as it was."""
    images = linear.images[:COUNT]
    method = BoundarySamples(level=0.3, noise=0.1, walk=3, weight=0.7)
    scorer: Any = method.fit(linear)
    torch.manual_seed(0)
    loss = losses[0](images, LABELS)
    torch.manual_seed(0)
    noise = torch.randn(images.shape)
    assert linear.classifier.module is not None
    weight, bias = (each.detach() for each in linear.classifier.module.parameters())
    own, unsure, lengths = [], [], []
    for index in range(COUNT):
        sample = (images[index] + 0.1 * noise[index]).clamp(0, 1).flatten()
        for _ in range(3):
            chances = softmax(weight @ (2 * sample - 1) + bias)
            gradient = 2 * sum((chances[k] - 1 / CLASSES) * weight[k] for k in range(CLASSES))
            length = gradient.square().sum().sqrt()
            lengths.append(float((measure_divergence(chances) - 0.3) / length))
            sample = sample - max(-1.0, min(1.0, lengths[-1])) * gradient / length
            sample = sample.clamp(0, 1)
        own.append(surprise(scorer.network(images[index : index + 1])[0], LABELS[index]))
        logits = scorer.network(sample.view(1, 3, 16, 16))[0]
        unsure.append(measure_divergence(softmax(logits)))
    assert min(lengths) < -1 and max(lengths) > 0
    assert float(loss) == pytest.approx(float(sum(own) / 7 + 0.7 * sum(unsure) / 7), rel=1e-4)
    for image, score in zip(images, scorer.score(images), strict=True):
        chances = softmax(scorer.network(image[None])[0])
        assert float(score) == pytest.approx(1 - float(max(chances)), rel=1e-4)


def test_the_one_vs_all_loss_and_score(
    linear: KnownImages, losses: list[LossFn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are of their class, and not of others; generated ones are not of their class."""
    images = linear.images[:COUNT]
    made = images.flip(0)
    monkeypatch.setattr(LatentGame, "step", lambda *_: made)
    scorer: Any = ConditionalGenerator(code=4, real_fraction=0.6).fit(linear)
    accepted, rejected, outside = [], [], []
    real, generated = (scorer.network(each).double().sigmoid() for each in (images, made))
    for index, label in enumerate(LABELS.tolist()):
        for k in range(CLASSES):
            chance = float(real[index, k])
            (accepted if k == label else rejected).append(
                -math.log(chance if k == label else 1 - chance)
            )
        outside.append(-math.log(1 - float(generated[index, label])))
    expected = sum(accepted) / 7 + 0.6 * sum(rejected) / 14 + 0.4 * sum(outside) / 7
    assert float(losses[1](images, LABELS)) == pytest.approx(expected, rel=1e-4)
    for chances, score in zip(real, scorer.score(images), strict=True):
        parts = [chance / sum(chances) * (1 - chance) for chance in chances]
        assert float(score) == pytest.approx(float(sum(parts)), rel=1e-4)


def test_the_generator_and_the_critic(linear: KnownImages) -> None:
    """The gradients of one step are those of the losses, with the weights of the paper."""
    images = linear.images[:COUNT]
    method = ConditionalGenerator(code=4)
    names = ("class_weight", "gradient_weight", "real_fraction", "spread_weight")
    assert [getattr(method, name) for name in names] == [4, 10, 0.6, 1]
    network = CopiedNetwork(linear.classifier)
    coder = make_seeded(0, lambda: ConditionalAutoencoder(linear, 4)).eval().requires_grad_(False)
    game = make_seeded(0, lambda: LatentGame(method, CLASSES, coder))
    game.centres += torch.linspace(-1, 1, 12).view(CLASSES, 4)
    before = copy.deepcopy(game)
    torch.manual_seed(0)
    decoded = game.step(images, LABELS, network)

    torch.manual_seed(0)
    noise, between = torch.randn(COUNT, 4), torch.rand(COUNT)
    marks = torch.eye(CLASSES)[LABELS]
    codes = coder.encode(images, LABELS)
    samples = before.generator(torch.cat([noise, marks], 1))
    centres = before.centres.clone()
    for k in range(CLASSES):
        centres[k] = 0.9 * centres[k] + 0.1 * codes[k == LABELS].mean(0)
    torch.testing.assert_close(game.centres, centres)
    torch.testing.assert_close(decoded, coder.decode(samples, LABELS))

    loss: Any = 0.0
    for index in range(COUNT):
        made, mark = samples[index].detach(), marks[index]
        place = (between[index] * codes[index] + (1 - between[index]) * made).requires_grad_()
        value = before.critic(torch.cat([place, mark]))[0]
        (slope,) = torch.autograd.grad(value, place, create_graph=True)
        penalty = (slope.square().sum().sqrt() - 1) ** 2
        real, fake = (before.critic(torch.cat([each, mark]))[0] for each in (codes[index], made))
        loss = loss + (fake - real + 10 * penalty) / COUNT
    expected = torch.autograd.grad(loss, list(before.critic.parameters()), allow_unused=True)
    compare_gradients(game.critic, expected)

    loss = 0.0
    for index, label in enumerate(LABELS.tolist()):
        outside = -(1 - network(coder.decode(samples, LABELS))[index, label].sigmoid()).log()
        value = game.critic(torch.cat([samples[index], marks[index]]))[0]
        loss = loss + (4 * outside - value) / COUNT
    ways = samples - centres[LABELS]
    ways = ways / ways.square().sum(1, keepdim=True).sqrt()
    pairs = [
        (ways[i] * ways[j]).sum()
        for i in range(COUNT)
        for j in range(COUNT)
        if i != j and LABELS[i] == LABELS[j]
    ]
    loss = loss + sum(pairs) / len(pairs)
    compare_gradients(
        game.generator, torch.autograd.grad(loss, list(before.generator.parameters()))
    )


def compare_gradients(network: nn.Module, expected: tuple[Tensor | None, ...]) -> None:
    """Compare the gradients that a step left in a network; a constant has none, or one of 0."""
    for each, wanted in zip(network.parameters(), expected, strict=True):
        assert each.grad is not None
        other = torch.zeros_like(each) if wanted is None else wanted
        torch.testing.assert_close(each.grad, other, rtol=1e-3, atol=1e-6)


def test_the_latent_space_and_its_walk(linear: KnownImages) -> None:
    """Noisy codes are decoded and classified; codes walk until another class is likely enough."""
    images = linear.images[:COUNT]
    manifold: Any = make_seeded(0, lambda: Manifold(linear.classifier, 4)).eval()
    manifold.requires_grad_(False)
    manifold.encoder.head.weight *= 8
    for each in manifold.head.parameters():
        each *= 4
    codes = manifold.encoder(images)
    spread = [math.sqrt(sum((each - sum(row) / 7) ** 2 for each in row) / 6) for row in codes.T]
    torch.manual_seed(0)
    loss = manifold.compute_loss(images, LABELS)
    torch.manual_seed(0)
    noisy = codes + 0.1 * torch.tensor(spread) * torch.randn(codes.shape)
    errors = [float(each) ** 2 for each in (manifold.decoder(noisy) - images).flatten()]
    wrong = [surprise(manifold.head(noisy[i]), int(LABELS[i])) for i in range(COUNT)]
    expected = sum(errors) / len(errors) + 0.1 * float(sum(wrong)) / COUNT
    assert float(loss) == pytest.approx(expected, rel=1e-4)

    torch.manual_seed(0)
    between, soft = manifold.make_between(images, LABELS)
    torch.manual_seed(0)
    shift, goal = torch.randint(1, CLASSES, (COUNT,)), torch.rand(COUNT) / 2
    pace = math.sqrt(sum(each**2 for each in spread)) / 10
    first, first_bias, last, last_bias = manifold.head.parameters()
    walked = []
    for index in range(COUNT):
        other, code, taken = int(LABELS[index] + shift[index]) % CLASSES, codes[index], 0
        for _ in range(10):
            hidden = first @ code + first_bias
            chances = softmax(last @ hidden.clamp(min=0) + last_bias)
            if chances[other] >= goal[index]:
                break
            slope = first.T @ ((hidden > 0) * (last.T @ (torch.eye(CLASSES)[other] - chances)))
            code, taken = code + pace * slope / slope.square().sum().sqrt(), taken + 1
        walked.append(taken)
        torch.testing.assert_close(between[index], manifold.decoder(code[None])[0])
        torch.testing.assert_close(soft[index], softmax(manifold.head(code)))
    assert {0, 10} < set(walked)


def test_soft_labels_and_entropy(
    linear: KnownImages, losses: list[LossFn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images have their class, and those between the classes all classes in part."""
    images = linear.images[:COUNT]
    between, soft = images.flip(3), torch.rand(COUNT, CLASSES).softmax(1)
    monkeypatch.setattr(Manifold, "make_between", lambda *_: (between, soft))
    scorer: Any = OnManifold(code=4, weight=0.7).fit(linear)
    loss = 0.0
    for index in range(COUNT):
        loss += float(surprise(scorer.network(images)[index], int(LABELS[index]))) / COUNT
        chances = softmax(scorer.network(between)[index])
        for k in range(CLASSES):
            loss -= 0.7 * float(soft[index, k] * chances[k].log()) / COUNT
    assert float(losses[1](images, LABELS)) == pytest.approx(loss, rel=1e-4)
    for image, score in zip(images, scorer.score(images), strict=True):
        chances = softmax(scorer.network(image[None])[0])
        assert float(score) == pytest.approx(-sum(float(p * p.log()) for p in chances), rel=1e-4)
