"""MixMatch: guesses, sharpening and mixtures as the paper says, and what they do to a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from apercu import train_classifier
from apercu.classifiers import Classifier
from apercu.classifiers.decisions import EACH_CLASS
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Task, TrainingStep, measure_variety
from apercu.learning.recipes.mixmatch import MixMatch, guess_labels, mix_pairs, sharpen
from apercu.learning.recipes.registry import parse_recipes
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training

from .conftest import PLANTED

MakeStep = Callable[..., TrainingStep]
STEPS = 12


def test_guesses_are_means_over_views_and_sharpened_by_powers() -> None:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(5, 4, generator=generator) for _ in range(3)]
    sharpened = sharpen(guess_labels(views), 0.25)
    for row in range(5):
        mean = np.zeros(4)
        for view in views:
            raised = np.exp(view[row].double().numpy())
            mean += raised / raised.sum() / 3
        expected = np.array([value**4 for value in mean])
        np.testing.assert_allclose(sharpened[row], expected / expected.sum(), rtol=1e-4)
    torch.testing.assert_close(sharpen(guess_labels(views), 1.0), guess_labels(views))


def test_mixtures_are_of_two_images_and_their_targets_alike() -> None:
    count = 64
    images = torch.arange(float(count))[:, None, None, None].expand(-1, 3, 2, 2)
    targets = torch.eye(count)
    mixed, mixed_targets = mix_pairs(images, targets, 0.75, torch.Generator().manual_seed(1))
    own, others = mixed_targets.diagonal(), mixed_targets - torch.diag(mixed_targets.diagonal())
    assert bool((own >= 0.5).all())
    assert 0.7 < float(own.mean()) < 0.95  # the mean of max(x, 1 - x) of Beta(0.75, 0.75) is 0.79
    for row in range(count):
        partners = others[row].nonzero()[:, 0].tolist()
        assert len(partners) <= 1
        other = partners[0] if partners else row
        part = float(mixed_targets[row, row])
        expected = part * row + (1 - part) * other
        np.testing.assert_allclose(mixed[row], np.full((3, 2, 2), expected), rtol=1e-5, atol=1e-4)


def test_terms_are_those_of_a_slow_version(
    planted_task: Task, build_network: Callable[[], LearningNetwork], make_step: MakeStep
) -> None:
    task = replace(planted_task, class_weights=torch.tensor([[0.5, 1.0, 1.5], [1.0, 1.0, 1.0]]))
    recipe = MixMatch(views=2, temperature=0.5, weight=10, rise=0.5)
    training = prepare_training(build_network(), task, [recipe], LearningSettings())
    terms = training.compute_terms(make_step(training, progress=0.25))

    step = make_step(training, progress=0.25)
    views = [step.draw_views(step.unlabelled) for _ in range(2)]
    with torch.no_grad():
        mean = sum(step.compute_outputs(view).logits.softmax(1) for view in views) / 2
    guesses = mean.square() / mean.square().sum(1, keepdim=True)
    images, targets = mix_pairs(
        torch.cat([step.images, *views]),
        torch.cat([step.targets, guesses, guesses]),
        0.75,
        step.generator,
    )
    probabilities = step.compute_outputs(images).logits.softmax(1)
    weights = targets @ task.class_weights[0]
    entropies = -(targets * probabilities.log()).sum(1) * weights
    errors = ((probabilities - targets) ** 2).mean(1) * weights
    assert set(terms) == {"mixmatch_labels", "mixmatch_guesses"}  # no plain cross-entropy
    torch.testing.assert_close(terms["mixmatch_labels"], entropies[:8], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["mixmatch_guesses"], 5 * errors[8:], rtol=1e-4, atol=1e-5)


def test_the_guesses_weigh_nothing_at_the_start(
    planted_task: Task, build_network: Callable[[], LearningNetwork], make_step: MakeStep
) -> None:
    training = prepare_training(build_network(), planted_task, [MixMatch()], LearningSettings())
    term = training.compute_terms(make_step(training))["mixmatch_guesses"]
    assert float(term.detach().abs().sum()) == 0


def test_sharpened_guesses_make_the_network_certain_of_images_without_labels(
    planted_task: Task, build_network: Callable[[], LearningNetwork], make_step: MakeStep
) -> None:
    """The guesses alone teach: no label takes part, and without sharpening nothing is learnt."""
    normalised = planted_task.start.normalise(torch.as_tensor(planted_task.unlabelled))

    def measure_certainty(temperature: float) -> tuple[float, float]:
        recipe = MixMatch(temperature=temperature, alpha=1e-3)
        training = prepare_training(build_network(), planted_task, [recipe], LearningSettings())
        network = training.network
        optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
        certainties = []
        for seed in range(STEPS + 1):
            step = make_step(training, progress=1.0, seed=seed)
            if seed in (0, STEPS):
                with torch.no_grad():
                    probabilities = network(normalised).softmax(1)
                certainties.append(float(probabilities.amax(1).mean()))
            optimizer.zero_grad()
            training.compute_terms(step)["mixmatch_guesses"].mean().backward()
            optimizer.step()
        return certainties[0], certainties[1]

    before, after = measure_certainty(0.5)
    unsharpened = measure_certainty(1.0)[1]
    assert after > before + 0.2, (before, after, unsharpened)
    assert after > unsharpened + 0.2


def test_variety_is_0_for_one_class_and_1_for_those_there_are() -> None:
    truth = torch.eye(3).repeat(4, 1)
    one = torch.zeros(12, 3, dtype=torch.bool)
    one[:, 1] = True
    assert float(measure_variety(one, truth)) == pytest.approx(0, abs=1e-6)
    assert float(measure_variety(truth > 0.5, truth)) == pytest.approx(1)
    assert bool(measure_variety(one, one.float()).isnan())


def test_guesses_of_one_class_are_warned_of(
    planted_task: Task,
    build_network: Callable[[], LearningNetwork],
    make_step: MakeStep,
) -> None:
    training = prepare_training(build_network(), planted_task, [MixMatch()], LearningSettings())
    with torch.no_grad():
        training.network.head.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    step = make_step(training)
    training.compute_terms(step)
    means = {name: float(value) for name, value in step.figures.items()} | {"classes": 1.0}
    assert means["mixmatch_variety"] == pytest.approx(0, abs=1e-6)
    assert set(training.degenerate.figures) == {"classes", "mixmatch_variety"}
    line = training.degenerate.message(means)
    assert line is not None and "recipe: mixmatch: nearly all guesses are of one class" in line
    assert training.degenerate.message({"classes": 1.0, "mixmatch_variety": 0.9}) is None


def test_what_cannot_be_mixed_is_refused(
    planted_task: Task, backbone: Classifier, tmp_path: object
) -> None:
    with pytest.raises(ConfigError, match="mixmatch: expected one class per image"):
        MixMatch().check_task(replace(planted_task, decision=EACH_CLASS))
    with pytest.raises(ConfigError, match="mixmatch needs images without labels"):
        train_classifier(PLANTED, backbone, f"{tmp_path}/run", recipes=["mixmatch"], steps=2)
    with pytest.raises(ConfigError, match="mixmatch needs unlabelled images like the labelled"):
        parse_recipes(["mixmatch", "domain_adaptation"])
    with pytest.raises(ConfigError, match="mixmatch:temperature"):
        parse_recipes(["mixmatch:temperature=2"])
