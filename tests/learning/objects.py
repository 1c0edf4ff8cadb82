"""Images with a small coloured object on a large background, and a network that sees both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from apercu import open_classifier
from apercu.classifiers import Classifier

SIDE, OBJECT = 32, 8
COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.9, 0.1), "blue": (0.1, 0.1, 0.9)}
BACKGROUNDS = 4


class ColourNetwork(nn.Module):
    """Features per cell of 4 × 4 pixels: three colours, which decide, and three of the background.

    Args:
        classes: number of classes, at most three.
    """

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.cells = nn.AvgPool2d(4)
        self.mix = nn.Conv2d(3, 6, 1)
        self.act = nn.ReLU()
        self.head = nn.Linear(6, classes)
        weights = torch.tensor(
            [
                *([1.0, -1, 0], [-1, 1, 0], [-1, 0, 1]),
                *([1 / 3, 1 / 3, 1 / 3], [2, 2, -3], [-2, 1, 2]),
            ]
        )
        biases = torch.tensor([-0.4, -0.4, -0.4, 0.0, -0.1, -0.1])
        self.mix.weight.data = weights[:, :, None, None]
        self.mix.bias.data = biases
        self.head.weight.data = 400 * torch.eye(6)[:classes]
        self.head.bias.data.zero_()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.act(self.mix(self.cells(images))).mean((2, 3)))


def make_classifier(classes: int = 3) -> Classifier:
    """The network as a classifier of the colours."""
    return open_classifier(ColourNetwork(classes), size=SIDE, classes=list(COLOURS)[:classes])


def draw_object(colour: str, background: int, seed: int) -> np.ndarray:
    """An image, `32 × 32 × 3` bytes, with the object somewhere on one of the backgrounds."""
    generator = np.random.default_rng(seed)
    pixels = np.full((SIDE, SIDE, 3), 0.25 + 0.15 * background)
    pixels[:, :, 2] -= 0.05 * background
    pixels[:: 1 + background] *= 0.8
    top, left = generator.integers(0, (SIDE - OBJECT) // 4, 2) * 4
    pixels[top : top + OBJECT, left : left + OBJECT] = COLOURS[colour]
    pixels += generator.normal(0, 0.01, pixels.shape)
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def write_objects(folder: Path, each: int = 1, *, by_class: bool = True) -> Path:
    """Write images of every colour on every background, in a folder per class or all in one."""
    for number, colour in enumerate(COLOURS):
        for background in range(BACKGROUNDS):
            for copy in range(each):
                inside = folder / colour if by_class else folder
                inside.mkdir(parents=True, exist_ok=True)
                pixels = draw_object(colour, background, 100 * number + 10 * background + copy)
                name = f"{background}-{copy}" if by_class else f"{colour}-{background}-{copy}"
                Image.fromarray(pixels).save(inside / f"{name}.png")
    return folder
