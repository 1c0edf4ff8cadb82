"""Catalogues: read them, match their rows to images, and label images by them."""

from apercu.images.catalogue.match import (
    CatalogueMatch,
    LabelledImages,
    label_images,
    match_by_id,
    match_by_position,
    read_classes,
)
from apercu.images.catalogue.sky import SkyPositions, read_sky_positions
from apercu.images.catalogue.table import Catalogue, read_catalogue

__all__ = [
    "Catalogue",
    "CatalogueMatch",
    "LabelledImages",
    "SkyPositions",
    "label_images",
    "match_by_id",
    "match_by_position",
    "read_catalogue",
    "read_classes",
    "read_sky_positions",
]
