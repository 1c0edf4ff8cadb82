"""SparseEvo: few pixels, found from decisions alone (Vo et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from apercu.robustness.aims import Aim
from apercu.robustness.attacks.base import Attack, Knowledge, check_count
from apercu.types import Images

TRIES = 10
"""Images of noise that are tried as a start where no other image of the batch will do."""


@final
@dataclass(frozen=True)
class SparseEvo(Attack):
    """Evolves which pixels are taken from a starting image of another class.

    A member of the population says for every pixel whether it is the start's (1) or the image's
    (0). The child of two random members takes each pixel from either, keeps of it what the best
    one has too, and loses a few pixels more; where it is still of another class and nearer to the
    image than the worst member, it takes its place.

    Args:
        queries: decisions that are asked for, per image.
        population: how many members.
        initial: share of the pixels that a first member gives up.
        mutation: share of the start's pixels that a child gives up.
        crossover: probability that a pixel comes from the second parent where the first has it.
        seed: of all draws.
    """

    queries: int = 500
    population: int = 10
    initial: float = 0.004
    mutation: float = 0.01
    crossover: float = 0.9
    seed: int = 0
    needs: ClassVar[Knowledge] = "decisions"
    norm: ClassVar[str] = "l0"

    def __post_init__(self) -> None:
        check_count(self.queries, "sparse_evo: queries")
        check_count(self.population - 2, "sparse_evo: population, besides two parents")

    @torch.no_grad()
    def __call__(self, aim: Aim, images: Images) -> Images:
        generator = torch.Generator().manual_seed(self.seed)
        starts, usable = self._starts(aim, images, generator)
        members, fitness = self._first(aim, images, starts, generator)
        rows = torch.arange(len(images), device=images.device)
        for _ in range(max(0, self.queries - self.population - 1)):
            child = self._child(members, fitness, generator)
            reached = aim.reached(_mixed(images, starts, child))
            distance = _distance(images, starts, child)
            distance = torch.where(reached, distance, torch.inf)
            worst = fitness.argmax(0)
            better = distance < fitness[worst, rows]
            place = worst[better], rows[better]
            members[place] = child[better]
            fitness[place] = distance[better]
        best = members[fitness.argmin(0), rows]
        found = _mixed(images, starts, best)
        return torch.where(usable[:, None, None, None], found, images)

    def _starts(self, aim: Aim, images: Images, generator: Generator) -> tuple[Images, Tensor]:
        """For each image one that is seen as another class, and whether there is one."""
        starts, usable = images.clone(), aim.reached(images)
        for number in range(len(images) - 1 + TRIES):
            if usable.all():
                break
            if number < len(images) - 1:
                tried = images.roll(number + 1, 0)
            else:
                noise = torch.rand(images.shape[1:], generator=generator).to(images)
                tried = noise.expand_as(images)
            new = ~usable & aim.reached(tried)
            starts = torch.where(new[:, None, None, None], tried, starts)
            usable = usable | new
        return starts, usable

    def _first(
        self, aim: Aim, images: Images, starts: Images, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        count, (height, width) = len(images), images.shape[-2:]
        given = max(1, round(self.initial * height * width))
        members, fitness = [], []
        for _ in range(self.population):
            drawn = torch.rand(count, height * width, generator=generator)
            kept = torch.ones(count, height * width)
            kept.scatter_(1, drawn.topk(given, dim=1).indices, 0)
            member = kept.view(count, height, width).bool().to(images.device)
            reached = aim.reached(_mixed(images, starts, member))
            member = member | ~reached[:, None, None]  # the whole start, which is of another class
            members.append(member)
            fitness.append(_distance(images, starts, member))
        return torch.stack(members), torch.stack(fitness)

    def _child(self, members: Tensor, fitness: Tensor, generator: Generator) -> Tensor:
        count, device = members.shape[1], members.device
        rows = torch.arange(count, device=device)
        parents = torch.rand(count, self.population, generator=generator).topk(2, dim=1).indices
        first, second = (members[parents[:, side].to(device), rows] for side in (0, 1))
        drawn = torch.rand(2, *first.shape, generator=generator).to(device)
        crossed = torch.where(drawn[0] < self.crossover, second, first)
        best = members[fitness.argmin(0), rows]
        return crossed & best & (drawn[1] >= self.mutation)


def _mixed(images: Images, starts: Images, member: Tensor) -> Images:
    return torch.where(member[:, None], starts, images)


def _distance(images: Images, starts: Images, member: Tensor) -> Tensor:
    """Euclidean distance of the mixed image from the image."""
    return ((starts - images).square().sum(1) * member).flatten(1).sum(1).sqrt()
