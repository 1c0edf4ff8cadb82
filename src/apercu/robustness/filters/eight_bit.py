"""Pixels as the whole numbers that files hold."""

from __future__ import annotations

from apercu.types import Images


def eight_bit(images: Images) -> Images:
    """Whole numbers from 0 to 255 in float32, nearest to the pixels.

    >>> import torch
    >>> eight_bit(torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)).tolist()
    [[[[0.0, 128.0, 255.0]]]]
    """
    return images.detach().float().mul(255).round_().clamp_(0, 255)


def unit(bytes_: Images, like: Images) -> Images:
    """Back to [0, 1], with the device and type of the images that they were."""
    return (bytes_ / 255).to(like)
