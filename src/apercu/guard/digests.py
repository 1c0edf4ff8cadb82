"""Digests of images, by which a guard knows those that it was fitted to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from apercu.images import Batch
from apercu.types import Images

BYTES = 8
"""Bytes of the digest of one image."""


def digest_batches(read: Sequence[Batch], key: str) -> str:
    """Return a digest of the pixels and labels of images, and of what else a file depends on.

    Args:
        read: the images.
        key: what else the file depends on.

    Returns:
        20 hexadecimal digits.
    """
    sha = hashlib.sha256(key.encode())
    for batch in read:
        sha.update(repr(batch.labels).encode())
        sha.update(batch.images.contiguous().numpy().tobytes())
    return sha.hexdigest()[:20]


def digest_images(images: Images) -> Int64[Tensor, " batch"]:
    """Return a digest of the pixels of each prepared image.

    Args:
        images: images on the CPU, `batch × channels × height × width`.

    Returns:
        The first 8 bytes of a SHA-256 for each image.
    """
    digests = [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in images]
    numbers = [int.from_bytes(digest[:BYTES], "little", signed=True) for digest in digests]
    return torch.tensor(numbers, dtype=torch.int64)
