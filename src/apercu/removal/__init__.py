"""How evidence is taken away: one family for training, perturbation methods and metrics."""

from apercu.removal.base import Alternative, Black, Blur, BoxBlur, Colour, Flat, Mean, Removal

__all__ = ["Alternative", "Black", "Blur", "BoxBlur", "Colour", "Flat", "Mean", "Removal"]
