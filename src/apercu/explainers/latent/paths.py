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
"""Slopes below it are not enlarged by the optimiser, so that rounding does not decide."""


@dataclass(frozen=True)
class Lagrangian:
    """What a path costs: its kinetic energy, and the doubt that what is wanted is seen on it.

    With z(t) for t in [0, 1], z(0) fixed and z(1) free, the integral over t of
    ½ |dz/dt|² − evidence · log p(wanted | z), and − evidence · log p(wanted | z(1)) for the end.
    After the semantic Lagrangian of Ojeda-Marin et al. (2020), whose two ends are both given.

    Args:
        points: codes on a path, both ends included.
        evidence: weights of the doubt; of the paths that they give, the first whose end convinces
            is taken, and the last where none does.
        convinced: probability of what is wanted that convinces.
        steps: of the descent.
        rate: its learning rate.
    """

    points: Annotated[int, Field(ge=3)] = 7
    evidence: tuple[Annotated[float, Field(gt=0)], ...] = (10.0, 30.0, 100.0, 300.0)
    convinced: Annotated[float, Field(gt=0, lt=1)] = 0.9
    steps: Annotated[int, Field(ge=1)] = 150
    rate: Annotated[float, Field(gt=0)] = 0.05

    def cost(
        self, path: Path, read: Callable[[Codes], Logits], targets: Targets, evidence: Tensor
    ) -> Scores:
        """The Lagrangian of each path, its integral taken as a sum over the points."""
        pieces = self.points - 1
        kinetic = pieces / 2 * path.diff(dim=0).square().sum((0, 2))
        doubts = torch.stack(
            [F.cross_entropy(read(codes), targets, reduction="none") for codes in path]
        )
        return kinetic + evidence * (doubts[1:].mean(0) + doubts[-1])

    @torch.enable_grad()
    def find_path(
        self, start: Codes, read: Callable[[Codes], Logits], targets: Targets
    ) -> tuple[Path, Scores]:
        """The cheapest path from each code to where it is read as what is wanted.

        Args:
            start: where each path begins.
            read: codes → logits, one line per code of `start`, differentiable.
            wanted: what the ends should be read as.

        Returns:
            The paths, and the probability of what is wanted at their ends.
        """
        best = torch.stack([start] * self.points)
        share = torch.zeros(len(start), device=start.device)
        open_still = torch.ones(len(start), dtype=torch.bool, device=start.device)
        for evidence in self.evidence:
            path = self._descend(start, read, targets, evidence)
            reached = read(path[-1]).softmax(1).gather(1, targets[:, None])[:, 0].detach()
            best = torch.where(open_still[:, None], path, best)
            share = torch.where(open_still, reached, share)
            open_still &= reached < self.convinced
            if not open_still.any():
                break
        return best, share

    def _descend(
        self, start: Codes, read: Callable[[Codes], Logits], targets: Targets, evidence: float
    ) -> Path:
        weight = torch.full((len(start),), evidence, device=start.device)
        way = torch.zeros(self.points - 1, *start.shape, device=start.device, requires_grad=True)
        optimiser = torch.optim.Adam([way], lr=self.rate, eps=ADAM_EPSILON)
        for _ in range(self.steps):
            path = torch.cat([start[None], start + way])
            (slopes,) = torch.autograd.grad(self.cost(path, read, targets, weight).sum(), way)
            way.grad = slopes
            optimiser.step()
        return torch.cat([start[None], start + way]).detach()
