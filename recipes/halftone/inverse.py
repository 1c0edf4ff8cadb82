"""Trains the network of the filter `inverse_halftone`, and puts it into the package.

    python recipes/halftone/inverse.py IMAGES [OUT.safetensors]

IMAGES is a folder of photographs: no label is read, and no classifier is asked. The network sees
halftones of crops, and learns to add to the blurred halftone what it lacks. It takes about four
minutes of one core.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from apercu.filters import FloydSteinberg
from apercu.filters.gaussian import blur
from apercu.filters.inverse_halftone import BLUR, WEIGHTS, InverseHalftoneNetwork
from apercu.images import batches, open_images
from apercu.images.resizing import resize_picture
from apercu.io import write_file

SIDE, CROP = 224, 64
STEPS, BATCH, RATE = 2000, 16, 2e-3
HELD_OUT = 100
"""Every so many photographs one is held out."""


def read_photographs(folder: str) -> Tensor:
    """Read all photographs as bytes, `photographs × 3 × SIDE × SIDE`."""
    resize = partial(resize_picture, size=(SIDE, SIDE))
    read = batches(open_images(folder), resize, BATCH)
    return torch.cat([(255 * batch.images).round().to(torch.uint8) for batch in read])


def draw_crops(photographs: Tensor) -> Tensor:
    """Draw crops of random photographs, mirrored or not, `BATCH × 3 × CROP × CROP`."""
    chosen = torch.randint(len(photographs), (BATCH,))
    corners = torch.randint(SIDE - CROP + 1, (2, BATCH)).T.tolist()
    crops = [
        photographs[number, :, top : top + CROP, left : left + CROP]
        for number, (left, top) in zip(chosen, corners, strict=True)
    ]
    images = torch.stack(crops).float() / 255
    return torch.where((torch.rand(BATCH) < 0.5)[:, None, None, None], images.flip(3), images)


def reconstruct(network: InverseHalftoneNetwork, images: Tensor) -> Tensor:
    """Halftone images, and reconstruct them from the halftone."""
    halftones = FloydSteinberg()(images)
    return blur(halftones, BLUR) + network(halftones)


@torch.no_grad()
def measure_quality(network: InverseHalftoneNetwork, images: Tensor) -> float:
    """Measure the mean peak signal-to-noise ratio of reconstructions, in dB."""
    errors = (reconstruct(network, images).clamp(0, 1) - images).square().flatten(1).mean(1)
    return float(-10 * errors.log10().mean())


def train(photographs: Tensor, held_out: Tensor) -> InverseHalftoneNetwork:
    """Train a network on all photographs but those held out, which only measure it."""
    torch.manual_seed(0)
    network = InverseHalftoneNetwork()
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
    schedule = OneCycleLR(optimiser, RATE, total_steps=STEPS, pct_start=0.1)
    for step in range(1, STEPS + 1):
        images = draw_crops(photographs)
        loss = (reconstruct(network, images) - images).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            quality = measure_quality(network, held_out)
            print(f"step {step}: L1 {loss.item():.4f}, {quality:.2f} dB (held out)", flush=True)
    return network


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("images")
    words.add_argument("out", type=Path, nargs="?", default=WEIGHTS)
    arguments = words.parse_args()
    photographs = read_photographs(arguments.images)
    rows = torch.arange(len(photographs)) % HELD_OUT == 0
    network = train(photographs[~rows], photographs[rows].float() / 255)
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    write_file(arguments.out, save(weights))


if __name__ == "__main__":
    main()
