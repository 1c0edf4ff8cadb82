"""Purifiers: filters with a trained network, which is kept in a folder."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from apercu.errors import ConfigError
from apercu.filters.base import Filter
from apercu.io import parse_json, write_file, write_json
from apercu.types import Images, Scores
from apercu.weights import digest_module, load_weights

DESCRIPTION, WEIGHTS = "purifier.json", "purifier.safetensors"
"""Files of the folder: which network, and its weights."""
PURIFIER_FOLDER = "purifier"
"""Folder of the network beside the card of a classifier."""
STRIDE = 4
"""Images are padded to a multiple of this number of pixels."""
MAX_SIZE = 1024
"""Largest size that a network may have."""


class PurifierNetwork(nn.Module, ABC):
    """A network from images to images, of any size.

    Args:
        channels: number of channels of the images.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    @abstractmethod
    def forward(self, images: Images, noise: Tensor | None = None) -> Images:
        """Return purified images, which may leave [0, 1] a little, with gradients.

        Args:
            images: images in [0, 1], whose sides are multiples of `STRIDE`.
            noise: noise of standard deviation 1 in the shape of the images, where it is needed.

        Returns:
            Images in the same shape.
        """

    @abstractmethod
    def purify_for_training(
        self, images: Images, generator: torch.Generator
    ) -> tuple[Images, Scores]:
        """Return purified images as the network learns from them, and what should be small besides.

        Args:
            images: clean images in [0, 1], whose sides are multiples of `STRIDE`.
            generator: source of the draws.

        Returns:
            The images, and one number per image.
        """


class Purifier(Filter, ABC):
    """A filter whose network was trained on clean images for one classifier, and lies in a folder.

    Attributes:
        name: the name that people type.
        network_class: class of the network.
        sizes: names of the sizes with which the network is built.
        folder: folder of the network.
    """

    name: ClassVar[str]
    network_class: ClassVar[type[PurifierNetwork]]
    sizes: ClassVar[tuple[str, ...]]
    folder: str

    def __post_init__(self) -> None:
        if not self.folder:
            raise ConfigError(
                f"{self.name}: expected folder=FOLDER, the folder of its network; train one with "
                f"`apercu stress train --config {self.name} …`, whose card has it in front"
            )

    @property
    def digest(self) -> str:
        """Identity of the network; results of another one are not reused."""
        network = self.open_network(torch.device("cpu"))
        return digest_module(network, self.name, _read_options(Path(self.folder), type(self)))

    def apply(self, images: Images) -> Images:
        return self.apply_surrogate(images).clamp(0, 1)

    def apply_surrogate(self, images: Images) -> Images:
        network = self.open_network(images.device)
        if images.shape[1] != network.channels:
            raise ConfigError(
                f"{self.name}: the network in {self.folder} takes {network.channels} channels, "
                f"got {images.shape[1]}"
            )
        height, width = images.shape[2:]
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        padded = F.pad(images.float(), padding, mode="replicate")
        noise = self.draw_noise(images)
        if noise is not None:
            noise = F.pad(noise, padding, mode="replicate")
        return network(padded, noise)[:, :, :height, :width].to(images)

    def draw_noise(self, images: Images) -> Tensor | None:
        """Return the noise that the network needs for images; none where it needs none."""
        return None

    def open_network(self, device: torch.device) -> PurifierNetwork:
        """Return the network on a device, in evaluation mode; it is opened once.

        Raises:
            ConfigError: the folder is missing, or holds no such network.
            ClassifierError: the weights are missing, or do not fit.
        """
        folder = Path(self.folder)
        options = _read_options(folder, type(self))
        stamp = _find_times(folder)
        return _open(self.network_class, folder, json.dumps(options), stamp, device)


@lru_cache(maxsize=8)
def _open(
    network_class: type[PurifierNetwork],
    folder: Path,
    options: str,
    stamp: tuple[int, ...],
    device: torch.device,
) -> PurifierNetwork:
    """Open a network with its weights; other times of change are another network."""
    network = network_class(**json.loads(options))
    load_weights(network, folder / WEIGHTS)
    return network.requires_grad_(False).eval().to(device)


def _find_times(folder: Path) -> tuple[int, ...]:
    """Return when the files of a folder were changed."""
    paths = (folder / DESCRIPTION, folder / WEIGHTS)
    return tuple(path.stat().st_mtime_ns for path in paths if path.is_file())


def _read_options(folder: Path, kind: type[Purifier]) -> dict[str, int]:
    """Return the sizes of the network in a folder.

    Raises:
        ConfigError: the folder or its description is missing, or it is of another filter.
    """
    path = folder / DESCRIPTION
    train = f"train it with `apercu stress train --config {kind.name} …`"
    if not path.is_file():
        raise ConfigError(f"{kind.name}: {path}: no such file; {train}, or copy the folder there")
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        name, options = content["filter"], dict(content["options"])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"{kind.name}: {path}: damaged ({error}); {train}") from None
    if name != kind.name:
        raise ConfigError(
            f"{kind.name}: {path}: expected a network of this filter, got one of {name}"
        )
    are_sizes = all(type(value) is int and 1 <= value <= MAX_SIZE for value in options.values())
    if not are_sizes or set(options) != set(kind.sizes):
        raise ConfigError(
            f"{kind.name}: {path}: expected whole numbers from 1 to {MAX_SIZE} for "
            f"{', '.join(kind.sizes)}, got {options}"
        )
    return options


def write_purifier(network: nn.Module, name: str, options: Mapping[str, int], folder: Path) -> None:
    """Write a network and what it is into a folder, the description last.

    Args:
        network: the network.
        name: name of the filter.
        options: sizes with which the network was built.
        folder: the folder, which is created.

    Raises:
        OutputError: the folder cannot be written.
    """
    weights = {k: v.contiguous().cpu() for k, v in network.state_dict().items()}
    write_file(folder / WEIGHTS, save(weights))
    write_json(folder / DESCRIPTION, {"filter": name, "options": dict(options)})


def seed_by_content(image: Tensor, seed: int) -> torch.Generator:
    """Return a generator that depends on a seed and the bytes of an image alone."""
    content = hashlib.sha256(image.cpu().numpy().tobytes())
    content.update(str(seed).encode())
    return torch.Generator().manual_seed(int.from_bytes(content.digest()[:8]) >> 1)
