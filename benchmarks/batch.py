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
from timing import opened

from apercu.classifiers import Classifier, ClassifierCard, InputSpec, SmallResNet, wrap_module
from apercu.deploy.batch import BatchRequest, BatchSettings, ExplainerRef, Workers, run_batch
from apercu.deploy.batch.request import OpenBatch
from export import SIZE, Promise, untrained

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
        return peak(*given.peak)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        promises = [speed(Path(folder), given.images, given.repeats, given.threads)]
    with tempfile.TemporaryDirectory() as folder:
        promises.append(memory(Path(folder), [int(size) for size in given.sizes.split(",")]))
    print(*promises, sep="\n")
    return 0 if all(promise.kept for promise in promises) else 1


def speed(folder: Path, count: int, repeats: int, threads: int) -> Promise:
    """Throughput of the whole beside the explainer alone."""
    run = written(opened("mobilenetv2_100", SIZE), folder / "run")
    photos = pictures(folder / "photos", count, (375, 500))
    workers, settings = Workers(threads=threads), BatchSettings(batch=BATCH)
    order = BatchRequest(ExplainerRef(run), str(photos), folder / "maps", settings, workers)
    at_work = order.open()
    torch.set_num_threads(threads)
    ready = [prepared(at_work, start) for start in range(0, count, BATCH)]
    rounds: dict[str, list[float]] = {"bare": [], "in a row": [], "batch": []}
    for turn in range(repeats + 1):
        begun = time.perf_counter()
        for images in ready:
            at_work.engine(images)
        bare = time.perf_counter()
        for start in range(0, count, BATCH):
            at_work.engine(prepared(at_work, start))
        in_a_row = time.perf_counter()
        out = folder / f"maps-{turn}"
        outcome = run_batch(
            BatchRequest(order.explainer, order.images, out, settings, workers), lambda *_: None
        )
        if turn:  # the first one warms up
            rounds["bare"].append(count / (bare - begun))
            rounds["in a row"].append(count / (in_a_row - bare))
            rounds["batch"].append(count / outcome.times.wall)
    for name, rates in rounds.items():
        low, middle, high = statistics.quantiles(rates, n=4, method="inclusive")
        print(f"  {name:<10} {middle:8.1f} images per second ± {(high - low) / 2:.1f}")
    busy = outcome.times
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


def memory(folder: Path, sizes: list[int]) -> Promise:
    """Peak of the largest set over that of the smallest."""
    run = written(tiny(), folder / "run")
    peaks = []
    for size in sizes:
        photos = pictures(folder / f"{size}", size, (32, 32))
        command = [sys.executable, __file__, "--peak", str(run), str(photos)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks.append(float(re.findall(r"[\d.]+", done.stdout)[-1]))
        print(f"  {size:>7} images: at most {peaks[-1]:.0f} MB")
    return Promise(
        f"memory at {sizes[-1]:,} ÷ at {sizes[0]:,} images", peaks[-1] / peaks[0], GROWTH
    )


def peak(run: Path, photos: Path) -> int:
    """Explains a folder in this process, and prints the most memory that it held on the way."""
    order = BatchRequest(
        ExplainerRef(run),
        str(photos),
        photos.with_name(f"{photos.name}-maps"),
        workers=Workers(2, 1),
    )
    sizes = [0.0]
    run_batch(order, lambda done, total: sizes.append(resident()))
    print(max(sizes))
    return 0


def resident() -> float:
    """What this process holds in memory now, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def written(classifier: Classifier, run: Path) -> Path:
    """The run folder of a classifier's light explainer, untrained."""
    untrained(classifier, "light").save_pretrained(run)
    return run


def prepared(at_work: OpenBatch, start: int) -> torch.Tensor:
    """A batch, read and decoded."""
    stop = min(start + BATCH, len(at_work.dataset))
    images = (at_work.dataset.read_picture(index) for index in range(start, stop))
    return torch.stack([at_work.engine.prepare(image) for image in images])


def tiny() -> Classifier:
    """A small network of random weights for three classes at 32 pixels."""
    options = {"channels": 3, "classes": 3, "size": [32, 32], "width": 4}
    card = ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options=options,
        input=InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3),
        classes=("a", "b", "c"),
    )
    return wrap_module(SmallResNet(**options), card)


def pictures(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """JPEGs of smooth noise, as large as photographs of that size are."""
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
