"""What RISE and MFPP cost beyond the classifier they ask, on a MobileNetV2 without weights.

    python benchmarks/rise.py [--masks 2000] [--batch 64] [--device cuda]

The ratio is the time of the method divided by that of as many bare forwards of the network at the
same batch, without the classifier's checks; both take turns, and the median over the rounds is
printed. Promised: at most 1.10. MFPP cuts an image in fragments once, which matters when there are
few masks.
"""

from __future__ import annotations

import argparse

import torch
from timing import compute_ratio, format_times, open_timm, time_in_turns

from apercu.classifiers import Classifier
from apercu.methods import Method
from apercu.methods.layers import get_open_module
from apercu.methods.mfpp import Mfpp
from apercu.methods.rise import Rise, split_into_batches

SIZE, LIMIT = 224, 1.10


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--masks", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    classifier = open_timm("mobilenetv2_100", SIZE).to(given.device)
    methods: list[Method] = [
        Rise(masks=given.masks, batch=given.batch),
        Mfpp(masks=given.masks, batch=given.batch),
    ]
    ratios = [
        measure_ratio(classifier, method, given.masks, given.batch, given.repeats)
        for method in methods
    ]
    return 0 if max(ratios) <= LIMIT else 1


def measure_ratio(
    classifier: Classifier, method: Method, masks: int, batch: int, repeats: int
) -> float:
    """Print and return a method's time over that of the bare forward passes.

    Args:
        classifier: classifier that is asked.
        method: method that is timed.
        masks: number of its masks.
        batch: masked images that the classifier receives at once.
        repeats: number of rounds.

    Returns:
        The median ratio over the rounds.
    """
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    image, target = image.to(classifier.device), torch.tensor([0], device=classifier.device)
    network = get_open_module(classifier)
    ready = classifier.normalise(image.expand(batch, -1, -1, -1))

    def run_network() -> None:
        with torch.no_grad():
            for count in split_into_batches(masks, batch):
                network(ready[:count])

    def explain() -> None:
        method(classifier, image, target)

    rounds = time_in_turns({"bare": run_network, "whole": explain}, repeats, classifier.device)
    times = compute_ratio(rounds, "whole", "bare")
    print(
        f"{type(method).__name__.lower():<5} {masks} masks, batch {batch}, {classifier.device}: "
        f"{format_times(rounds['whole'])} ÷ {format_times(rounds['bare'])} of bare forwards "
        f"= {times:.3f}  (at most {LIMIT:.2f})"
    )
    return times


if __name__ == "__main__":
    raise SystemExit(main())
