"""What RISE and MFPP cost beyond the classifier they ask, on a MobileNetV2 without weights.

    python benchmarks/rise.py [--masks 4000] [--batch 64] [--device cuda]

The ratio is the time of the method divided by that of as many bare forwards of the network at the
same batch, without the door; both take turns, and medians are compared. Promised: at most 1.10.
MFPP cuts an image in fragments once, which shows when there are few masks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, classifier_of
from apercu.methods import Method
from apercu.methods.layers import open_module
from apercu.methods.mfpp import Mfpp
from apercu.methods.rise import Rise, parts

SIZE, LIMIT = (224, 224), 1.10


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--masks", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    classifier = mobilenet().to(given.device)
    methods: list[Method] = [
        Rise(masks=given.masks, batch=given.batch),
        Mfpp(masks=given.masks, batch=given.batch),
    ]
    ratios = [
        ratio(classifier, method, (given.masks, given.batch, given.repeats)) for method in methods
    ]
    return 0 if ratios[0] <= LIMIT else 1


def mobilenet() -> Classifier:
    half = (0.5, 0.5, 0.5)
    spec = InputSpec(channels=3, size=SIZE, mean=half, std=half)
    card = ClassifierCard(source="timm/mobilenetv2_100", input=spec)
    return classifier_of(timm.create_model("mobilenetv2_100"), card)


def ratio(classifier: Classifier, method: Method, plan: tuple[int, int, int]) -> float:
    """Prints and returns the median time of a method over that of the bare forwards."""
    masks, batch, repeats = plan
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    image, target = image.to(classifier.device), torch.tensor([0], device=classifier.device)
    network = open_module(classifier)
    ready = classifier.normalise(image.expand(batch, -1, -1, -1))

    def bare() -> None:
        with torch.no_grad():
            for count in parts(masks, batch):
                network(ready[:count])

    def whole() -> None:
        method(classifier, image, target)

    taken: dict[str, list[float]] = {"bare": [], "whole": []}
    for turn in range(repeats + 1):
        for name, call in (("bare", bare), ("whole", whole)):
            seconds = timed(call, classifier.device)
            if turn:  # the first one warms up
                taken[name].append(seconds)
    forwards, all_ = (statistics.median(taken[name]) for name in ("bare", "whole"))
    print(
        f"{type(method).__name__.lower():<5} {masks} masks, batch {batch}, {classifier.device}: "
        f"{all_:8.3f} s ÷ {forwards:8.3f} s of bare forwards = {all_ / forwards:.3f}  "
        f"(at most {LIMIT:.2f})"
    )
    return all_ / forwards


def timed(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call, all work of the device included."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    raise SystemExit(main())
