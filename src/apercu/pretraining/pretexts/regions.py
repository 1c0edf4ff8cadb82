"""Regions: parts of one image have similar embeddings, computed over a graph of its cells."""

from __future__ import annotations

from typing import Literal, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Generator, Tensor, nn

from apercu import render
from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.pretraining.pretexts.base import Pretext, PretextBatch, PretextNetwork, PretextSample
from apercu.pretraining.pretexts.contrastive import ViewPair, build_projection, import_losses
from apercu.types import Images, Scores


@final
class Regions(Pretext):
    """Embeds two regions of an image as graphs of its cells by NT-Xent (Ozen et al. 2020).

    Claim of the paper: regions of tissue of any shape are retrieved better by a graph network over
    their patches, learnt without labels by a contrastive loss, than by the mean of features of
    patches. Each view of an image is cut into a grid of cells. A random connected region of them
    goes through the backbone cell by cell; a graph layer joins each cell with the mean of its
    neighbours in the region; their mean is the embedding. Two regions of one image are to be
    nearer to each other than to regions of other images.

    Ours: backbone and graph learn together, where the paper computes the features of patches
    before; there is one graph layer; only the backbone is kept, which then sees whole images.

    Attributes:
        grid: rows and columns of cells.
        zoom: enlargement of the cells before the backbone; a network that takes images of one size
            only needs the value of `grid`.
        kept: fraction of the cells in a region.
        views: random draw of the two views of an image.
        width: width of the projection that the loss receives.
    """

    form: Literal["regions"] = "regions"
    grid: int = Field(3, ge=2, le=16)
    zoom: float = Field(1.0, gt=0, le=16)
    kept: float = Field(0.6, gt=0, le=1)
    views: ViewPair = ViewPair()
    width: int = Field(128, ge=2, le=16384)

    def check_backbone(self, backbone: Classifier) -> None:
        module = backbone.module
        if not isinstance(module, nn.Module):
            raise ClassifierError(f"regions: {backbone.spec} does not show its layers")
        height, width = (self._cell_side(side) for side in backbone.network.input.size)
        cells = torch.zeros(2, backbone.channels, height, width, device=backbone.device)
        try:
            with torch.no_grad():
                module(cells)
        except (AssertionError, RuntimeError, ValueError):
            raise ConfigError(
                f"regions: {backbone.spec} does not take cells of {height} × {width} pixels; set "
                f"zoom to {self.grid}, or another network"
            ) from None

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        import_losses()
        return {
            "graph": RegionGraph(sample.features, self.grid),
            "projection": build_projection(sample.features, self.width),
        }

    def compute_losses(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        loss: Tensor = import_losses()["nt_xent"]()(*self._project_regions(network, batch))
        return {"nt_xent": loss.expand(len(batch.images))}

    def measure_errors(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        """Measure how often a region of another image is nearer than the image's other region."""
        first, second = (F.normalize(z, dim=1) for z in self._project_regions(network, batch))
        nearest = (first @ second.T).argmax(1)
        return {"mistaken": (nearest != torch.arange(len(first), device=nearest.device)).float()}

    def sample_tiles(self, network: PretextNetwork, batch: PretextBatch) -> list[render.Tile]:
        image, tiles = batch.images[:1], []
        for view in self.views(image, batch.generator):
            region = self.draw_regions(1, batch.generator).view(1, 1, self.grid, self.grid)
            mask = F.interpolate(region.float(), image.shape[2:])[0, 0]
            tiles.append(render.Tile(render.to_image(view[0].cpu() * mask), "region"))
        return tiles

    def embed_regions(
        self, network: PretextNetwork, images: Images, regions: Bool[Tensor, "batch cells"]
    ) -> Float[Tensor, "batch features"]:
        """Embed one region of each image.

        Args:
            network: backbone and graph.
            images: images in [0, 1].
            regions: cells of each image's region, row by row; as many in each image.

        Returns:
            One embedding per image, before the projection.
        """
        regions = regions.to(images.device)
        cells = self.cut_cells(images)
        graph = cast(RegionGraph, network.parts["graph"])
        computed = network(cells[regions])
        features = computed.new_zeros(*regions.shape, computed.shape[1])
        features[regions] = computed
        embedded: Tensor = graph(features, regions)
        return embedded

    def cut_cells(self, images: Images) -> Float[Tensor, "batch cells channels rows columns"]:
        """Cut images into the cells of the grid, row by row."""
        height, width = (self._cell_side(side) for side in images.shape[2:])
        size = (self.grid * height, self.grid * width)
        if size != images.shape[2:]:
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        cells = images.reshape(*images.shape[:2], self.grid, height, self.grid, width)
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)

    def draw_regions(self, count: int, generator: Generator) -> Bool[Tensor, "count cells"]:
        """Draw connected regions of the grid, each grown from a random cell."""
        near = build_neighbours(self.grid, corners=False).float()
        cells = len(near)
        size = max(1, round(self.kept * cells))
        regions = torch.zeros(count, cells)
        regions.scatter_(1, torch.randint(cells, (count, 1), generator=generator), 1.0)
        for _ in range(size - 1):
            border = (regions @ near > 0) & (regions == 0)
            chances = torch.rand(count, cells, generator=generator) * border
            regions.scatter_(1, chances.argmax(1, keepdim=True), 1.0)
        return regions > 0

    def _project_regions(
        self, network: PretextNetwork, batch: PretextBatch
    ) -> tuple[Tensor, Tensor]:
        """Project a region of each of two views of each image."""
        views = torch.cat(self.views(batch.images, batch.generator))
        regions = self.draw_regions(len(views), batch.generator)
        projected = network.parts["projection"](self.embed_regions(network, views, regions))
        first, second = projected.chunk(2)
        return first, second

    def _cell_side(self, side: int) -> int:
        """Return the pixels of a cell along a side of an image, after the enlargement."""
        return max(1, round(self.zoom * side / self.grid))


class RegionGraph(nn.Module):
    """A layer over the graph of an image's cells, and the mean over a region of them.

    Args:
        features: number of features of a cell, and of the result.
        grid: rows and columns of cells; those that touch, also at a corner, are neighbours.
    """

    near: Float[Tensor, "cells cells"]

    def __init__(self, features: int, grid: int) -> None:
        super().__init__()
        self.own = nn.Linear(features, features)
        self.neighbours = nn.Linear(features, features, bias=False)
        self.register_buffer("near", build_neighbours(grid, corners=True).float())

    def forward(
        self, features: Float[Tensor, "batch cells features"], regions: Bool[Tensor, "batch cells"]
    ) -> Float[Tensor, "batch features"]:
        """Embed the region of each image from the features of its cells."""
        inside = regions.to(features)
        edges = self.near * inside[:, None, :]
        means = edges @ features / edges.sum(2, keepdim=True).clamp(min=1)
        nodes = F.relu(self.own(features) + self.neighbours(means))
        return (nodes * inside[..., None]).sum(1) / inside.sum(1, keepdim=True).clamp(min=1)


def build_neighbours(grid: int, *, corners: bool) -> Bool[Tensor, "cells cells"]:
    """Build the matrix of which cells of a grid touch each other, row by row.

    Args:
        grid: rows and columns of cells.
        corners: whether cells that touch at a corner are neighbours, too.

    Returns:
        A symmetric matrix; no cell is its own neighbour.

    >>> build_neighbours(3, corners=False).sum(1).tolist()
    [2, 3, 2, 3, 4, 3, 2, 3, 2]
    """
    places = torch.cartesian_prod(torch.arange(grid), torch.arange(grid))
    distances = (places[:, None] - places).abs()
    steps = distances.amax(2) if corners else distances.sum(2)
    return steps == 1
