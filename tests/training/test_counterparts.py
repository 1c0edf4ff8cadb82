"""Terms by their literal formulas, the judges, the weather."""

from __future__ import annotations

import math

import pytest
import torch

from apercu.explainers.counterfactual import STRONG_FRACTION, measure_difference, runner_up
from apercu.explainers.counterpart.network import (
    Change,
    CounterpartPair,
    Discriminator,
    discriminator_loss,
    generator_loss,
    randomly_perturb,
)
from apercu.explainers.counterpart.objective import (
    CounterpartBatch,
    CounterpartObjective,
    distance,
    total_variation,
)

GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.rand(2, 1, 6, 5, generator=GENERATOR)
ASKED = CounterpartBatch(IMAGES, torch.tensor([0, 2]), torch.tensor([1, 0]))


def pair() -> CounterpartPair:
    generator = torch.Generator().manual_seed(4)
    similar, adversarial = torch.rand(2, *IMAGES.shape, generator=generator)
    return CounterpartPair(similar, adversarial, torch.rand(2, 1, 3, 2, generator=generator))


def classifier(images: torch.Tensor) -> torch.Tensor:
    weights = torch.linspace(-1, 1, 90).view(30, 3)
    return images.flatten(1) @ weights


def slow_distance(one: torch.Tensor, other: torch.Tensor) -> list[float]:
    results = []
    for a, b in zip(one, other, strict=True):
        pixels = [(x - y).item() for x, y in zip(a.flatten(), b.flatten(), strict=True)]
        results.append(sum(abs(d) + d * d for d in pixels) / len(pixels))
    return results


def slow_cross_entropy(images: torch.Tensor, targets: torch.Tensor) -> list[float]:
    results = []
    for logits, target in zip(classifier(images).tolist(), targets.tolist(), strict=True):
        results.append(math.log(sum(math.exp(one) for one in logits)) - logits[target])
    return results


def unused(*_: object) -> CounterpartPair:
    raise RuntimeError("not asked for")


def test_terms_of_the_shared_body_are_their_formulas() -> None:
    weights = CounterpartObjective(
        similarity=3, closeness=2, keep=0.5, flip=0.7, smoothness=0.9, scarcity=0.4
    )
    generated = pair()
    terms = weights.compute_terms(ASKED, generated, unused, classifier)
    literal = {
        "similarity": [3 * d for d in slow_distance(IMAGES, generated.similar)],
        "closeness": [2 * d for d in slow_distance(generated.similar, generated.adversarial)],
        "keep": [0.5 * c for c in slow_cross_entropy(generated.similar, ASKED.predicted)],
        "flip": [0.7 * c for c in slow_cross_entropy(generated.adversarial, ASKED.targets)],
        "scarcity": [0.4 * sum(p.flatten().tolist()) / 6 for p in generated.change_masks],
    }
    assert set(terms) == {*literal, "smoothness"}
    for name, values in literal.items():
        torch.testing.assert_close(terms[name], torch.tensor(values), rtol=1e-4, atol=1e-5)
    rough = total_variation(generated.adversarial - generated.similar)
    torch.testing.assert_close(terms["smoothness"], 0.9 * rough)


def test_syce_applies_the_generator_twice_and_back() -> None:
    asked_of: list[tuple[torch.Tensor, list[int], list[int]]] = []

    def generate(images: torch.Tensor, seen: torch.Tensor, wanted: torch.Tensor) -> CounterpartPair:
        asked_of.append((images, seen.tolist(), wanted.tolist()))
        return CounterpartPair(
            images, (images + 0.1 * len(asked_of)).clamp(0, 1), torch.zeros(2, 1, 1, 1)
        )

    generated = pair()
    weights = CounterpartObjective(
        stable="twice", closeness=0, cycle=2, cycle_keep=0.5, smoothness=0
    )
    terms = weights.compute_terms(ASKED, generated, generate, classifier)
    twice, back = asked_of
    assert all(torch.equal(one[0], generated.adversarial) for one in (twice, back))
    assert (twice[1], twice[2]) == ([0, 2], [1, 0])
    assert (back[1], back[2]) == ([1, 0], [0, 2])
    stable, cycled = ((generated.adversarial + step).clamp(0, 1) for step in (0.1, 0.2))
    torch.testing.assert_close(terms["similarity"], 10 * distance(IMAGES, stable))
    torch.testing.assert_close(terms["cycle"], 2 * distance(IMAGES, cycled))
    kept = torch.tensor(slow_cross_entropy(cycled, ASKED.predicted))
    torch.testing.assert_close(terms["cycle_keep"], 0.5 * kept, rtol=1e-4, atol=1e-5)


def test_cyce_compares_with_the_image_itself() -> None:
    weights = CounterpartObjective(stable="itself", closeness=2, smoothness=0, scarcity=0)
    terms = weights.compute_terms(ASKED, pair(), unused, classifier)
    assert set(terms) == {"closeness", "flip"}
    torch.testing.assert_close(terms["closeness"], 2 * distance(IMAGES, pair().adversarial))


def test_roughness_is_the_mean_step_down_plus_across() -> None:
    image = torch.zeros(1, 1, 3, 4)
    image[:, :, 1:] = 0.6
    image[:, :, :, 3:] += 0.9
    assert total_variation(image).item() == pytest.approx(4 * 0.6 / 8 + 3 * 0.9 / 9)


def test_the_runner_up_is_never_what_is_seen() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0]])
    assert runner_up(logits, logits.argmax(1)).tolist() == [2, 0]
    assert runner_up(logits, torch.tensor([1, 0])).tolist() == [0, 1]


def test_a_change_is_added_within_the_range() -> None:
    change = Change(torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1, 2, 2))
    image = change(torch.tensor([0.1, 0.8]).view(1, 1, 1, 2).expand(1, 1, 4, 2).contiguous())
    torch.testing.assert_close(image[0, 0, 0], torch.tensor([0.6, 1.0]))


CLASSES = torch.tensor([0, 2, 1])


def test_the_judge_learns_from_both_and_only_the_judge() -> None:
    torch.manual_seed(0)
    judge = Discriminator(1, 3)
    real, generated = torch.rand(2, 3, 1, 16, 16)
    generated.requires_grad_()
    result = discriminator_loss(judge, real, CLASSES, generated, CLASSES.flip(0))
    for index in range(3):
        on_real = judge(real[index, None], CLASSES[index, None])
        on_made = judge(generated[index, None], CLASSES[2 - index, None])
        literal = (1 + (-on_real).exp()).log().mean() + (1 + on_made.exp()).log().mean()
        torch.testing.assert_close(result[index], literal)
    result.mean().backward()
    assert generated.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.layers.parameters())


def test_plausibility_teaches_who_made_the_images_and_not_the_judge() -> None:
    torch.manual_seed(0)
    judge = Discriminator(1, 3)
    generated = torch.rand(3, 1, 16, 16, requires_grad=True)
    result = generator_loss(judge, generated, CLASSES)
    torch.testing.assert_close(result, (1 + (-judge(generated, CLASSES)).exp()).log().mean((1, 2)))
    result.sum().backward()
    assert generated.grad is not None and generated.grad.abs().sum() > 0
    assert all(values.grad is None for values in judge.parameters())


def test_the_judge_knows_what_belongs_to_which_class() -> None:
    """Bright images of class 0 and dark ones of class 1 are real; each with the other is not."""
    torch.manual_seed(0)
    judge = Discriminator(1, 2, (4, 8))
    images = torch.tensor([0.8, 0.2]).view(2, 1, 1, 1).expand(2, 1, 16, 16)
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 0])
    optimiser = torch.optim.Adam(judge.parameters(), 1e-2)
    before = discriminator_loss(judge, images, right, images, wrong).mean().item()
    assert before == pytest.approx(2 * math.log(2), abs=0.05)
    for _ in range(80):
        optimiser.zero_grad()
        discriminator_loss(judge, images, right, images, wrong).mean().backward()
        optimiser.step()
    assert discriminator_loss(judge, images, right, images, wrong).mean().item() < before / 2
    assert (generator_loss(judge, images, wrong) > generator_loss(judge, images, right)).all()


def test_weather_is_repeated_by_its_generator_and_stays_in_range() -> None:
    images = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(1))
    one, two = (randomly_perturb(images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.min() >= 0 and one.max() <= 1
    assert not torch.equal(one, randomly_perturb(images, torch.Generator().manual_seed(6)))
    grey = randomly_perturb(torch.full((1, 1, 8, 8), 0.5), torch.Generator().manual_seed(2))
    assert (grey - 0.5).abs().max() < 0.2


def test_weather_lets_slopes_through() -> None:
    images = torch.rand(1, 1, 12, 12).requires_grad_()
    randomly_perturb(images, torch.Generator().manual_seed(0)).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_figures_of_a_difference() -> None:
    difference = torch.zeros(1, 4, 4)
    difference[0, 0, :2] = torch.tensor([0.8, 0.8 * STRONG_FRACTION / 2])
    results = {name: value.item() for name, value in measure_difference(difference).items()}
    total = 0.8 * (1 + STRONG_FRACTION / 2)
    assert results == pytest.approx({"change": total / 16, "peak": 0.8, "spread": 1 / 16})
