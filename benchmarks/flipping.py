"""Our deletion beside a literal loop, and beside Quantus' PixelFlipping where it is installed.

    python benchmarks/flipping.py [--images N] [--size PIXELS] [--steps N] [--device cuda]

All flip the same pixels to black in the same order, by turns, after a call each to warm up. Figures
are medians over the rounds, times with their interquartile range, ratios within each round. The
loop asks about one image and one step at a time. Weights are random, since time does not depend
on them, and large in the last layer, so that probabilities move.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from timing import compute_ratio, format_times, open_timm, report_missing, time_in_turns
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.metrics.flipping import DELETION, Flipping, flip_pixels

PROMISED = 4.0
"""Quantus' time over ours, at least."""
TOLERANCE = 1e-4
"""How far values may lie apart, at most."""
Call = Callable[[], Tensor]
"""Probabilities of the targets after each step: images × steps, on the CPU."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mobilenetv2_100", help="any classifier of timm")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=24, help="Quantus needs a multiple of 3")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    task = Task.from_arguments(arguments)
    calls: dict[str, Call] = {"ours": task.flip_with_apercu, "a literal loop": task.flip_literally}
    if importlib.util.find_spec("quantus"):
        calls["Quantus PixelFlipping"] = task.flip_with_quantus
    reference = task.flip_with_apercu()
    errors = {name: (call() - reference).abs().max().item() for name, call in calls.items()}
    rounds = time_in_turns(calls, arguments.repeats, task.images.device)
    for name, result in rounds.items():
        times = compute_ratio(rounds, name, "ours")
        print(
            f"{name:<22} {format_times(result)}  {times:6.2f} × ours  "
            f"values within {errors[name]:.0e}"
        )
    if "Quantus PixelFlipping" not in rounds:
        return report_missing("quantus")
    times = compute_ratio(rounds, "Quantus PixelFlipping", "ours")
    return 0 if max(errors.values()) <= TOLERANCE and times >= PROMISED else 1


@dataclass(frozen=True, eq=False)
class Task:
    """Random images and maps, and the class that the classifier predicts; what is timed.

    Each method returns the probabilities of the targets after each step, `images × steps`.
    """

    classifier: Classifier
    images: Tensor
    targets: Tensor
    maps: Tensor
    flipping: Flipping

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Task:
        """Make random images and maps of the size that is asked for."""
        size, count, device = arguments.size, arguments.images, arguments.device
        classifier = open_timm(arguments.model, size).to(device)
        images = torch.rand(count, 3, size, size, device=device)
        with torch.no_grad():
            targets = classifier(images).argmax(dim=1)
        maps = torch.rand(count, size, size, device=device)
        flipping = replace(DELETION, steps=arguments.steps, batch=arguments.batch)
        return cls(classifier, images, targets, maps, flipping)

    def flip_with_apercu(self) -> Tensor:
        """Flip pixels with the package."""
        result = flip_pixels(self.classifier, self.images, self.targets, self.maps, self.flipping)
        return result.probabilities[:, 1:].cpu()

    def flip_literally(self) -> Tensor:
        """Flip pixels of one image and one step after the other."""
        curves = []
        for image, target, map in zip(self.images, self.targets, self.maps, strict=True):
            flipped = image[None].clone()
            order, steps = map.flatten().argsort(descending=True), self.flipping.steps
            ends = [len(order) * step // steps for step in range(1, steps)]
            for part in order.tensor_split(ends):
                flipped.flatten(2)[..., part] = 0
                with torch.no_grad():
                    curves.append(self.classifier(flipped).softmax(dim=1)[0, target])
        return torch.stack(curves).view(len(self.images), -1).cpu()

    def flip_with_quantus(self) -> Tensor:
        """Flip pixels with Quantus, channel by channel: a pixel is three of its features."""
        import quantus

        metric = quantus.PixelFlipping(
            features_in_step=3 * self.maps[0].numel() // self.flipping.steps,
            perturb_baseline=0.0,
            disable_warnings=True,
        )
        scores = metric(
            model=ProbabilityModule(self.classifier).eval(),
            x_batch=self.images.cpu().numpy(),
            y_batch=self.targets.cpu().numpy(),
            a_batch=self.maps[:, None].cpu().numpy(),
            device=str(self.images.device),
            softmax=True,
            batch_size=self.flipping.batch,
        )
        return torch.tensor(scores)


class ProbabilityModule(nn.Module):
    """A classifier of images in [0, 1] as the module that Quantus expects."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network, self.classifier = classifier.module, classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images)
        return logits


if __name__ == "__main__":
    raise SystemExit(main())
