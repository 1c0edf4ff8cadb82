"""The planted set: generated pictures whose true evidence is known."""

from apercu.images.planted.source import Planted, PlantedObject, open_planted

__all__ = ["Planted", "PlantedObject", "open_planted"]
