"""Images as people hand them over: tensors, numpy arrays, Pillow images, or lists of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from apercu.errors import ImageError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.types import Picture

ImagesLike: TypeAlias = Tensor | NDArray[Any] | Image.Image | Sequence[Any]
"""A batch as a tensor; or arrays with the channels last, Pillow images, and lists of pictures."""


def batch_images(images: ImagesLike, classifier_info: ClassifierInfo) -> Tensor:
    """Return images as the batch that a classifier takes.

    A tensor is returned as it is. Arrays and Pillow images may have any size: they are squashed to
    that of the classifier.

    Args:
        images: a tensor, `batch × channels × height × width`; an array, `batch × height × width ×
            channels` or one picture of it, uint8 or floats in [0, 1]; a Pillow image; or a list of
            pictures, in which a tensor is `channels × height × width`.
        classifier_info: says how the images of the classifier look.

    Returns:
        Floats, `batch × channels × height × width`; a tensor is not checked here.

    Raises:
        ImageError: they are no images, or have another number of channels.
    """
    if isinstance(images, Tensor):
        return images
    if isinstance(images, np.ndarray) and images.ndim == 4:
        pictures = [convert_array(picture) for picture in images]
    elif isinstance(images, Sequence) and not isinstance(images, str | bytes):
        pictures = [convert_picture(picture, classifier_info.input.channels) for picture in images]
    else:
        pictures = [convert_picture(images, classifier_info.input.channels)]
    if not pictures:
        raise ImageError("images: expected at least one, got an empty list")
    return torch.stack([classifier_info.prepare(picture) for picture in pictures])


def convert_array(array: NDArray[Any]) -> Picture:
    """Return an array as a picture, `channels × height × width`.

    Args:
        array: `height × width × channels` or `height × width`; uint8, or floats that are kept as
            they are.

    Returns:
        Floats, `channels × height × width`.

    Raises:
        ImageError: it has other axes or another type.
    """
    if array.ndim not in (2, 3):
        raise ImageError(
            "images: expected an array height × width × channels, got "
            f"{' × '.join(map(str, array.shape)) or 'one number'}"
        )
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"images: expected uint8 or floats in [0, 1], got {array.dtype}")
    values = torch.from_numpy(np.array(np.atleast_3d(array), order="C")).permute(2, 0, 1)
    return values.float() / 255 if array.dtype == np.uint8 else values.float()


def convert_picture(picture: Any, channels: int) -> Picture:
    """Return one picture of a list as floats, `channels × height × width`."""
    if isinstance(picture, Image.Image):
        mode = {1: "L", 3: "RGB"}.get(channels, picture.mode)
        return convert_array(np.asarray(picture.convert(mode)))
    if isinstance(picture, np.ndarray):
        return convert_array(picture)
    if isinstance(picture, Tensor) and picture.ndim == 3 and picture.is_floating_point():
        return picture
    raise ImageError(
        "images: expected tensors, numpy arrays or Pillow images, got "
        f"{type(picture).__name__}; open files with apercu.open_images"
    )
