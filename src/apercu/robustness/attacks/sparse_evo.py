"""SparseEvo: few pixels, found from decisions alone (Vo et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from apercu.option_strings import MAX_SEED
from apercu.robustness.attacks.base import (
    Access,
    QueryCountingAttack,
    QueryCounts,
    check_count,
    check_fraction,
)
from apercu.robustness.filters.base import check_whole
from apercu.robustness.objectives import AttackObjective, BatchFlags
from apercu.types import Images

NOISE_STARTS = 10
"""Images of noise that are tried as a start where no other image of the batch will do."""


@final
@dataclass(frozen=True)
class SparseEvo(QueryCountingAttack):
    """Evolves which pixels are taken from a starting image of another class.

    A member of the population says for every pixel whether it is the start's (1) or the image's
    (0). The child of two random members takes each pixel from either, keeps of it what the best
    one has too, and loses a few pixels more; where it is still of another class and nearer to the
    image than the worst member, it takes its place.

    Args:
        queries: decisions that are asked for, per image: for a start, for the population, and for
            children.
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
    needs: ClassVar[Access] = "decisions"
    uses_whole_batch: ClassVar[bool] = True
    norm: ClassVar[str] = "l0"

    def __post_init__(self) -> None:
        check_count(self.queries, "sparse_evo: queries")
        check_whole("sparse_evo", 0, MAX_SEED, seed=self.seed)
        check_count(self.population - 2, "sparse_evo: population, besides two parents")
        for name in ("initial", "mutation", "crossover"):
            check_fraction(getattr(self, name), f"sparse_evo: {name}")

    @torch.no_grad()
    def attack_and_count(self, aim: AttackObjective, images: Images) -> tuple[Images, QueryCounts]:
        """One question per image and turn, whatever it is needed for."""
        generator = torch.Generator().manual_seed(self.seed)
        herd, asked = _Population(images, self.population), torch.zeros(len(images)).long()
        for turn in range(self.queries):
            searching = (herd.start_turn < 0) & (turn < len(images) + NOISE_STARTS)
            evolving = herd.start_turn > 0
            if not (searching | evolving).any():
                break
            age = turn - 1 - herd.start_turn
            member = self._choose_candidate(herd, evolving & (age < self.population), generator)
            tried = _propose_start(images, turn, generator) if searching.any() else images
            shown = torch.where(searching[:, None, None, None], tried, herd.blend_images(member))
            reached = aim.is_adversarial(shown)
            herd.begin_search(searching & reached, shown, turn)
            herd.replace_worst(evolving & reached, member, age)
            asked += (searching | evolving).cpu()
        return herd.best, asked.to(images.device)

    def _choose_candidate(
        self, herd: _Population, first: BatchFlags, generator: Generator
    ) -> Tensor:
        """Whom to ask about next: one of the first members, or a child."""
        member = herd.members[0]
        if first.any():
            member = self._draw_initial_member(member, generator)
        if (~first).any():
            member = torch.where(first[:, None, None], member, self._cross_parents(herd, generator))
        return member

    def _draw_initial_member(self, like: Tensor, generator: Generator) -> Tensor:
        """All of the start but a few random pixels."""
        count, height, width = like.shape
        given = max(1, round(self.initial * height * width))
        drawn = torch.rand(count, height * width, generator=generator)
        kept = torch.ones(count, height * width)
        kept.scatter_(1, drawn.topk(given, dim=1).indices, 0)
        return kept.view(count, height, width).bool().to(like.device)

    def _cross_parents(self, herd: _Population, generator: Generator) -> Tensor:
        count, device = len(herd.rows), herd.members.device
        parents = torch.rand(count, self.population, generator=generator).topk(2, dim=1).indices
        first, second = (herd.members[parents[:, side].to(device), herd.rows] for side in (0, 1))
        drawn = torch.rand(2, *first.shape, generator=generator).to(device)
        crossed = torch.where(drawn[0] < self.crossover, second, first)
        best = herd.members[herd.fitness.argmin(0), herd.rows]
        return crossed & best & (drawn[1] >= self.mutation)


class _Population:
    """The population of every image, and the turn in which its start was found (-1: not yet)."""

    def __init__(self, images: Images, size: int) -> None:
        count, _, height, width = images.shape
        self.images, self.starts = images, images.clone()
        self.members = images.new_ones(size, count, height, width, dtype=torch.bool)
        self.fitness = images.new_full((size, count), torch.inf)
        self.rows = torch.arange(count, device=images.device)
        self.start_turn = torch.full_like(self.rows, -1)

    def begin_search(self, found: BatchFlags, starts: Images, turn: int) -> None:
        """Where a start is found, every member is the whole of it."""
        self.starts = torch.where(found[:, None, None, None], starts, self.starts)
        self.start_turn = torch.where(found, turn, self.start_turn)
        whole = self.compute_distance(torch.ones_like(self.members[0]))
        self.fitness = torch.where(found, whole, self.fitness)

    def replace_worst(self, reached: BatchFlags, member: Tensor, age: Tensor) -> None:
        """A first member has a place of its own; later ones take that of the worst."""
        distance = torch.where(reached, self.compute_distance(member), torch.inf)
        size = len(self.fitness)
        place = torch.where(age < size, age.clamp(0, size - 1), self.fitness.argmax(0))
        better = distance < self.fitness[place, self.rows]
        self.members[place[better], self.rows[better]] = member[better]
        self.fitness[place[better], self.rows[better]] = distance[better]

    def blend_images(self, member: Tensor) -> Images:
        return torch.where(member[:, None], self.starts, self.images)

    def compute_distance(self, member: Tensor) -> Tensor:
        """Euclidean distance of the mixed image from the image."""
        return ((self.starts - self.images).square().sum(1) * member).flatten(1).sum(1).sqrt()

    @property
    def best(self) -> Images:
        return self.blend_images(self.members[self.fitness.argmin(0), self.rows])


def _propose_start(images: Images, turn: int, generator: Generator) -> Images:
    """What is tried as a start: the image itself, the others of the batch, then noise."""
    if turn < len(images):
        return images.roll(turn, 0)
    noise = torch.rand(images.shape[1:], generator=generator)
    return noise.to(images).expand_as(images)
