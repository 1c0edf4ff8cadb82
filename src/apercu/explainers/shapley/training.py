"""The training of the Shapley explainer: weighted least squares over subsets of cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from apercu import render
from apercu.classifiers import Classifier
from apercu.explainers.embedding_training import EmbeddingPhase
from apercu.explainers.shapley.explainer import ShapleySettings
from apercu.explainers.shapley.network import ShapleyNetwork, Values, hide_cells
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.augment import RandomViews
from apercu.training.data import TrainingImages
from apercu.training.module import DegenerateSolution, TrainingModule
from apercu.types import Images, Logits, Scores

MIN_EXPLAINED = 0.05
"""Fraction of the error of equal values below which values do not look trained."""


def draw_subsets(count: int, cells: int, generator: Generator) -> Float[Tensor, "subsets cells"]:
    """Draw subsets by the Shapley kernel, in pairs: a subset and all other cells.

    A subset has k of n cells with a probability in proportion to 1 / (k (n − k)), and all subsets
    of one size are equally probable. So the least squares over these draws are the weighted ones,
    whose solution are the Shapley values (Charnes et al. 1988, Lundberg & Lee 2017). Pairs lower
    the variance (Covert & Lee 2021).

    Args:
        count: number of subsets; even.
        cells: number of cells.
        generator: source of the draws.

    Returns:
        1 for each cell in a subset, 0 for the others.
    """
    sizes = torch.arange(1, cells)
    weights = 1 / (sizes * (cells - sizes)).float()
    drawn_sizes = sizes[weights.multinomial(count // 2, replacement=True, generator=generator)]
    ranks = torch.rand(count // 2, cells, generator=generator).argsort(1).argsort(1)
    first = (ranks < drawn_sizes[:, None]).float()
    return torch.stack([first, 1 - first], 1).flatten(0, 1)


def compute_errors(
    values: Values,
    subsets: Float[Tensor, "batch subsets rows columns"],
    gains: Float[Tensor, "batch subsets classes"],
) -> Float[Tensor, "batch subsets classes"]:
    """Return by how much the cells of each subset do not add up to its gain.

    Args:
        values: values of all cells, `batch × classes × rows × columns`.
        subsets: 1 for each cell in a subset, 0 for the others.
        gains: the value of each subset above that of no cell.

    Returns:
        Gain less sum.
    """
    return gains - torch.einsum("bsrc,bkrc->bsk", subsets, values)


def _describe_values(means: Mapping[str, float]) -> str | None:
    """Return one line where values are no better than the same value for every cell."""
    if means["explained"] < 0:
        return (
            f"values are no better than equal ones ({means['explained']:.2f} of their error is "
            "explained); lower schedule.rate, raise schedule.copies, or train on"
        )
    return None


DEGENERATE_VALUES = DegenerateSolution(("explained",), ("explained",), _describe_values)


@final
class ShapleyTraining(TrainingModule):
    """Trains values that predict what the classifier makes of any subset of the cells.

    Args:
        network: the Shapley network.
        classifier: the classifier; its predictions are enough.
        settings: the grid and the schedule.
        seed: seed of all draws.
    """

    degenerate: ClassVar[DegenerateSolution] = DEGENERATE_VALUES

    def __init__(
        self, network: ShapleyNetwork, classifier: Classifier, settings: ShapleySettings, seed: int
    ) -> None:
        super().__init__(network, classifier, settings, seed)
        self.network: ShapleyNetwork
        self.settings: ShapleySettings
        self.views = RandomViews()

    def prepare_network(
        self,
        images: TrainingImages,
        folder: Path,
        say: Callable[[str], None],
        report: ProgressCallback = ignore_progress,
    ) -> dict[str, float]:
        phase = EmbeddingPhase(self.classifier, images, self.seed, folder, say, report)
        facts = phase.run(self.network, self.settings.embedding)
        empty = torch.tensor(self.classifier.zero_colour)[None, :, None, None]
        empty = empty.expand(1, -1, *self.classifier.size).to(self.classifier.device)
        with torch.no_grad():
            self.network.empty_logits.copy_(self.classifier(empty.contiguous())[0])
        return facts

    def training_step(self, images: Images, batch_index: int) -> Tensor:
        generator, schedule = self.step_generator(), self.settings.schedule
        images = self.views(images, generator)
        with torch.no_grad():
            logits = self.classifier(images)
        targets = self._draw_classes(logits, generator).to(images.device)
        subsets, gains = query_subsets(
            self.network, self.classifier, images, schedule.copies, generator
        )
        gains = gains.gather(2, targets[:, None].expand(-1, schedule.copies, -1))
        features = self.network.encode(images)
        values = self.network.compute_values(features, targets, logits)
        errors = compute_errors(values, subsets, gains).square()
        self.log_terms(
            {"subsets": errors.mean((1, 2))},
            {"explained": compute_explained(values.detach(), subsets, gains)},
        )
        return errors.mean()

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        features = self.network.encode(images)
        top = self.network.gate.predict_logits(features[-1]).argmax(1)
        mask = self.network.compute_masks(features, top[:, None])[0, 0].cpu()
        title, image = self.classifier.names.short_names[int(top[0])], images[0].cpu()
        return [
            render.Tile(render.to_image(image), title),
            render.Tile(render.draw_overlay(image, mask), "what speaks for it"),
        ]

    def _draw_classes(self, logits: Logits, generator: Generator) -> Tensor:
        """Return classes of each image: the most probable ones, and as many random ones."""
        count = min(self.settings.schedule.classes, logits.shape[1])
        if count == logits.shape[1]:
            return torch.arange(count).expand(len(logits), -1)
        top = logits.topk(-(-count // 2)).indices.cpu()
        shape = (len(logits), count - top.shape[1])
        return torch.cat([top, torch.randint(logits.shape[1], shape, generator=generator)], 1)


@torch.no_grad()
def query_subsets(
    network: ShapleyNetwork,
    classifier: Classifier,
    images: Images,
    count: int,
    generator: Generator,
) -> tuple[Float[Tensor, "batch subsets rows columns"], Float[Tensor, "batch subsets classes"]]:
    """Draw subsets of the cells of each image, and ask the classifier for their gains.

    Args:
        network: it says what the grid and the value are.
        classifier: the classifier.
        images: images in [0, 1].
        count: number of subsets of each image; even.
        generator: source of the draws.

    Returns:
        The subsets, and the value of each above that of no cell, for all classes.
    """
    grid = network.decoder.grid
    subsets = draw_subsets(len(images) * count, network.decoder.cells, generator)
    kept = subsets.view(-1, *grid).to(images)
    copies = images.repeat_interleave(count, 0)
    gains = network.compute_gain(classifier(hide_cells(copies, kept, classifier.zero_colour)))
    return kept.view(len(images), count, *grid), gains.view(len(images), count, -1)


def compute_explained(
    values: Values,
    subsets: Float[Tensor, "batch subsets rows columns"],
    gains: Float[Tensor, "batch subsets classes"],
) -> Tensor:
    """Return what fraction of the squared error of equal values these values explain.

    Args:
        values: values of all cells, `batch × classes × rows × columns`.
        subsets: 1 for each cell in a subset, 0 for the others.
        gains: the value of each subset above that of no cell.

    Returns:
        One number, at most 1; 0 for values that are the same for all cells.
    """
    equal = values.mean((2, 3), keepdim=True).expand_as(values)
    errors: list[Scores] = [
        compute_errors(each, subsets, gains).square().mean() for each in (values, equal)
    ]
    return 1 - errors[0] / errors[1].clamp(min=1e-12)
