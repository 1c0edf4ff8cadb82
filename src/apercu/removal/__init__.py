"""How evidence is taken away: one family for training, perturbation methods and metrics."""

from apercu.removal.base import Removal
from apercu.removal.blur import Blur
from apercu.removal.box import BoxBlur
from apercu.removal.constant import Black, Flat, Mean
from apercu.removal.random import Alternative, Colour

__all__ = ["Alternative", "Black", "Blur", "BoxBlur", "Colour", "Flat", "Mean", "Removal"]
