"""The planted set: generated pictures of which it is known where the evidence lies."""

from apercu.images.planted.source import Planted, PlantedObject, open_planted

__all__ = ["Planted", "PlantedObject", "open_planted"]
