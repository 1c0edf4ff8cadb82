"""A learnt colouring in front of grey images, for networks that know colours."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from apercu.classifiers.colour import build_colours
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Recipe, Task
from apercu.types import Images

FILE = "colouring.safetensors"
"""File of a run folder with the weights of its colouring."""
CHECKED = 16
"""Images that are looked at for colours."""
LARGEST_TINT = 0.02
"""Largest difference of the channels of a grey image."""


@final
class Colouring(Recipe):
    """Learns to colour grey images for a network that knows colours (Morra et al. 2021).

    "Bridging the gap between Natural and Medical Images through Deep Colorization" claims that a
    small module, learnt with the classifier, uses the colour features of an ImageNet network for
    X-ray films where all channels would be the same, and that a colouring learnt on one set helps
    on another.

    Ours: the module is two convolutions, added to the grey image, which it is at the start. Its
    weights stay in the run folder; another training starts from them with `start`.

    Attributes:
        start: run folder of a training with this recipe, whose colouring is the start; empty for a
            new one.
        learnt: whether the colouring is trained; false keeps that of `start`.
    """

    name: ClassVar[str] = "colouring"
    start: str = ""
    learnt: bool = True

    def check_task(self, task: Task) -> None:
        if task.start.channels != 3:
            raise ConfigError(
                "recipe: colouring: expected a network for images with 3 channels, got "
                f"{task.start.channels}"
            )
        count = min(CHECKED, len(task.images))
        images = torch.stack([task.images[index] for index in range(count)])
        if float((images.amax(1) - images.amin(1)).mean()) > LARGEST_TINT:
            raise ConfigError("recipe: colouring: expected grey images, got colours")
        if not (self.start or self.learnt):
            raise ConfigError("recipe: colouring: learnt=false needs start=RUN")
        if self.start:
            self._load(ColouringLayer(task.folder))

    def change_network(self, network: LearningNetwork, task: Task) -> None:
        layer = ColouringLayer(task.folder)
        if self.start:
            self._load(layer)
        layer.requires_grad_(self.learnt)
        before = network.front
        network.front = layer if isinstance(before, nn.Identity) else nn.Sequential(before, layer)

    def fold_network(self, network: LearningNetwork) -> None:
        for layer in network.front.modules():
            if isinstance(layer, ColouringLayer):
                layer.save()

    def _load(self, layer: ColouringLayer) -> None:
        """Load the weights of the run folder `start`."""
        path = Path(self.start) / FILE
        try:
            layer.colours.load_state_dict(load_file(path))
        except (OSError, RuntimeError, ValueError, SafetensorError):
            raise ConfigError(
                f"recipe: colouring: start: expected a run folder with {FILE}, got {self.start}"
            ) from None


class ColouringLayer(nn.Module):
    """Adds learnt colours to normalised grey images.

    Args:
        folder: run folder that gets the weights.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.colours = build_colours()

    def forward(self, images: Images) -> Images:
        """Return images with colours, `batch × 3 × height × width`."""
        coloured: Images = images + self.colours(images.mean(1, keepdim=True))
        return coloured

    def save(self) -> None:
        """Write the weights into the run folder."""
        weights = {
            name: value.contiguous().cpu() for name, value in self.colours.state_dict().items()
        }
        save_file(weights, self.folder / FILE)
