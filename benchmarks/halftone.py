"""What Floyd–Steinberg costs beside Pillow's, and what a second thread brings.

    python benchmarks/halftone.py [--planes 128] [--repeats 25]

On one core, our filter on a batch of images in [0, 1] against Pillow's `convert("1")` on the same
planes, already pictures of bytes; both take turns, and the median ratio over the rounds is printed.
Promised: at most 0.60. Then one thread against two, which shows nothing while the second core is
busy. Full groups of 32 planes do best; from 32 MB on (about 160 planes) each call is given fresh
memory, page by page, which can cost as much as the loop.
"""

from __future__ import annotations

import argparse

import torch
from PIL import Image
from timing import Call, Rounds, compute_ratio, format_times, time_in_turns

from apercu.filters import FloydSteinberg

SIZE, LIMIT = 224, 0.60


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--planes", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=25)
    given = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(given.planes, 1, SIZE, SIZE, generator=generator)
    rounds = time_in_turns(make_calls(images), given.repeats, images.device)
    print(f"floyd_steinberg, {given.planes} planes of {SIZE} × {SIZE}, milliseconds per plane")
    for name in rounds:
        print(f"{name:<12} {format_per_plane(rounds, name, given.planes)}")
    times, gain = (
        compute_ratio(rounds, "one thread", "pillow"),
        compute_ratio(rounds, "one thread", "two threads"),
    )
    print(f"one thread ÷ pillow = {times:.3f}  (at most {LIMIT:.2f})")
    print(f"one thread ÷ two threads = {gain:.3f}")
    return 0 if times <= LIMIT else 1


def make_calls(images: torch.Tensor) -> dict[str, Call]:
    """Return calls that halftone the same planes: Pillow's, and ours with one thread and two."""
    planes = (images[:, 0] * 255).round().to(torch.uint8).numpy()
    pictures = [Image.fromarray(plane) for plane in planes]
    halftone = FloydSteinberg()

    def halftone_with_pillow() -> None:
        for picture in pictures:
            picture.convert("1", dither=Image.Dither.FLOYDSTEINBERG)

    def halftone_with_apercu(threads: int) -> None:
        torch.set_num_threads(threads)
        halftone(images)

    return {
        "pillow": halftone_with_pillow,
        "one thread": lambda: halftone_with_apercu(1),
        "two threads": lambda: halftone_with_apercu(2),
    }


def format_per_plane(rounds: Rounds, name: str, planes: int) -> str:
    """Return the median and half the interquartile range, in milliseconds of one plane."""
    return format_times([1000 * seconds / planes for seconds in rounds[name]]).replace(" s", "")


if __name__ == "__main__":
    raise SystemExit(main())
