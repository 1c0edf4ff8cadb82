"""Total variation denoising: the nearest image that is smooth except at its edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from apercu.filters.base import Filter
from apercu.filters.checks import check_positive, check_whole
from apercu.types import Images

Dual: TypeAlias = Float[Tensor, "2 batch channels height width"]

STEP_SIZE = 0.25
"""Step size of the projection; up to this value it converges in practice."""
MAX_GRAPH_STEPS = 200
"""Largest number of steps in an exported graph, where each stands by itself."""
CHECKPOINT_STEPS = 7
"""Steps between two states that are kept for the backward pass, which repeats the others."""


@final
@dataclass(frozen=True)
class TotalVariation(Filter):
    """Minimises ‖u − image‖² / 2 + weight · TV(u) by the dual projection of Chambolle (2004).

    Each channel is filtered by itself. The surrogate is the filter itself, step by step.

    Args:
        weight: weight of the variation; more is smoother.
        steps: steps of the projection.

    Raises:
        ConfigError: a setting is out of range.
    """

    weight: float = 0.1
    steps: int = 50

    def __post_init__(self) -> None:
        check_positive("total_variation", weight=self.weight)
        check_whole("total_variation", 1, 10_000, steps=self.steps)

    @property
    def graph_obstacle(self) -> str:
        if self.steps > MAX_GRAPH_STEPS:
            return f"more than {MAX_GRAPH_STEPS} steps make the graph too large"
        return ""

    def apply(self, images: Images) -> Images:
        return self.apply_surrogate(images).clamp(0, 1)

    def apply_surrogate(self, images: Images) -> Images:
        dual = images.new_zeros(2, *images.shape)
        for done in range(0, self.steps, CHECKPOINT_STEPS):
            count = min(CHECKPOINT_STEPS, self.steps - done)
            if torch.is_grad_enabled():
                dual = checkpoint(self._project, dual, images, count, use_reentrant=False)
            else:
                dual = self._project(dual, images, count)
        return images - self.weight * _compute_divergence(dual)

    def _project(self, dual: Dual, images: Images, steps: int) -> Dual:
        """Run `steps` steps of the projection."""
        for _ in range(steps):
            gradient = _compute_gradient(_compute_divergence(dual) - images / self.weight)
            length = torch.linalg.vector_norm(gradient, dim=0)
            dual = (dual + STEP_SIZE * gradient) / (1 + STEP_SIZE * length)
        return dual


def _compute_gradient(images: Images) -> Dual:
    """Return the differences to the pixel below and to the right, 0 at the far borders."""
    down = F.pad(images.diff(dim=2), (0, 0, 0, 1))
    return torch.stack([down, F.pad(images.diff(dim=3), (0, 1))])


def _compute_divergence(dual: Dual) -> Images:
    """Return minus the adjoint of the gradient; the far borders of `dual` are 0."""
    down, across = dual
    return F.pad(down, (0, 0, 1, 0)).diff(dim=2) + F.pad(across, (1, 0)).diff(dim=3)
