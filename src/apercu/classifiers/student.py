"""A small network that learns to answer like a classifier that can only be asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from apercu.classifiers.card import ClassifierCard
from apercu.classifiers.classifier import Classifier
from apercu.classifiers.distillation_data import DistillationData
from apercu.classifiers.preprocessing import normalise
from apercu.classifiers.save import wrap_module
from apercu.classifiers.small_resnet import SmallResNet
from apercu.errors import ConfigError
from apercu.types import Logits

_WEIGHT_DECAY = 0.02
_WARM_UP = 0.2


@dataclass(frozen=True)
class StudentSettings:
    """How a student is distilled.

    Args:
        steps: gradient steps; the learning rate rises and falls once within them.
        batch: images per step.
        lr: the highest learning rate (AdamW).
        width: channels of the student's stem.
        temperature: softens both answers before they are compared.
        held_out: share of the images kept to measure the agreement.
        floor: the least agreement that is accepted.
        seed: of the first weights, the split, the order and the augmentation.
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


def train_student(
    teacher: Classifier,
    data: DistillationData,
    settings: StudentSettings,
    generator: Generator,
    on_step: Callable[[int, float], None] | None,
) -> Classifier:
    """Trains a `SmallResNet` on a teacher's lessons, on the teacher's device.

    Args:
        teacher: says input and classes; it is not asked.
        lessons: its answers.
        settings: of the training.
        generator: of the order and the augmentation.
        on_step: told the number of steps done and the loss.
    """
    card = _make_card(teacher, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        module = SmallResNet(**card.options)
    module.to(teacher.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = AdamW(module.parameters(), lr=settings.lr, weight_decay=_WEIGHT_DECAY)
    schedule = LambdaLR(optimiser, lambda step: _learning_rate_factor((step + 1) / settings.steps))
    batches = islice(data.draw_batches(settings.batch, generator), settings.steps)
    for step, (images, answers) in enumerate(batches, start=1):
        shown = normalise(images.to(teacher.device), teacher.network.input)
        logits = module(shown.contiguous(memory_format=torch.channels_last))
        loss = _distillation_loss(logits, answers.to(teacher.device), settings.temperature)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step, loss.item())
    return wrap_module(module, card, teacher.names)


def _learning_rate_factor(progress: float) -> float:
    """Linear up to 1 during the warm-up, then down to 0 along a cosine."""
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
    )


def _distillation_loss(student: Logits, teacher: Logits, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened answers, in the scale of the plain ones."""
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return divergence * temperature**2
