"""Sources of images: files, folders, Parquet files, `.npz` stacks, and the planted set."""

from apercu.images.limits import value_range
from apercu.images.opening import check_images, open_images
from apercu.images.planted import Planted
from apercu.images.reader import read_picture
from apercu.images.source import ImageSource, Item
from apercu.images.stream import Batch, batches

__all__ = [
    "Batch",
    "ImageSource",
    "Item",
    "Planted",
    "batches",
    "check_images",
    "open_images",
    "read_picture",
    "value_range",
]
