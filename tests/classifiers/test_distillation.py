"""Students learn from a teacher without gradients, and are refused where they disagree."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from apercu.classifiers import (
    BlackBox,
    Classifier,
    ClassNames,
    InputSpec,
    Network,
    SmallResNet,
    StudentSettings,
    distil,
    distillation,
    open_classifier,
    save_classifier,
)
from apercu.classifiers.decisions import ONE_CLASS
from apercu.classifiers.distillation_data import DistillationData
from apercu.errors import ClassifierError, ConfigError, ImagesError
from apercu.run_record import Phase

SETTINGS = StudentSettings(steps=60, batch=32, lr=1e-2, width=4)


def _brightest_colour(images: Tensor) -> Tensor:
    return 20 * images.mean((2, 3))


def _teacher() -> Classifier:
    return Classifier(
        Network(
            source="colours",
            forward=BlackBox(_brightest_colour),
            digest="0",
            input=InputSpec(size=(8, 8), mean=(0.5,) * 3),
            names=ClassNames.of(["red", "green", "blue"]),
            differentiable=False,
        )
    )


def _make_tinted_images(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    tints = torch.rand(count, 3, 1, 1, generator=generator)
    return list((tints + 0.2 * torch.rand(count, 3, 8, 8, generator=generator)).clamp(0, 1))


def test_a_student_learns_the_logits_of_its_teacher_and_gives_gradients() -> None:
    teacher = _teacher()
    losses: list[float] = []
    student, agreement = distil(
        teacher, _make_tinted_images(300), SETTINGS, lambda step, loss: losses.append(loss)
    )
    assert agreement >= 0.8
    assert student.classes == teacher.classes and student.size == teacher.size
    assert len(losses) == 60 and sum(losses[-10:]) < 0.3 * sum(losses[:10])
    images = torch.stack(_make_tinted_images(4)).requires_grad_()
    (gradient,) = torch.autograd.grad(student(images)[:, 1].sum(), images)
    assert gradient[:, 1].sum() > gradient[:, 0].sum()


def test_the_agreement_is_measured_on_held_out_images() -> None:
    images = _make_tinted_images(300)
    student, agreement = distil(_teacher(), images, SETTINGS)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    held_out = torch.stack([images[i] for i in order[:30].tolist()])
    same = student(held_out).argmax(1) == _brightest_colour(held_out).argmax(1)
    assert agreement == pytest.approx(same.float().mean().item())


def test_the_teacher_is_queried_twice_per_training_image_and_once_per_held_out_image() -> None:
    teacher = _teacher()
    distil(teacher, _make_tinted_images(40), StudentSettings(steps=2, batch=8, width=2, floor=0.0))
    assert teacher.queries == 2 * 36 + 4


def test_the_same_seed_gives_the_same_student() -> None:
    few = {"steps": 5, "batch": 8, "width": 2, "floor": 0.0}
    images, state = _make_tinted_images(40), torch.get_rng_state()
    fingerprints = [
        distil(_teacher(), images, StudentSettings(**few, seed=seed)).student.fingerprint
        for seed in (1, 1, 2)
    ]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_an_interrupted_student_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apercu.run_record.SAVE_EVERY", 0.0)
    settings = StudentSettings(steps=9, batch=8, width=2, floor=0.0)
    images, steps = _make_tinted_images(40), []

    def stop(step: int, loss: float) -> None:
        steps.append(step)
        if step == 6:
            raise KeyboardInterrupt

    teacher = _teacher()
    whole = distil(_teacher(), images, settings).student
    with pytest.raises(KeyboardInterrupt):
        distil(teacher, images, settings, stop, folder=tmp_path)
    queries = teacher.queries
    rest: list[int] = []
    student = distil(
        teacher, images, settings, lambda step, loss: rest.append(step), folder=tmp_path
    ).student
    assert (steps[0], steps[-1], rest) == (1, 6, [6, 7, 8, 9])
    assert teacher.queries - queries == 4  # of the images held out
    assert student.fingerprint == whole.fingerprint
    assert list(tmp_path.iterdir()) == []


def test_interrupted_queries_of_the_teacher_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apercu.run_record.SAVE_EVERY", 0.0)
    teacher, images, indices = _teacher(), _make_tinted_images(30), torch.arange(30)
    whole = DistillationData.query_teacher(teacher, images, indices, batch=7)

    def report(name: str, done: int, total: int) -> None:
        if done == 21 and total == 30 and name == "first":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phase = Phase("first", report, tmp_path / "logits.ckpt")
        DistillationData.query_teacher(teacher, images, indices, 7, phase)
    queries = teacher.queries
    phase = Phase("second", report, tmp_path / "logits.ckpt")
    parts = DistillationData.query_teacher(teacher, images, indices, 7, phase)
    assert teacher.queries - queries == 2 * (30 - 14)
    assert torch.equal(parts.teacher_logits, whole.teacher_logits)


def test_a_student_below_the_floor_is_refused() -> None:
    settings = StudentSettings(steps=1, batch=8, width=2, floor=1.0)
    with pytest.raises(ClassifierError, match=r"on \d+\.\d% of 4 held-out .* floor of 100\.0%"):
        distil(_teacher(), _make_tinted_images(40), settings)


def test_a_student_can_be_saved(tmp_path: Path) -> None:
    settings = StudentSettings(steps=2, width=2, floor=0.0)
    student = distil(_teacher(), _make_tinted_images(40), settings).student
    again = open_classifier(save_classifier(student, tmp_path))
    assert again.fingerprint == student.fingerprint
    images = torch.stack(_make_tinted_images(3))
    assert torch.equal(again(images), student(images))


def test_batches_hold_the_logits_of_the_teacher_for_their_images() -> None:
    def leaning(images: Tensor) -> Tensor:  # which half is brighter: mirrors differ
        return torch.stack((images[..., :4].mean((1, 2, 3)), images[..., 4:].mean((1, 2, 3))), 1)

    teacher = Classifier(
        Network(
            source="halves",
            forward=BlackBox(leaning),
            digest="0",
            input=InputSpec(size=(8, 8)),
            differentiable=False,
        )
    )
    ramp = torch.linspace(0, 1, 8).expand(3, 8, 8)
    images = [ramp * (1 + i) / 20 for i in range(20)]
    data = DistillationData.query_teacher(teacher, images, torch.arange(3, 20), batch=5)
    batches = list(islice(data.draw_batches(6, torch.Generator().manual_seed(0)), 12))
    for images, logits in batches:
        assert torch.equal(leaning(images).argmax(1), logits.argmax(1))
    assert {len(set(logits.argmax(1).tolist())) for _, logits in batches} == {2}
    epoch = torch.cat([logits.max(1).values for _, logits in batches])[:17]
    assert len(epoch.unique()) == 17


def test_the_loss_is_the_divergence_by_its_formula() -> None:
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(ONE_CLASS.divergence(student, teacher, 2.0), expected)
    assert ONE_CLASS.divergence(teacher, teacher, 2.0).abs() < 1e-6


def test_too_few_images() -> None:
    with pytest.raises(ImagesError, match="at least 20 to distil a student, got 19"):
        distil(_teacher(), _make_tinted_images(19))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"steps": 0}, "steps, batch and width"),
        ({"lr": 0.0}, "lr and temperature"),
        ({"held_out": 1.0}, "held_out"),
        ({"floor": 1.1}, "floor"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        StudentSettings(**wrong)


@pytest.mark.parametrize(
    ("size", "detail"), [((16, 16), 2), ((64, 64), 8), ((65, 40), 3), ((224, 224), 7)]
)
def test_larger_images_are_shrunk_in_the_stem(size: tuple[int, int], detail: int) -> None:
    network = SmallResNet(1, 5, size, width=2).eval()
    images = torch.rand(1, 1, *size)
    assert network.blocks(network.stem(images)).shape[3] == detail
    assert network(images).shape == (1, 5)


def test_the_estimated_time_counts_the_start_of_a_training_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock by which a start takes 10 s, an image of a step 1/8 s, and a query 1 s per image."""
    now = [0.0]

    def train(teacher: Any, data: Any, settings: StudentSettings, *rest: Any) -> None:
        now[0] += 10 + settings.steps * settings.batch / 8

    monkeypatch.setattr(distillation, "train_student", train)
    monkeypatch.setattr(distillation.time, "perf_counter", lambda: now[0])

    def ask(images: torch.Tensor) -> torch.Tensor:
        now[0] += len(images)
        return images.mean((2, 3))

    teacher = open_classifier(ask, size=8)
    settings = StudentSettings(steps=100, batch=16)
    expected = 2 * 50 * 1 + 100 * 16 / 8
    assert distillation.estimate_seconds(teacher, 50, settings) == pytest.approx(expected)
    assert teacher.queries == 0
