"""Tables of what is known about objects, and which image shows which of them."""

from apercu.catalogue.labelled import LabelledImages, classes, label_images
from apercu.catalogue.match import Matched, by_id, by_position
from apercu.catalogue.positions import Sky, sky_positions
from apercu.catalogue.read import read_catalogue
from apercu.catalogue.table import Catalogue

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
