"""Distillation: a student gives gradients for a classifier that can only be queried."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from apercu.classifiers.card import ClassifierCard
from apercu.classifiers.classifier import Classifier
from apercu.classifiers.distillation_data import (
    DistillationData,
    PreparedImages,
    compute_agreement,
    stack_images,
)
from apercu.classifiers.open import wrap_module
from apercu.classifiers.preprocessing import normalise
from apercu.classifiers.small_resnet import SmallResNet
from apercu.devices import choose_memory_format, enable_gradients
from apercu.errors import ClassifierError, ConfigError, ImagesError
from apercu.progress import ProgressCallback, ignore_progress
from apercu.run_record import Phase

LOGITS, STEPS = "teacher-logits.ckpt", "student.ckpt"
"""Files of what is kept while a student is distilled."""
_FEWEST_IMAGES = 20
"""Images from which a student is distilled, at least."""
_WEIGHT_DECAY = 0.02
_WARM_UP = 0.2
"""Fraction of the steps over which the learning rate rises."""


class DistillationResult(NamedTuple):
    """A student, and how often its predicted class is the teacher's, on held-out images."""

    student: Classifier
    agreement: float


@dataclass(frozen=True)
class StudentSettings:
    """How a student is distilled.

    Args:
        steps: gradient steps; the learning rate rises and falls once within them.
        batch: images per step.
        lr: highest learning rate (AdamW).
        width: channels of the student's stem.
        temperature: temperature by which both logits are divided before they are compared.
        held_out: fraction of the images on which the agreement is measured.
        floor: smallest agreement that is accepted.
        seed: seed of the first weights, the split, the order and the augmentation.
    """

    steps: int = 16000
    batch: int = 64
    lr: float = 4e-3
    width: int = 16
    temperature: float = 4.0
    held_out: float = 0.1
    floor: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.width) < 1:
            raise ConfigError("student: expected steps, batch and width of at least 1")
        if min(self.lr, self.temperature) <= 0:
            raise ConfigError("student: expected lr and temperature above 0")
        if not (0 < self.held_out < 1 and 0 <= self.floor <= 1):
            raise ConfigError("student: expected held_out between 0 and 1, and floor in [0, 1]")


@enable_gradients()
def distil(
    teacher: Classifier,
    images: PreparedImages,
    settings: StudentSettings | None = None,
    on_step: Callable[[int, float], None] | None = None,
    *,
    report: ProgressCallback = ignore_progress,
    folder: str | Path | None = None,
) -> DistillationResult:
    """Train a small network to predict what another classifier predicts.

    The teacher is queried with each image and with its mirror image; the student learns from
    shifted copies to match the softened logits (Hinton et al. 2015). The same settings, images and
    number of threads give the same student.

    Args:
        teacher: any classifier; its gradients are not used.
        images: unlabelled images, prepared by the teacher.
        settings: settings of the training; the defaults if None.
        on_step: called after each step with the number of steps so far and the loss.
        report: receives the name of each part of the work, how much is done, and how much there is.
        folder: folder in which the state is kept every minute, so that the same call goes on where
            it was interrupted; nothing is kept when None.

    Returns:
        The student, and its agreement with the teacher.

    Raises:
        ImagesError: there are too few images to train on and to hold out.
        ClassifierError: the student agrees with the teacher less often than the floor.
    """
    settings = settings or StudentSettings()
    if len(images) < _FEWEST_IMAGES:
        raise ImagesError(
            f"images: expected at least {_FEWEST_IMAGES} to distil a student, got {len(images)}"
        )
    generator = Generator().manual_seed(settings.seed)
    order = torch.randperm(len(images), generator=generator)
    held_out = order[: max(1, round(settings.held_out * len(images)))]
    key = f"{teacher.fingerprint} {len(images)} {settings.held_out} {settings.seed}"
    queries = Phase("classifier's logits", report, key=key)
    steps = Phase("student steps", report, key=f"{key} {replace(settings, floor=0.0)}")
    if folder is not None:
        queries.path, steps.path = Path(folder) / LOGITS, Path(folder) / STEPS
    training = order[len(held_out) :]
    data = DistillationData.query_teacher(teacher, images, training, settings.batch, queries)
    student = train_student(teacher, data, settings, generator, on_step, steps)
    batches = (
        stack_images(images, indices).to(teacher.device)
        for indices in torch.split(held_out, settings.batch)
    )
    agreement = compute_agreement(teacher, student, batches)
    if agreement < settings.floor:
        raise ClassifierError(
            f"student: agrees with {teacher.spec} on {agreement:.1%} of {len(held_out)} held-out "
            f"images, below the floor of {settings.floor:.1%}; give it more images or more "
            "steps, or lower the floor"
        )
    queries.remove()
    steps.remove()
    return DistillationResult(student, agreement)


def train_student(
    teacher: Classifier,
    data: DistillationData,
    settings: StudentSettings,
    generator: Generator,
    on_step: Callable[[int, float], None] | None,
    phase: Phase | None = None,
) -> Classifier:
    """Train a `SmallResNet` on a teacher's logits, on the teacher's device.

    Args:
        teacher: the classifier whose input and classes the student takes; it is not queried.
        data: the images and the teacher's logits.
        settings: settings of the training.
        generator: source of the randomness of order and augmentation.
        on_step: called after each step with the number of steps so far and the loss.
        phase: reports the steps and keeps the state; nothing is kept when None.

    Returns:
        The student.
    """
    phase = phase or Phase("student steps")
    card = _make_card(teacher, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = SmallResNet(**card.options)
    memory_format = choose_memory_format(module)
    module.to(teacher.device, memory_format=memory_format)  # type: ignore[call-overload]
    optimiser = AdamW(module.parameters(), lr=settings.lr, weight_decay=_WEIGHT_DECAY)
    schedule = LambdaLR(optimiser, lambda step: _learning_rate_factor((step + 1) / settings.steps))
    state, first = phase.load(), 0
    if state:
        first = state["step"]
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
    phase.note(first, settings.steps)

    def make_state(step: int) -> dict[str, Any]:
        return {
            "step": step,
            "module": module.state_dict(),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
        }

    batches = islice(data.draw_batches(settings.batch, generator, first), settings.steps - first)
    for step, (images, teacher_logits) in enumerate(batches, start=first + 1):
        normalised = normalise(images.to(teacher.device), teacher.network.input)
        logits = module(normalised.contiguous(memory_format=memory_format))
        teacher_logits = teacher_logits.to(teacher.device)
        loss = teacher.decision.divergence(logits, teacher_logits, settings.temperature)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step, loss.item())
        phase.note(step, settings.steps, partial(make_state, step))
    return wrap_module(module, card, teacher.names)


def estimate_seconds(teacher: Classifier, count: int, settings: StudentSettings) -> float:
    """Estimate how long a distillation takes, from a query and a step that are timed.

    Args:
        teacher: the classifier; what it is asked here is not counted.
        count: number of training images.
        settings: settings of the training.

    Returns:
        Seconds.
    """
    queries = teacher.queries
    images = torch.full((min(8, settings.batch), teacher.channels, *teacher.size), 0.5)
    data = DistillationData(
        list(images), torch.arange(len(images)), torch.zeros(2, len(images), len(teacher.classes))
    )

    @torch.no_grad()
    def query() -> None:
        teacher(images.to(teacher.device))

    def train(steps: int) -> None:
        shortened = replace(settings, steps=steps, batch=len(images))
        train_student(teacher, data, shortened, Generator().manual_seed(0), None)

    query()  # the first calls are slower
    train(1)
    per_query = _time_call(query) / len(images)
    start, longer = _time_call(partial(train, 1)), _time_call(partial(train, 3))
    per_image = max(0.0, longer - start) / (2 * len(images))
    teacher.queries = queries
    return 2 * count * per_query + settings.steps * min(count, settings.batch) * per_image


def _time_call(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _learning_rate_factor(progress: float) -> float:
    """Return a factor that rises linearly to 1 in the warm-up, then falls to 0 along a cosine."""
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def _make_card(teacher: Classifier, settings: StudentSettings) -> ClassifierCard:
    return ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options={
            "channels": teacher.channels,
            "classes": len(teacher.classes),
            "size": list(teacher.size),
            "width": settings.width,
        },
        input=teacher.network.input,
        output="sigmoid" if teacher.decision.is_multiple else "logits",
    )
