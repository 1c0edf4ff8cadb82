"""What values an image may have: [0, 1], or more where it holds raw counts."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from apercu.types import Images


def value_range(
    images: Images,
) -> tuple[Float[Tensor, "batch 1 1 1"], Float[Tensor, "batch 1 1 1"]]:
    """The ends of each image's range: 0 and 1, or its own lowest and highest beyond them.

    >>> import torch
    >>> low, high = value_range(torch.tensor([0.2, 300.0]).view(1, 1, 1, 2))
    >>> low.item(), high.item()
    (0.0, 300.0)
    """
    dims = (1, 2, 3)
    return images.amin(dims, keepdim=True).clamp(max=0), images.amax(dims, keepdim=True).clamp(
        min=1
    )
