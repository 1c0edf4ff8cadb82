"""A learnt colouring in front of grey images, for networks that know colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from apercu.classifiers.colour import build_colours
from apercu.classifiers.reinitialise import NetworkSource
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Recipe, Task
from apercu.learning.recipes.described import (
    BUILDERS,
    DescribedFront,
    FrontedNetwork,
    build_inner,
    describe_inner,
)
from apercu.types import Images

FILE = "colouring.safetensors"
"""File of a run folder with the weights of its colouring."""
FACTORY = BUILDERS["colouring"]
"""What a card names as the source of a network with a colouring in front."""
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
    weights stay in the run folder; another training starts from them with `start`. A network that
    has a colouring already goes on with it.

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
            self._load(ColouringLayer())

    def change_network(self, network: LearningNetwork, task: Task) -> None:
        layer = network.front if isinstance(network.front, ColouringLayer) else ColouringLayer()
        if self.start:
            self._load(layer)
        layer.requires_grad_(self.learnt)
        layer.folder = task.folder
        network.front = layer

    def fold_network(self, network: LearningNetwork) -> None:
        if isinstance(network.front, ColouringLayer):
            network.front.save()

    def _load(self, layer: ColouringLayer) -> None:
        """Load the weights of the run folder `start`."""
        path = Path(self.start) / FILE
        try:
            layer.colours.load_state_dict(load_file(path))
        except (OSError, RuntimeError, ValueError, SafetensorError):
            raise ConfigError(
                f"recipe: colouring: start: expected a run folder with {FILE}, got {self.start}"
            ) from None


@final
class ColouringLayer(DescribedFront):
    """Adds learnt colours to normalised grey images.

    Attributes:
        folder: run folder that gets the weights; None for none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder: Path | None = None
        self.colours = build_colours()

    def describe_source(self, source: NetworkSource, name: str) -> NetworkSource | None:
        named = describe_inner(source)
        return None if named is None else NetworkSource(FACTORY, named, source.input)

    def join(self, network: nn.Module) -> FrontedNetwork:
        return FrontedNetwork(self, network)

    def forward(self, images: Images) -> Images:
        """Return images with colours, `batch × 3 × height × width`."""
        coloured: Images = images + self.colours(images.mean(1, keepdim=True))
        return coloured

    def save(self) -> None:
        """Write the weights into the run folder, if there is one."""
        if self.folder is None:
            return
        weights = {
            name: value.contiguous().cpu() for name, value in self.colours.state_dict().items()
        }
        save_file(weights, self.folder / FILE)


def build_coloured_network(
    library: str, model: str, options: Mapping[str, Any], size: Sequence[int]
) -> FrontedNetwork:
    """Build a network with a colouring in front, as a card describes it.

    Args:
        library, model, options, size: the network that gets the layer; see `build_inner`.

    Returns:
        The network, whose weights are those of nothing yet.

    Raises:
        ClassifierError: the library is unknown, has no such model, or refuses the options.
    """
    return ColouringLayer().join(build_inner(FACTORY, library, model, options, size))
