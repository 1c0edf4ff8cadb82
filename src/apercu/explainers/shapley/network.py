"""The Shapley network: for any class, what each cell of a grid contributes to the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from apercu.classifiers.decisions import Decision
from apercu.networks.blocks import build_compact, build_conv_block
from apercu.networks.encoder import Encoder
from apercu.networks.gate import GatedNetwork
from apercu.types import Images, Logits, Targets

Values: TypeAlias = Float[Tensor, "*batch rows columns"]
"""What each cell of the grid contributes."""
ValueKind: TypeAlias = Literal["logit", "probability"]


@dataclass(frozen=True)
class ShapleyShape:
    """The size of the grid and of the network.

    Args:
        grid: rows and columns of the grid, whose cells are the players.
        width: channels of the features of a cell.
    """

    grid: Annotated[int, Field(ge=2, le=64)] = 7
    width: Annotated[int, Field(ge=1, le=4096)] = 64


@final
class ShapleyNetwork(GatedNetwork):
    """Computes values of cells from images and class indices, in one pass (Jethani et al. 2022).

    The values of a class add up to what the classifier's value of the whole image is above that of
    an image without any cell: where they do not, each cell gets the same part of the rest. Before
    training, a value is the activation of the class in the cell, as in CAM.

    Args:
        encoder: the encoder of the features.
        classes: number of classes.
        shape: size of the grid and of the network.
        value: what is divided among the cells, the logit of a class or its probability.
        decision: how logits become probabilities.
        frozen: whether the encoder stays as it is from the start.
        adapter_width: channels inside the adapter of the deepest features; 0 for none.

    Attributes:
        empty_logits: the classifier's logits of an image without any cell.
    """

    empty_logits: Tensor

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        shape: ShapleyShape,
        value: ValueKind,
        decision: Decision,
        *,
        frozen: bool = True,
        adapter_width: int = 0,
    ) -> None:
        super().__init__(encoder, classes, "relative", frozen=frozen, adapter_width=adapter_width)
        self.shape, self.value, self.decision = shape, value, decision
        self.decoder = CellDecoder(encoder.channels, shape)
        for scalar in (self.gate.sharpness, self.gate.threshold):
            scalar.requires_grad_(False)  # activations are used here, not the gate itself
        self.register_buffer("empty_logits", torch.zeros(classes))

    def compute_value(self, logits: Logits) -> Float[Tensor, "batch classes"]:
        """Return what is divided among the cells: probabilities, or logits in standard units."""
        if self.value == "probability":
            return self.decision.probabilities(logits)
        return self.gate.standardise(logits)

    def compute_gain(self, logits: Logits) -> Float[Tensor, "batch classes"]:
        """Return the value of all cells: that of some logits above that of no cell."""
        return self.compute_value(logits) - self.compute_value(self.empty_logits[None])

    @property
    def unit(self) -> Tensor:
        """One unit of a value, in the classifier's logits or as a probability."""
        deviation = self.gate.deviation
        return torch.ones_like(deviation) if self.value == "probability" else deviation

    def compute_values(
        self,
        features: list[Tensor],
        targets: Int[Tensor, "batch targets"],
        logits: Logits | None = None,
    ) -> Values:
        """Return the values of the cells for several classes per image.

        Args:
            features: feature maps that `encode` returned, finest first.
            targets: class indices, `batch × classes`.
            logits: the classifier's logits, where they are known; else the network's own estimate.

        Returns:
            Values that add up to the gain of each class, `batch × classes × rows × columns`.
        """
        if logits is None:
            logits = self.gate.restore_units(self.gate.predict_logits(features[-1]))
        vectors = self.gate.embedding[targets]
        activation = vectors @ features[-1].flatten(2) + self.gate.bias[targets][..., None]
        activation = activation.view(*targets.shape, *features[-1].shape[2:])
        values = self.decoder(features, vectors, activation)
        return share_rest(values, self.compute_gain(logits).gather(1, targets))

    def compute_masks(
        self, features: list[Tensor], targets: Int[Tensor, "batch targets"]
    ) -> Values:
        """Return the positive values, relative to the highest of the class predicted most.

        Args:
            features: feature maps that `encode` returned, finest first.
            targets: class indices, `batch × classes`.

        Returns:
            Masks in [0, 1], `batch × classes × rows × columns`; less than 1 where a class has less
            evidence than the predicted one.
        """
        top = self.gate.predict_logits(features[-1]).argmax(1, keepdim=True)
        values = self.compute_values(features, torch.cat([top, targets], 1))
        peak = values[:, :1].amax((2, 3), keepdim=True).clamp(min=1e-6)
        return (values[:, 1:] / peak).clamp(0, 1)

    def forward(self, images: Images, targets: Targets) -> Values:
        """Return the values of one class per image, `batch × rows × columns`."""
        return self.compute_values(self.encode(images), targets[:, None])[:, 0]


def share_rest(values: Values, totals: Tensor) -> Values:
    """Add the same number to all cells, so that they add up to a total (Ruiz et al. 1998).

    Args:
        values: values of the cells.
        totals: what they shall add up to, one for each grid.

    Returns:
        Values in the same shape.
    """
    cells = values.shape[-2] * values.shape[-1]
    rest = totals - values.sum((-2, -1))
    return values + (rest / cells)[..., None, None]


def hide_cells(
    images: Images, kept: Float[Tensor, "batch rows columns"], colour: tuple[float, ...]
) -> Images:
    """Return images of which only some cells are left.

    Args:
        images: images in [0, 1].
        kept: 1 for each cell that is left, 0 for the others.
        colour: what the others become, a value in [0, 1] per channel.

    Returns:
        Images in the same shape.
    """
    keep = F.interpolate(kept[:, None].to(images), images.shape[2:], mode="nearest")
    return images * keep + torch.tensor(colour).to(images)[:, None, None] * (1 - keep)


class CellDecoder(nn.Module):
    """From feature maps to the values of cells: most work once per image, little for each class.

    Args:
        channels: channels of the encoder's feature maps, finest first.
        shape: size of the grid and of the network.
    """

    def __init__(self, channels: tuple[int, ...], shape: ShapleyShape) -> None:
        super().__init__()
        self.grid, self.cells = (shape.grid, shape.grid), shape.grid**2
        self.sources = len(channels[-2:])
        self.body = nn.Sequential(
            build_conv_block(sum(channels[-2:]), shape.width, size=1),
            build_compact(shape.width, shape.width),
            build_compact(shape.width, shape.width),
        )
        self.head = nn.Conv2d(shape.width, shape.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.weights = nn.Linear(channels[-1], shape.width)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(
        self,
        features: list[Tensor],
        vectors: Float[Tensor, "batch targets channels"],
        activation: Float[Tensor, "batch targets height width"],
    ) -> Values:
        """Return values that are not yet adjusted to their sum.

        Args:
            features: feature maps, finest first; the two deepest are used.
            vectors: the embedding of each class.
            activation: the activation of each class on the deepest map.

        Returns:
            Values, `batch × classes × rows × columns`.
        """
        maps = [resize_to_grid(each, self.grid) for each in features[-self.sources :]]
        shared = self.head(self.body(torch.cat(maps, 1)))
        weights = self.weights(F.normalize(vectors, dim=2))
        values = weights @ shared.flatten(2)
        values = values.view(*vectors.shape[:2], *self.grid)
        return (values + self.scale * resize_to_grid(activation, self.grid)) / self.cells


def resize_to_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return maps as large as a grid: means of cells if they are finer, else bilinear."""
    if min(maps.shape[2:]) >= min(grid):
        return F.adaptive_avg_pool2d(maps, grid)
    return F.interpolate(maps, grid, mode="bilinear", align_corners=False)
