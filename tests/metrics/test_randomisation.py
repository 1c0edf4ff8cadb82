from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from apercu.classifiers import BlackBox, Classifier, InputSpec, Network, open_classifier
from apercu.errors import ClassifierError
from apercu.methods import CentreBox, Gradient
from apercu.metrics.randomisation import randomisation, randomise_weights
from apercu.statistics import spearman


def slow_spearman(one: list[float], other: list[float]) -> float:
    def ranks(values: list[float]) -> torch.Tensor:
        return torch.tensor(
            [
                sum(other < value for other in values)
                + (sum(other == value for other in values) - 1) / 2
                for value in values
            ]
        )

    return torch.corrcoef(torch.stack((ranks(one), ranks(other))))[0, 1].item()


def test_spearman_is_the_correlation_of_mean_ranks() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 12, 40, generator=generator)
    one[:6], other[3:9] = (one[:6] * 2).round(), other[3:9].round()
    literal = [slow_spearman(a.tolist(), b.tolist()) for a, b in zip(one, other, strict=True)]
    torch.testing.assert_close(spearman(one, other), torch.tensor(literal))


def test_spearman_sees_order_only() -> None:
    rows = torch.randn(1, 50, generator=torch.Generator().manual_seed(2))
    assert spearman(rows, rows.exp()).item() == pytest.approx(1)
    assert spearman(rows, -(rows**3)).item() == pytest.approx(-1)
    assert spearman(rows, torch.full((1, 50), 0.1)).item() == 0


@pytest.fixture
def classifier(tiny_card: Path) -> Classifier:
    return open_classifier(tiny_card)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


TARGETS = torch.tensor([0, 1, 2, 0])


def test_is_the_rank_correlation_with_the_map_of_a_randomised_copy(
    classifier: Classifier, images: torch.Tensor
) -> None:
    before = Gradient()(classifier, images, TARGETS)
    after = Gradient()(randomise_weights(classifier, 5), images, TARGETS)
    expected = spearman(before.flatten(1), after.flatten(1)).abs()
    result = randomisation(Gradient(), classifier, images, TARGETS, seed=5)
    torch.testing.assert_close(result, expected)
    assert (result < 0.5).all()


def test_a_map_that_ignores_the_classifier_survives_even_when_inverted(
    classifier: Classifier, images: torch.Tensor
) -> None:
    assert randomisation(CentreBox(), classifier, images, TARGETS).tolist() == pytest.approx(
        [1] * 4
    )
    signs = iter((1, -1))

    def turned(_: Classifier, images: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
        return next(signs) * images[:, 0]

    assert randomisation(turned, classifier, images, TARGETS).tolist() == pytest.approx([1] * 4)


def test_a_map_that_becomes_constant_scores_zero_and_an_unchanged_one_scores_one(
    classifier: Classifier, images: torch.Tensor
) -> None:
    def dying(asked: Classifier, images: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
        return images[:, 0] if asked is classifier else torch.full_like(images[:, 0], 0.1)

    def flat(_: Classifier, images: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
        return torch.full_like(images[:, 0], 0.1)

    assert randomisation(dying, classifier, images, TARGETS).tolist() == [0] * 4
    assert randomisation(flat, classifier, images, TARGETS).tolist() == [1] * 4


def test_the_classifier_is_not_changed(classifier: Classifier, images: torch.Tensor) -> None:
    module = classifier.module
    assert module is not None
    weights, logits = copy.deepcopy(module.state_dict()), classifier(images)
    fingerprint, queries = classifier.fingerprint, classifier.queries
    randomisation(CentreBox(), classifier, images, TARGETS)
    assert classifier.module is module
    assert classifier.fingerprint == fingerprint
    assert classifier.queries == queries
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert torch.equal(classifier(images), logits)


def test_every_varying_parameter_is_randomised_with_its_own_mean_and_deviation(
    classifier: Classifier, images: torch.Tensor
) -> None:
    copied = randomise_weights(classifier, 1)
    assert classifier.module is not None
    assert copied.module is not None
    assert copied.fingerprint != classifier.fingerprint
    assert copied.classes == classifier.classes
    drawn = dict(copied.module.named_parameters())
    for name, weight in classifier.module.named_parameters():
        assert torch.equal(drawn[name], weight) == (weight.std(correction=0).item() == 0), name
        if weight.numel() > 100:
            assert drawn[name].std().item() == pytest.approx(weight.std().item(), rel=0.3)
    assert torch.equal(copied(images), randomise_weights(classifier, 1)(images))
    assert not torch.equal(copied(images), randomise_weights(classifier, 2)(images))


def test_a_black_box_is_refused(images: torch.Tensor) -> None:
    answer = BlackBox(lambda images: images.mean(dim=(2, 3)))
    spec = InputSpec(channels=3, size=(32, 32))
    counting = Classifier(Network("tests:box", answer, "0", spec, differentiable=False))
    with pytest.raises(ClassifierError, match="tests:box has no weights that can be reached"):
        randomisation(CentreBox(), counting, images, TARGETS)
