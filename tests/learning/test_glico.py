"""Generated images between the labelled ones of a class, from a latent space kept on disk."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from apercu.classifiers.decisions import EACH_CLASS
from apercu.errors import ConfigError
from apercu.learning.recipes import glico
from apercu.learning.recipes.base import Task
from apercu.learning.recipes.glico import (
    PHASE,
    Glico,
    compare_images,
    interpolate_codes,
    interpolate_spherically,
)
from apercu.log import redirect_warnings

SMALL = Glico(steps=5, width=8, size=8, samples=2, rate=3e-3)


@pytest.fixture
def few(planted_task: Task, tmp_path: Path) -> Task:
    """Twelve of the planted images with their labels, and a run folder of their own."""
    rows = torch.cat([(planted_task.targets[:, c] > 0).nonzero()[:4, 0] for c in range(3)])
    images = torch.stack([planted_task.images[int(row)] for row in rows])
    return replace(planted_task, images=images, targets=planted_task.targets[rows], folder=tmp_path)


def test_interpolation_goes_along_the_shortest_arc_at_the_same_pace() -> None:
    first, second = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    for fraction in (0.0, 0.25, 0.5, 1.0):
        point = interpolate_spherically(first, second, torch.tensor([fraction]))
        angle = fraction * math.pi / 2
        expected = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]])
        torch.testing.assert_close(point, expected, atol=1e-5, rtol=0)


def test_codes_are_interpolated_inside_their_class() -> None:
    codes = torch.eye(6)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    rows = torch.arange(6).repeat(20)
    between = interpolate_codes(codes, rows, labels, torch.Generator().manual_seed(0))
    for row, code in zip(rows.tolist(), between, strict=True):
        used = code.abs() > 1e-5
        assert bool((labels[used] == labels[row]).all()) and 1 <= int(used.sum()) <= 2
        assert float(code.norm()) == pytest.approx(1, abs=1e-4)
    both = (between.abs() > 1e-5).sum(1) == 2
    assert bool(both.float().mean() > 0.9)  # never with itself


def test_images_are_compared_at_three_resolutions() -> None:
    board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(4, 4)[None, None]
    grey = torch.full_like(board, 0.5)
    torch.testing.assert_close(compare_images(board, grey), torch.tensor([0.5]))  # 0 from 4 px on
    torch.testing.assert_close(compare_images(grey, grey + 0.1), torch.tensor([0.3]))


@pytest.mark.slow
def test_codes_give_their_images_and_new_ones_of_the_class(few: Task) -> None:
    start = SMALL.model_copy(update={"steps": 1}).optimise_space(few)
    longer = SMALL.model_copy(update={"steps": 120})
    space = longer.optimise_space(few)
    with torch.no_grad():
        before = compare_images(start(start.codes), few.images).mean()
        after = compare_images(space(space.codes), few.images).mean()
    assert after < 0.6 * before
    added = longer.make_images(few)
    assert len(added.images) == len(added.targets) == 24
    assert torch.equal(added.targets, few.targets.repeat_interleave(2, 0))
    image = added.images[0]
    assert image.shape == few.images[0].shape and 0 <= image.min() <= image.max() <= 1
    assert float((image - few.images[0]).abs().mean()) > 1e-3  # a new image
    distances = torch.stack(
        [
            torch.stack([(added.images[i] - each).square().mean() for each in few.images])
            for i in range(24)
        ]
    )
    nearest = few.targets[distances.argmin(1)]
    assert float((nearest == added.targets).all(1).float().mean()) > 0.8


def test_the_class_loss_makes_interpolated_images_recognised(few: Task) -> None:
    rows, labels = torch.arange(12), few.targets.argmax(1)
    space = SMALL.optimise_space(few).requires_grad_(True).train()
    space.zero_grad()  # what the last step left
    draws = torch.Generator().manual_seed(0)
    terms = SMALL.compute_losses_of(space, few.images, rows, labels, draws)
    assert set(terms) == {"images", "discriminator", "classes"}
    terms["classes"].mean().backward()
    assert space.codes.grad is not None and float(space.codes.grad.abs().sum()) > 0
    assert all(each.grad is None for each in space.discriminator.parameters())
    without = SMALL.model_copy(update={"classes": 0.0})
    assert "classes" not in without.compute_losses_of(space, few.images, rows, labels, draws)


def test_an_interrupted_optimisation_goes_on_and_a_finished_one_is_not_done_again(
    few: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = SMALL.model_copy(update={"steps": 6})
    whole = recipe.optimise_space(replace(few, folder=tmp_path / "whole"))
    other = replace(few, folder=tmp_path / "other")
    losses, calls = Glico.compute_losses_of, []

    def interrupt(self: Glico, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return losses(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("apercu.run_record.SAVE_EVERY", 0.0)
    monkeypatch.setattr(Glico, "compute_losses_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        recipe.optimise_space(other)
    resumed = recipe.optimise_space(other)
    assert len(calls) == 4 + 3
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    recipe.optimise_space(other)
    phase = other.make_phase(PHASE, str(recipe))
    state: dict[str, Any] = phase.load()
    state["space"] = {
        name.replace("discriminator.", "judge."): each for name, each in state["space"].items()
    }
    phase.save(state)  # as older versions did
    recipe.optimise_space(other)
    assert len(calls) == 7
    assert (tmp_path / "other" / "checkpoints" / "latent-codes.pt").is_file()


def test_images_that_are_all_the_same_are_warned_of(
    few: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(
        glico, "interpolate_codes", lambda codes, rows, labels, generator: codes[:1].expand(24, -1)
    )
    recipe = SMALL.model_copy(update={"steps": 1, "classes": 0.0})
    with redirect_warnings(lines.append):
        recipe.make_images(few)
    assert len(lines) == 1 and "generated images of a class are nearly the same" in lines[0]


def test_what_has_nothing_between_is_refused(few: Task) -> None:
    with pytest.raises(ConfigError, match="glico: expected one class per image"):
        SMALL.check_task(replace(few, decision=EACH_CLASS))
    targets = few.targets.clone()
    targets[-3:] = targets[0]
    with pytest.raises(ConfigError, match=f"the class {few.classes[2]} has fewer than 2 images"):
        SMALL.check_task(replace(few, targets=targets))
