"""What `apercu batch` adds to the explainer alone, and whether its memory grows.

    python benchmarks/batch.py [--images 512] [--repeats 5] [--threads 1] [--sizes 1000,100000]

Speed: the light explainer of a MobileNetV2 at 224 pixels with random weights, which do not change
the time, on generated JPEGs. Three ways take turns, each over all images in batches of 16:

    bare       the explainer called on images that are decoded already: nothing else is done
    in a row   each batch is read, decoded, explained, one after the other: nothing is written
    batch      `apercu batch`: read, decoded, explained, stored as PNG in Parquet

The promise is batch ÷ bare; it needs a core beside those that explain. Memory: the most that a
fresh process holds while it explains so many files of a folder, tiny pictures by a tiny explainer;
names are held, so a folder is the worst case. Linux only.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import SIZE, Promise, make_untrained_explainer, open_timm, report_promises

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, SmallResNet, wrap_module
from apercu.deploy.batch import BatchRequest, BatchSettings, ExplainerRef, Workers, run_batch
from apercu.deploy.batch.request import OpenBatch

BATCH = 16
THROUGHPUT, GROWTH = 0.9, 1.1
DISTINCT = 32
"""Pictures that are generated; files beyond them are further names of the same bytes."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="that explain")
    parser.add_argument("--sizes", default="1000,100000", help="of the sets for memory")
    parser.add_argument("--peak", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.repeats < 2:
        parser.error("--repeats: expected at least 2, for a spread")
    if given.peak:
        return print_peak_memory(*given.peak)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        promises = [measure_throughput(Path(folder), given.images, given.repeats, given.threads)]
    with tempfile.TemporaryDirectory() as folder:
        promises.append(
            measure_growth(Path(folder), [int(size) for size in given.sizes.split(",")])
        )
    return report_promises(promises)


def measure_throughput(folder: Path, count: int, repeats: int, threads: int) -> Promise:
    """Measure the throughput of the whole over that of the explainer alone.

    Args:
        folder: an empty folder.
        count: number of images.
        repeats: number of rounds.
        threads: threads that explain.

    Returns:
        The median ratio over the rounds.
    """
    run = save_untrained_run(open_timm("mobilenetv2_100", SIZE), folder / "run")
    photos = write_jpegs(folder / "photos", count, (375, 500))
    workers, settings = Workers(threads=threads), BatchSettings(batch=BATCH)
    request = BatchRequest(ExplainerRef(run), str(photos), folder / "maps", settings, workers)
    opened = request.open()
    torch.set_num_threads(threads)
    ready = [read_batch(opened, start) for start in range(0, count, BATCH)]
    rounds: dict[str, list[float]] = {"bare": [], "in a row": [], "batch": []}
    for turn in range(repeats + 1):
        start_bare = time.perf_counter()
        for images in ready:
            opened.engine(images)
        start_in_a_row = time.perf_counter()
        for start in range(0, count, BATCH):
            opened.engine(read_batch(opened, start))
        end_in_a_row = time.perf_counter()
        out = folder / f"maps-{turn}"
        summary = run_batch(
            BatchRequest(request.explainer, request.images, out, settings, workers), lambda *_: None
        )
        if turn:  # the first one warms up
            rounds["bare"].append(count / (start_in_a_row - start_bare))
            rounds["in a row"].append(count / (end_in_a_row - start_in_a_row))
            rounds["batch"].append(count / summary.times.wall)
    for name, rates in rounds.items():
        low, middle, high = statistics.quantiles(rates, n=4, method="inclusive")
        print(f"  {name:<10} {middle:8.1f} images per second ± {(high - low) / 2:.1f}")
    busy = summary.times
    print(
        f"  of {busy.wall:.1f} s: reading {busy.read:.1f} s on {busy.readers} threads, "
        f"explaining {busy.explain:.1f} s, writing {busy.write:.1f} s"
    )
    ratios = {
        name: statistics.median(
            ours / theirs for ours, theirs in zip(rounds["batch"], rounds[name], strict=True)
        )
        for name in ("bare", "in a row")
    }
    print(f"  batch ÷ in a row: {ratios['in a row']:.2f}")
    return Promise("batch ÷ bare throughput", ratios["bare"], THROUGHPUT, least=True)


def measure_growth(folder: Path, sizes: list[int]) -> Promise:
    """Measure the peak memory of the largest set of images over that of the smallest."""
    run = save_untrained_run(make_tiny_classifier(), folder / "run")
    peaks = []
    for size in sizes:
        photos = write_jpegs(folder / f"{size}", size, (32, 32))
        command = [sys.executable, __file__, "--peak", str(run), str(photos)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks.append(float(re.findall(r"[\d.]+", done.stdout)[-1]))
        print(f"  {size:>7} images: at most {peaks[-1]:.0f} MB")
    return Promise(
        f"memory at {sizes[-1]:,} ÷ at {sizes[0]:,} images", peaks[-1] / peaks[0], GROWTH
    )


def print_peak_memory(run: Path, photos: Path) -> int:
    """Explain a folder in this process, and print its largest memory meanwhile, in MB."""
    request = BatchRequest(
        ExplainerRef(run),
        str(photos),
        photos.with_name(f"{photos.name}-maps"),
        workers=Workers(2, 1),
    )
    sizes = [0.0]
    run_batch(request, lambda done, total: sizes.append(measure_memory()))
    print(max(sizes))
    return 0


def measure_memory() -> float:
    """Return the memory that this process holds now, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def save_untrained_run(classifier: Classifier, run: Path) -> Path:
    """Write the run folder of a classifier's light explainer with random weights."""
    make_untrained_explainer(classifier, "light").save_pretrained(run)
    return run


def read_batch(opened: OpenBatch, start: int) -> torch.Tensor:
    """Read and decode the images of a batch, `images × 3 × height × width`."""
    stop = min(start + BATCH, len(opened.dataset))
    images = (opened.dataset.read_picture(index) for index in range(start, stop))
    return torch.stack([opened.engine.prepare(image) for image in images])


def make_tiny_classifier() -> Classifier:
    """Return a small network of random weights for three classes at 32 pixels."""
    options = {"channels": 3, "classes": 3, "size": [32, 32], "width": 4}
    card = ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options=options,
        input=InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3),
        classes=("a", "b", "c"),
    )
    return wrap_module(SmallResNet(**options), card)


def write_jpegs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Write JPEGs of smooth noise, which take as many bytes as photographs of that size."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    height, width = size
    for number in range(count):
        path = folder / f"{number:07}.jpg"
        if number >= DISTINCT:
            os.link(folder / f"{number % DISTINCT:07}.jpg", path)
            continue
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain = generator.normal(0, 8, (height, width, 3))
        pixels = (np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
    return folder


if __name__ == "__main__":
    raise SystemExit(main())
