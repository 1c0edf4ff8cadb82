"""Tables of what is known about objects, and which image shows which of them."""

from apercu.images.catalogue.labels import LabelledImages, label_images, read_classes
from apercu.images.catalogue.match import CatalogueMatch, match_by_id, match_by_position
from apercu.images.catalogue.sky import SkyPositions, read_sky_positions
from apercu.images.catalogue.table import Catalogue, read_catalogue

__all__ = [
    "Catalogue",
    "LabelledImages",
    "CatalogueMatch",
    "SkyPositions",
    "match_by_id",
    "match_by_position",
    "read_classes",
    "label_images",
    "read_catalogue",
    "read_sky_positions",
]
