"""Paths through the codes of an autoencoder, from one decision to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from apercu.explainers.latent.network import Codes
from apercu.types import Logits, Scores, Targets

Path = Float[Tensor, "points batch code"]

ADAM_EPSILON = 0.01
"""Gradients below it are not enlarged by the optimiser, so that rounding does not decide."""


@dataclass(frozen=True)
class Lagrangian:
    """The cost of a path: its kinetic energy, and the cross-entropy with the target along it.

    With z(t) for t in [0, 1], z(0) fixed and z(1) free, the integral over t of
    ½ |dz/dt|² − evidence · log p(target | z), and − evidence · log p(target | z(1)) for the end.
    After the semantic Lagrangian of Ojeda-Marin et al. (2020), whose two ends are both given.

    Args:
        points: number of codes on a path, both ends included.
        evidence: weights of the cross-entropy, which are tried in order until the end of the path
            is convincing; else the path of the last one is taken.
        convinced: probability of the target that is convincing.
        steps: number of steps of the descent.
        rate: learning rate of the descent.
    """

    points: Annotated[int, Field(ge=3)] = 7
    evidence: tuple[Annotated[float, Field(gt=0)], ...] = (10.0, 30.0, 100.0, 300.0)
    convinced: Annotated[float, Field(gt=0, lt=1)] = 0.9
    steps: Annotated[int, Field(ge=1)] = 150
    rate: Annotated[float, Field(gt=0)] = 0.05

    def compute_cost(
        self, path: Path, read: Callable[[Codes], Logits], targets: Targets, evidence: Tensor
    ) -> Scores:
        """Return the Lagrangian of each path, with a sum over the points for the integral.

        Args:
            path: codes of the paths, `points × batch × code`.
            read: function from codes to logits.
            targets: target class of each path.
            evidence: weight of the cross-entropy of each path.
        """
        pieces = self.points - 1
        kinetic = pieces / 2 * path.diff(dim=0).square().sum((0, 2))
        entropies = torch.stack(
            [F.cross_entropy(read(codes), targets, reduction="none") for codes in path]
        )
        return kinetic + evidence * (entropies[1:].mean(0) + entropies[-1])

    @torch.enable_grad()
    def find_path(
        self, start: Codes, read: Callable[[Codes], Logits], targets: Targets
    ) -> tuple[Path, Scores]:
        """Find the cheapest path from each code to one that is read as the target.

        Args:
            start: codes at which the paths begin, `batch × code`.
            read: differentiable function from codes to logits, one row per code of `start`.
            targets: target class of each path.

        Returns:
            The paths, `points × batch × code`, and the probability of the target at their ends.
        """
        best = torch.stack([start] * self.points)
        probability = torch.zeros(len(start), device=start.device)
        unconvinced = torch.ones(len(start), dtype=torch.bool, device=start.device)
        for evidence in self.evidence:
            path = self._descend(start, read, targets, evidence)
            at_end = read(path[-1]).softmax(1).gather(1, targets[:, None])[:, 0].detach()
            best = torch.where(unconvinced[:, None], path, best)
            probability = torch.where(unconvinced, at_end, probability)
            unconvinced &= at_end < self.convinced
            if not unconvinced.any():
                break
        return best, probability

    def _descend(
        self, start: Codes, read: Callable[[Codes], Logits], targets: Targets, evidence: float
    ) -> Path:
        weight = torch.full((len(start),), evidence, device=start.device)
        offsets = torch.zeros(
            self.points - 1, *start.shape, device=start.device, requires_grad=True
        )
        optimiser = torch.optim.Adam([offsets], lr=self.rate, eps=ADAM_EPSILON)
        for _ in range(self.steps):
            path = torch.cat([start[None], start + offsets])
            (gradient,) = torch.autograd.grad(
                self.compute_cost(path, read, targets, weight).sum(), offsets
            )
            offsets.grad = gradient
            optimiser.step()
        return torch.cat([start[None], start + offsets]).detach()
