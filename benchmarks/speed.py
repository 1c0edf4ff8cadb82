"""Time and memory of the light explainer beside what people use now, all in one run.

    python benchmarks/speed.py [--out docs/speed.json]

Each row is the median of several calls, with its interquartile range, and its ratio to one forward
pass of a ResNet-50 at the same batch. RISE (4,000 masks) is extrapolated from 200 masks.
Weights are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import timm
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn
from torch.nn import functional as F

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, classifier_of
from apercu.explainers.build import build_network
from apercu.explainers.passport import Passport
from apercu.methods import GradCam, Gradient
from apercu.networks.graph import GraphEncoder
from apercu.training.settings import PRESETS

SIZE, REPEATS, RISE_MASKS, RISE_ASKED = 224, 7, 4000, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = [row for batch in arguments.batches for row in measure(batch)]
    for row in rows:
        print(
            f"{row['what']:<34} batch {row['batch']:>2}  {row['ms_per_image']:>10.1f} ms/image  "
            f"± {row['iqr']:>7.1f}  {row['resnet50_forwards']:>9.2f} × ResNet-50"
        )
    if arguments.out:
        about = {
            "machine": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "date": datetime.now(UTC).date().isoformat(),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        arguments.out.write_text(json.dumps({"environment": about, "rows": rows}, indent=1) + "\n")


def measure(batch: int) -> Iterator[dict[str, object]]:
    """Rows for one batch size; the ResNet-50 forward is the unit of each."""
    images = torch.rand(batch, 3, SIZE, SIZE)
    targets = torch.zeros(batch, dtype=torch.long)
    resnet = imagenet("resnet50")
    plain = timm.create_model("resnet50").eval()
    explained = light(imagenet("mobilenetv2_100"))

    def forward() -> None:
        with torch.inference_mode():
            plain(images)

    def explain() -> None:
        with torch.inference_mode():
            explained(images, targets).sigmoid()

    def integrated() -> None:
        IntegratedGradients(resnet).attribute(
            images, target=targets, n_steps=50, internal_batch_size=max(32, batch)
        )

    calls: dict[str, tuple[Callable[[], object], float]] = {
        "light explainer (MobileNetV2)": (explain, 1),
        "gradient": (lambda: Gradient()(resnet, images, targets), 1),
        "Grad-CAM": (lambda: GradCam()(resnet, images, targets), 1),
        "integrated gradients (50)": (integrated, 1),
        "RISE (4,000 masks)": (lambda: rise(resnet, images), RISE_MASKS / RISE_ASKED),
    }
    if batch > 1:  # minutes per call, and the ratios are those of batch 1
        del calls["integrated gradients (50)"], calls["RISE (4,000 masks)"]
    unit = statistics.median(times(forward, REPEATS))
    yield row("ResNet-50 forward", batch, [unit], unit, 1)
    for what, (call, factor) in calls.items():
        repeats = REPEATS if factor == 1 and "integrated" not in what else 3
        yield row(what, batch, times(call, repeats), unit, factor)


def row(
    what: str, batch: int, seconds: list[float], unit: float, factor: float
) -> dict[str, object]:
    """One line of the table; `factor` extrapolates."""
    median = statistics.median(seconds) * factor
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (0.0, 0.0, 0.0)
    return {
        "what": what,
        "batch": batch,
        "ms_per_image": 1000 * median / batch,
        "iqr": 1000 * factor * (quartiles[2] - quartiles[0]) / batch,
        "resnet50_forwards": median / unit,
    }


def times(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each call, after one to warm up."""
    call()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def rise(classifier: Classifier, images: Tensor) -> Tensor:
    """What RISE must pay at least: 200 masked images through the classifier, batch by batch."""
    total = torch.zeros(images.shape[0], SIZE, SIZE)
    with torch.no_grad():
        for _ in range(RISE_ASKED // 20):
            masks = F.interpolate(
                (torch.rand(20, 1, 8, 8) < 0.5).float(), (SIZE, SIZE), mode="bilinear"
            )
            for index, image in enumerate(images):
                weights = classifier(image * masks).softmax(1)[:, 0]
                total[index] += torch.einsum("m,mhw->hw", weights, masks[:, 0])
    return total


def imagenet(name: str) -> Classifier:
    """A timm model with random weights behind the door."""
    statistics_of = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    card = ClassifierCard(
        source=f"timm/{name}", input=InputSpec(channels=3, size=(SIZE, SIZE), **statistics_of)
    )
    return classifier_of(timm.create_model(name), card)


def light(classifier: Classifier) -> nn.Module:
    """The `light` explainer of a classifier, untrained."""
    network = build_network(PRESETS["light"], GraphEncoder(classifier), Passport.of(classifier))
    return network.eval().to(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
