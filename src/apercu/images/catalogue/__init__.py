"""Tables of what is known about objects, and which image shows which of them."""

from apercu.images.catalogue.labelled import LabelledImages, classes, label_images
from apercu.images.catalogue.match import Matched, by_id, by_position
from apercu.images.catalogue.positions import Sky, sky_positions
from apercu.images.catalogue.read import read_catalogue
from apercu.images.catalogue.table import Catalogue

__all__ = [
    "Catalogue",
    "LabelledImages",
    "Matched",
    "Sky",
    "by_id",
    "by_position",
    "classes",
    "label_images",
    "read_catalogue",
    "sky_positions",
]
