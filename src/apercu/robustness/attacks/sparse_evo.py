"""SparseEvo: few pixels, found from decisions only (Vo et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from apercu.filters.checks import check_count, check_fraction, check_whole
from apercu.option_strings import MAX_SEED
from apercu.robustness.attacks.base import Access, QueryCountingAttack, QueryCounts
from apercu.robustness.objectives import AttackObjective, BatchFlags
from apercu.types import Images

NOISE_STARTS = 10
"""Images of noise that are tried as a start where no other image of the batch serves as one."""


@final
@dataclass(frozen=True)
class SparseEvo(QueryCountingAttack):
    """Evolves which pixels are taken from a starting image of another class.

    A member of the population says for every pixel whether it comes from the start (1) or from the
    image (0). The child of two random members takes each pixel from one of them, keeps only pixels
    that the best member has too, and gives up a few more. Where the child is still of another
    class and nearer to the image than the worst member, it replaces that member.

    Args:
        queries: largest number of queries per image: for a start, for the population, and for
            children.
        population: number of members.
        initial: fraction of the pixels that a first member gives up.
        mutation: fraction of the start's pixels that a child gives up.
        crossover: probability that a pixel comes from the second parent where the first has it.
        seed: seed of all draws.
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
    def attack_and_count(
        self, objective: AttackObjective, images: Images
    ) -> tuple[Images, QueryCounts]:
        """Query each image at most once per turn: for a start, a first member or a child."""
        generator = torch.Generator().manual_seed(self.seed)
        population = _Population(images, self.population)
        queries = torch.zeros(len(images)).long()
        for turn in range(self.queries):
            searching = (population.start_turn < 0) & (turn < len(images) + NOISE_STARTS)
            evolving = population.start_turn > 0
            if not (searching | evolving).any():
                break
            age = turn - 1 - population.start_turn
            member = self._choose_candidate(
                population, evolving & (age < self.population), generator
            )
            start = _propose_start(images, turn, generator) if searching.any() else images
            candidates = torch.where(
                searching[:, None, None, None], start, population.blend_images(member)
            )
            adversarial = objective.is_adversarial(candidates)
            population.adopt_starts(searching & adversarial, candidates, turn)
            population.replace_worst(evolving & adversarial, member, age)
            queries += (searching | evolving).cpu()
        return population.best, queries.to(images.device)

    def _choose_candidate(
        self, population: _Population, first: BatchFlags, generator: Generator
    ) -> Tensor:
        """Choose the member that is queried next: one of the first members, or a child."""
        member = population.members[0]
        if first.any():
            member = self._draw_initial_member(member, generator)
        if (~first).any():
            member = torch.where(
                first[:, None, None], member, self._cross_parents(population, generator)
            )
        return member

    def _draw_initial_member(self, like: Tensor, generator: Generator) -> Tensor:
        """Draw a member with all pixels of the start, except a few random ones."""
        count, height, width = like.shape
        count_lost = max(1, round(self.initial * height * width))
        draws = torch.rand(count, height * width, generator=generator)
        member = torch.ones(count, height * width)
        member.scatter_(1, draws.topk(count_lost, dim=1).indices, 0)
        return member.view(count, height, width).bool().to(like.device)

    def _cross_parents(self, population: _Population, generator: Generator) -> Tensor:
        """Cross two random members, and give up a few pixels more."""
        count, device = len(population.rows), population.members.device
        parents = torch.rand(count, self.population, generator=generator).topk(2, dim=1).indices
        first, second = (
            population.members[parents[:, side].to(device), population.rows] for side in (0, 1)
        )
        draws = torch.rand(2, *first.shape, generator=generator).to(device)
        crossed = torch.where(draws[0] < self.crossover, second, first)
        best = population.members[population.fitness.argmin(0), population.rows]
        return crossed & best & (draws[1] >= self.mutation)


class _Population:
    """The population of every image, and the turn in which its start was found (-1: not yet)."""

    def __init__(self, images: Images, size: int) -> None:
        count, _, height, width = images.shape
        self.images, self.starts = images, images.clone()
        self.members = images.new_ones(size, count, height, width, dtype=torch.bool)
        self.fitness = images.new_full((size, count), torch.inf)
        self.rows = torch.arange(count, device=images.device)
        self.start_turn = torch.full_like(self.rows, -1)

    def adopt_starts(self, adversarial: BatchFlags, starts: Images, turn: int) -> None:
        """Adopt starts that are adversarial; every member becomes the whole start."""
        self.starts = torch.where(adversarial[:, None, None, None], starts, self.starts)
        self.start_turn = torch.where(adversarial, turn, self.start_turn)
        whole = self.compute_distance(torch.ones_like(self.members[0]))
        self.fitness = torch.where(adversarial, whole, self.fitness)

    def replace_worst(self, adversarial: BatchFlags, member: Tensor, age: Tensor) -> None:
        """Insert adversarial members; later ones replace the worst one if they are nearer."""
        distance = torch.where(adversarial, self.compute_distance(member), torch.inf)
        size = len(self.fitness)
        index = torch.where(age < size, age.clamp(0, size - 1), self.fitness.argmax(0))
        better = distance < self.fitness[index, self.rows]
        self.members[index[better], self.rows[better]] = member[better]
        self.fitness[index[better], self.rows[better]] = distance[better]

    def blend_images(self, member: Tensor) -> Images:
        """Take the pixels of a member from the starts, all others from the images."""
        return torch.where(member[:, None], self.starts, self.images)

    def compute_distance(self, member: Tensor) -> Tensor:
        """Compute the Euclidean distance of the blended image from the image."""
        return ((self.starts - self.images).square().sum(1) * member).flatten(1).sum(1).sqrt()

    @property
    def best(self) -> Images:
        return self.blend_images(self.members[self.fitness.argmin(0), self.rows])


def _propose_start(images: Images, turn: int, generator: Generator) -> Images:
    """Propose a start: the image itself, then the others of the batch, then noise."""
    if turn < len(images):
        return images.roll(turn, 0)
    noise = torch.rand(images.shape[1:], generator=generator)
    return noise.to(images).expand_as(images)
