"""The base classes of attacks, and the gradients of what they maximise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from apercu.devices import copy_inference, enable_gradients
from apercu.errors import ClassifierError
from apercu.robustness.objectives import AttackObjective
from apercu.types import Images, Scores

Access: TypeAlias = Literal["gradients", "decisions"]
"""What an attack needs of the classifier: its gradients, or only its decisions."""

Norm: TypeAlias = Literal["linf", "l2"]

QueryCounts: TypeAlias = Int[Tensor, " batch"]

START_NOISE = 1 / 255
"""Largest change of a value by the random step away from a stationary image."""


class Attack(ABC):
    """Changes images until they are adversarial for an objective; prints as its own settings.

    Attributes:
        needs: access to the classifier that the attack needs.
        any_objective: whether the attack maximises any objective; the others only know classes.
        uses_whole_batch: whether the result of an image depends on the other images of its batch.
    """

    needs: ClassVar[Access]
    any_objective: ClassVar[bool] = False
    uses_whole_batch: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        """Return attacked images in [0, 1], without gradients; the given images do not change.

        Args:
            objective: score that the attack maximises; it knows the classes of these images.
            images: clean images in [0, 1], `batch × channels × height × width`.

        Returns:
            Attacked images of the same shape.

        Raises:
            ClassifierError: the classifier does not give what the attack needs, or the objective
                is the same for all images.
        """


class QueryCountingAttack(Attack):
    """An attack that counts its queries of the classifier."""

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        return self.attack_and_count(objective, images)[0]

    @abstractmethod
    def attack_and_count(
        self, objective: AttackObjective, images: Images
    ) -> tuple[Images, QueryCounts]:
        """Return attacked images as `__call__` does, and the number of queries for each image."""


def compute_gradients(
    objective: AttackObjective, images: Images, *, clean: Images | None = None
) -> tuple[Images, Scores]:
    """Compute the gradient of an objective with respect to each image, and its score.

    Args:
        objective: score of each image.
        images: images at which the gradient is computed; it is 0 on a plateau.
        clean: clean images, in the first step of an attack. If no image that is not yet adversarial
            has a gradient, it is checked that the objective has one at all.

    Returns:
        Gradients of the shape of the images, and one score per image.

    Raises:
        ClassifierError: the objective has no gradient, or in the first step it is 0 everywhere.
    """
    with enable_gradients():
        leaf = copy_inference(images.detach()).requires_grad_()
        scores = objective.score(leaf)
        gradients = None
        if scores.requires_grad:
            (gradients,) = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)
    if gradients is None:
        raise ClassifierError(
            "attack: the logits do not depend on the image in a way that has gradients; "
            "use a decision-based attack (sparse_evo)"
        )
    if clean is not None and not gradients.any() and _is_constant(objective, clean):
        raise ClassifierError(
            "attack: the objective is constant, its gradient is 0 for every pixel; a filter or "
            "the classifier hides it, so use the margin (margin_pgd), or use a decision-based "
            "attack (sparse_evo)"
        )
    return gradients, scores.detach()


def _is_constant(objective: AttackObjective, images: Images) -> bool:
    """Whether images that are not yet adversarial have no gradient, there or elsewhere.

    The gradient is computed at the images, halfway to grey, at grey, and at noise.
    """
    unfinished = ~objective.is_adversarial(images)
    noise = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
    grey = torch.full_like(images, 0.5)
    points = (images, (images + grey) / 2, grey, noise.expand_as(images))
    return bool(unfinished.any()) and not any(
        compute_gradients(objective, point)[0][unfinished].any() for point in points
    )


def check_gradients(objective: AttackObjective, images: Images) -> None:
    """Raise ClassifierError for an objective without gradients, or with gradients of 0."""
    compute_gradients(objective, images, clean=images)


def choose_start(objective: AttackObjective, images: Images) -> Images:
    """Return where the first gradient is computed: at the images, or beside them.

    An objective that is stationary at the clean images has no gradient there. The small random
    step away from them is the same for every image.
    """
    if not objective.stationary_at_clean:
        return images
    draws = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0))
    return (images + START_NOISE * (2 * draws - 1).to(images)).clamp(0, 1)


def compute_lengths(values: Tensor) -> Tensor:
    """Compute the Euclidean length of each image, `batch × 1 × 1 × 1`."""
    return values.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
