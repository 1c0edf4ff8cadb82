"""Feature maps from layers that give tokens, as in vision transformers."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.types import Images

MAX_EXTRA_TOKENS = 16
"""The largest number of tokens without a position (class, distillation, registers)."""


def convert_to_map(
    features: Tensor, size: tuple[int, int]
) -> Float[Tensor, "batch channels rows columns"] | None:
    """Return the output of a layer as a feature map, or None when it has no positions.

    Outputs can be maps with the channels first or last (Swin), or sequences of tokens (`batch ×
    tokens × channels`) row by row, after up to `MAX_EXTRA_TOKENS` without a position.

    Args:
        features: the output of a layer.
        size: the height and width of the images.

    Returns:
        The feature map, `batch × channels × rows × columns`, or None.
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
    positions = features[:, -rows * columns :].movedim(2, 1)
    return positions.reshape(*positions.shape[:2], rows, columns)


def find_last_spatial_layer(
    classifier: Classifier, module: nn.Module, image: Images, channels: int
) -> str | None:
    """Return the last layer of which every position influences the logits, or None.

    After the last attention of a vision transformer only its class token has an influence, so the
    layer before the attention is chosen.

    Args:
        classifier: an open, differentiable classifier.
        module: the network of the classifier.
        image: a batch of one image.
        channels: the number of channels that the classification layer takes.

    Returns:
        The name of the layer, or None.
    """
    size = (image.shape[2], image.shape[3])
    outputs: list[tuple[str, Tensor]] = []
    with ExitStack() as hooks, torch.enable_grad():
        for name, layer in module.named_modules():

            def keep(
                layer: nn.Module, inputs: tuple[Tensor, ...], output: object, name: str = name
            ) -> None:
                if isinstance(output, Tensor) and output.requires_grad:
                    outputs.append((name, output))

            hooks.callback(layer.register_forward_hook(keep).remove)
        score = classifier(image.detach().requires_grad_()).amax()
    gradients = torch.autograd.grad(score, [output for _, output in outputs], allow_unused=True)
    for (name, _), gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        maps = None if gradient is None else convert_to_map(gradient, size)
        if maps is not None and maps.shape[1] == channels and maps.any(dim=1).all():
            return name
    return None


def _measure_skew(grid: torch.Size, size: tuple[int, int]) -> float:
    """Return the ratio of a grid's aspect to the image's; it is 1 or larger."""
    aspect = grid[0] * size[1] / (grid[1] * size[0])
    return max(aspect, 1 / aspect)


def _find_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the rows and columns of square patches that leave the fewest tokens over."""
    sides = (side for side in range(1, min(size) + 1) if size[0] % side == size[1] % side == 0)
    grids = {
        rows * columns: (rows, columns)
        for rows, columns in ((size[0] // side, size[1] // side) for side in sides)
    }
    fitting = (tokens - extra for extra in range(MAX_EXTRA_TOKENS + 1))
    return next((grids[count] for count in fitting if count > 1 and count in grids), None)
