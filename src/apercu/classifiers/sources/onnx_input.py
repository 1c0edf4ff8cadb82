"""What the input shape written in a graph file says about the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from apercu.classifiers.card import ClassifierCard, InputSpec
from apercu.errors import ClassifierError


def resolve_input(
    shape: Sequence[int | None], card: ClassifierCard
) -> tuple[InputSpec, int | None]:
    """The card's input, else the graph's; and the batch size where the graph fixes it to one.

    Args:
        shape: of the graph's input; None where an axis may have any length.
        card: says channels and size where the graph leaves them open.

    Raises:
        ClassifierError: no images fit, the card says otherwise, or nobody says the size.
    """
    name = f"classifier {card.source}"
    if len(shape) != 4 or shape[0] not in (None, 1):
        raise ClassifierError(
            f"{name}: expected an input batch × channels × height × width with any batch, "
            f"got {_format_shape(shape)}; export it with a dynamic batch"
        )
    if card.input is not None:
        wanted = (card.input.channels, *card.input.size)
        if any(s not in (None, w) for s, w in zip(shape[1:], wanted, strict=True)):
            raise ClassifierError(
                f"{name}: its card says {_format_shape(wanted)}, the file takes {_format_shape(shape[1:])}"
            )
        return card.input, shape[0]
    channels, height, width = shape[1:]
    if channels is None or height is None or width is None:
        raise ClassifierError(
            f"{name}: the file takes images of any size; say input.size in a classifier card"
        )
    return InputSpec(channels=channels, size=(height, width)), shape[0]


def run_in_fixed_batches(
    function: Callable[[Tensor], Any], images: Tensor, fixed_batch: int | None
) -> Any:
    """Asks for all images at once, or one by one where the graph fixes the batch to one."""
    if fixed_batch is None or len(images) == fixed_batch:
        return function(images)
    return torch.cat([function(image) for image in torch.split(images, fixed_batch)])


def _format_shape(shape: Sequence[int | None]) -> str:
    return " × ".join("any" if side is None else str(side) for side in shape)
