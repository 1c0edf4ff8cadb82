"""Distilling a classifier that can only be asked into one that can be climbed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator

from apercu.classifiers.classifier import Classifier
from apercu.classifiers.distillation_data import (
    DistillationData,
    PreparedImages,
    compute_agreement,
    stack_images,
)
from apercu.classifiers.student import StudentSettings, train_student
from apercu.errors import ClassifierError, ImagesError

_FEWEST_IMAGES = 20


class DistillationResult(NamedTuple):
    """A student, and how often its top class is the teacher's on images held out."""

    student: Classifier
    agreement: float


def distil(
    teacher: Classifier,
    images: PreparedImages,
    settings: StudentSettings | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> DistillationResult:
    """Trains a small network to answer like a classifier that can only be asked.

    The teacher is asked about each image and about its mirror image; the student sees shifted
    copies and matches the softened answers (Hinton et al. 2015). The same settings, images and
    number of threads give the same student.

    Args:
        teacher: any classifier; its gradients are not used.
        images: unlabelled, prepared by the teacher.
        settings: of the training; the defaults when None.
        on_step: told the number of steps done and the loss.

    Raises:
        ImagesError: too few images to train on and to hold out.
        ClassifierError: the student agrees with the teacher less often than the floor.
    """
    settings = settings or StudentSettings()
    if len(images) < _FEWEST_IMAGES:
        raise ImagesError(
            f"images: expected at least {_FEWEST_IMAGES} to distil a student, got {len(images)}"
        )
    generator = Generator().manual_seed(settings.seed)
    order = torch.randperm(len(images), generator=generator)
    held = order[: max(1, round(settings.held_out * len(images)))]
    lessons = DistillationData.query_teacher(teacher, images, order[len(held) :], settings.batch)
    student = train_student(teacher, lessons, settings, generator, on_step)
    shown = (
        stack_images(images, chosen).to(teacher.device)
        for chosen in torch.split(held, settings.batch)
    )
    share = compute_agreement(teacher, student, shown)
    if share < settings.floor:
        raise ClassifierError(
            f"student: agrees with {teacher.spec} on {share:.1%} of {len(held)} held-out "
            f"images, below the floor of {settings.floor:.1%}; give it more images or more "
            "steps, or lower the floor"
        )
    return DistillationResult(student, share)
