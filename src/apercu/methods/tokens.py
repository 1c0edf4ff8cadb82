"""Maps of features out of layers that give tokens, as in vision transformers."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.types import Images

MAX_EXTRA_TOKENS = 16
"""How many tokens may come before those of places: class, distillation, registers."""


def convert_to_map(
    features: Tensor, size: tuple[int, int]
) -> Float[Tensor, "batch channels rows columns"] | None:
    """What a layer gave, as a map of features; None where it has no places.

    Known are maps with channels first or last (Swin), and sequences of tokens (batch × tokens ×
    channels) row by row, after up to `EXTRA_TOKENS` that belong to no place.

    Args:
        features: output of a layer.
        size: height and width of the images.
    """
    if features.ndim == 4:
        first, last = features.shape[2:], features.shape[1:3]
        if _measure_skew(first, size) > _measure_skew(last, size):
            features, first = features.movedim(3, 1), last
        return features if first.numel() > 1 else None
    grid = _find_grid(features.shape[1], size) if features.ndim == 3 else None
    if grid is None:
        return None
    rows, columns = grid
    places = features[:, -rows * columns :].movedim(2, 1)
    return places.reshape(*places.shape[:2], rows, columns)


def find_last_spatial_layer(
    classifier: Classifier, module: nn.Module, image: Images, channels: int
) -> str | None:
    """The last layer whose places all still count for the scores, or None.

    After the last attention of a vision transformer only its class token counts; the layer before
    is the one to look at.

    Args:
        module: the network of an open, differentiable classifier.
        image: one.
        channels: how many the layer has, those that the scoring layer takes.
    """
    size = (image.shape[2], image.shape[3])
    passed: list[tuple[str, Tensor]] = []
    with ExitStack() as hooks, torch.enable_grad():
        for name, layer in module.named_modules():

            def keep(
                layer: nn.Module, inputs: tuple[Tensor, ...], output: object, name: str = name
            ) -> None:
                if isinstance(output, Tensor) and output.requires_grad:
                    passed.append((name, output))

            hooks.callback(layer.register_forward_hook(keep).remove)
        score = classifier(image.detach().requires_grad_()).amax()
    slopes = torch.autograd.grad(score, [output for _, output in passed], allow_unused=True)
    for (name, _), slope in zip(reversed(passed), reversed(slopes), strict=True):
        maps = None if slope is None else convert_to_map(slope, size)
        if maps is not None and maps.shape[1] == channels and maps.any(dim=1).all():
            return name
    return None


def _measure_skew(grid: torch.Size, size: tuple[int, int]) -> float:
    """How far a grid's aspect is from the image's, 1 for none."""
    aspect = grid[0] * size[1] / (grid[1] * size[0])
    return max(aspect, 1 / aspect)


def _find_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of whole square patches that leave the fewest tokens without a place."""
    sides = (side for side in range(1, min(size) + 1) if size[0] % side == size[1] % side == 0)
    grids = {
        rows * columns: (rows, columns)
        for rows, columns in ((size[0] // side, size[1] // side) for side in sides)
    }
    fitting = (tokens - extra for extra in range(MAX_EXTRA_TOKENS + 1))
    return next((grids[count] for count in fitting if count > 1 and count in grids), None)
