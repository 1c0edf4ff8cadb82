"""Time and memory of the light explainer beside what people use now, all in one run.

    python benchmarks/speed.py [--out docs/reference/speed.json]

Each row is the median of several calls, by turns with one forward pass of a ResNet-50 on the same
batch, with its interquartile range, and the median ratio to that forward. RISE (4,000 masks) is
extrapolated from 200 masks. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import timm
import torch
from timing import SIZE, Call, compute_ratio, make_untrained_explainer, open_timm, time_in_turns
from torch import nn

from apercu.classifiers import Classifier
from apercu.methods import GradCam, Gradient, IntegratedGradients, Rise

REPEATS, RISE_MASKS, RISE_TIMED = 7, 4000, 200
UNIT = "ResNet-50 forward"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = [row for batch in arguments.batches for row in measure_batch(batch)]
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


def measure_batch(batch: int) -> Iterator[dict[str, object]]:
    """Yield the rows of one batch size; the forward pass of a ResNet-50 is the unit of each."""
    images = torch.rand(batch, 3, SIZE, SIZE)
    targets = torch.zeros(batch, dtype=torch.long)
    resnet = open_timm("resnet50", SIZE)
    plain = timm.create_model("resnet50").eval()
    explained = build_light_network(open_timm("mobilenetv2_100", SIZE))

    def run_resnet() -> None:
        with torch.inference_mode():
            plain(images)

    def explain() -> None:
        with torch.inference_mode():
            explained(images, targets).sigmoid()

    calls: dict[str, tuple[Call, int]] = {
        "light explainer (MobileNetV2)": (explain, 1),
        "gradient": (lambda: Gradient()(resnet, images, targets), 1),
        "Grad-CAM": (lambda: GradCam()(resnet, images, targets), 1),
        "integrated gradients (50)": (
            lambda: IntegratedGradients(steps=50)(resnet, images, targets),
            1,
        ),
        "RISE (4,000 masks)": (
            lambda: Rise(masks=RISE_TIMED)(resnet, images, targets),
            RISE_MASKS // RISE_TIMED,
        ),
    }
    if batch > 1:  # minutes per call, and the ratios are those of batch 1
        del calls["integrated gradients (50)"], calls["RISE (4,000 masks)"]
    for what, (call, factor) in calls.items():
        slow = factor > 1 or "integrated" in what
        rounds = time_in_turns(
            {UNIT: run_resnet, what: call}, 3 if slow else REPEATS, images.device
        )
        if what == next(iter(calls)):
            yield make_row(UNIT, batch, rounds[UNIT], 1.0, 1)
        yield make_row(
            what, batch, rounds[what], factor * compute_ratio(rounds, what, UNIT), factor
        )


def make_row(
    what: str, batch: int, seconds: Sequence[float], forwards: float, factor: int
) -> dict[str, object]:
    """Return one row of the table.

    Args:
        what: the name of the method.
        batch: images in a call.
        seconds: times of the calls.
        forwards: the time in forward passes of a ResNet-50.
        factor: factor by which the times are extrapolated.

    Returns:
        The figures by name.
    """
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {
        "what": what,
        "batch": batch,
        "ms_per_image": 1000 * factor * middle / batch,
        "iqr": 1000 * factor * (high - low) / batch,
        "resnet50_forwards": forwards,
    }


def build_light_network(classifier: Classifier) -> nn.Module:
    """Return the network of the `light` explainer with random weights, ready for inference."""
    network = make_untrained_explainer(classifier, "light").network
    return network.eval().to(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
