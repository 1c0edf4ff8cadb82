"""How many images a machine explains in an hour and for a euro, and the plan for a billion.

    python benchmarks/sizing.py --run RUN --images val/ --out docs/reference/sizing.json
    python benchmarks/sizing.py [--measured docs/reference/sizing.json] [--euro-per-core-hour 0.04]
        [--machine NAME=CORES] [--rate NAME=IMAGES_PER_SECOND,EURO_PER_HOUR] [--plan 1000000000]

With `--run` the rate of the whole pipeline and the room that rows take are measured on the images
and kept. Without, the tables are computed from what was kept. Prices are assumptions; so is that
cores of one machine share the work as shards do, each explaining with one thread. A machine whose
rate was measured elsewhere is added by `--rate`, a GPU, say: none is made up here.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from apercu.deploy.batch import BatchRequest, BatchSettings, ExplainerRef, Workers, run_batch
from apercu.deploy.batch.settings import MAPS

HOUR, DAY = 3600, 86400
SHARD = 10_000
"""Images per shard of the plan."""
DAYS = 7
"""Days in which the plan is to be done."""
LOSSES = 0.05
"""Fraction of the work that is done again since machines were taken away; a high guess."""
MACHINES = ("4 cores=4", "16 cores=16", "64 cores=64")


@dataclass(frozen=True)
class Measurement:
    """The speed of one machine, and the room that results take.

    Attributes:
        processor: name of the processor.
        explainer: name of the classifier that is explained.
        images: number of images that were explained.
        rate: images per second, one thread explaining beside one that reads and writes.
        cores: cores at work, by the processor's own time.
        row: bytes of a row, by how maps are stored.
    """

    processor: str
    explainer: str
    images: int
    rate: float
    cores: float
    row: dict[str, float]

    @property
    def per_core(self) -> float:
        """Images per second and core, all work counted."""
        return self.rate / self.cores


@dataclass(frozen=True)
class Machine:
    """One machine, and what it costs.

    Attributes:
        name: name of the machine in words.
        rate: images per second.
        price: euros per hour.
    """

    name: str
    rate: float
    price: float

    def make_row(self, images: int) -> tuple[str, ...]:
        """Return the cells of the table: rates, and time, machines and euros for all images."""
        hours = images / self.rate / HOUR * (1 + LOSSES)
        machines = max(1, -(-hours // (24 * DAYS)))
        return (
            self.name,
            f"{self.price:.2f}",
            f"{self.rate * HOUR:,.0f}",
            f"{self.rate * HOUR / self.price:,.0f}",
            f"{hours / 24:,.0f}",
            f"{machines:,.0f}",
            f"{hours * self.price:,.0f}",
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measured", type=Path, default=Path("docs/reference/sizing.json"))
    parser.add_argument("--euro-per-core-hour", type=float, default=0.04)
    parser.add_argument("--euro-per-terabyte-month", type=float, default=20.0)
    parser.add_argument("--machine", action="append", metavar="NAME=CORES")
    parser.add_argument("--rate", action="append", default=[], metavar="NAME=RATE,EURO_PER_HOUR")
    parser.add_argument("--plan", type=int, default=1_000_000_000)
    given = parser.parse_args()
    if given.run is not None:
        measured = measure_run(given.run, given.images, given.limit)
        if given.out is not None:
            given.out.write_text(json.dumps(asdict(measured), indent=1) + "\n", encoding="utf-8")
    else:
        measured = Measurement(**json.loads(given.measured.read_text(encoding="utf-8")))
    print(
        f"{measured.explainer} on {measured.processor}: {measured.rate:.1f} images per second of "
        f"{measured.cores:.2f} cores, {measured.per_core:.1f} per core\n"
    )
    cores = [split_pair(text) for text in given.machine or MACHINES]
    machines = [
        Machine(name, float(count) * measured.per_core, float(count) * given.euro_per_core_hour)
        for name, count in cores
    ]
    for name, text in map(split_pair, given.rate):
        rate, price = text.split(",")
        machines.append(Machine(name, float(rate), float(price)))
    print(render_machines(machine.make_row(given.plan) for machine in machines), end="\n\n")
    print(render_plan(measured, given.plan, given.euro_per_terabyte_month))
    return 0


def measure_run(run: Path, images: str, limit: int) -> Measurement:
    """Explain images, once for each way of storing maps; the rate is that of the first."""
    row: dict[str, float] = {}
    seconds: list[float] = []
    for map in MAPS:
        clock: list[float] = []  # the processor's, from when everything is open
        with tempfile.TemporaryDirectory() as folder:
            settings = BatchSettings(map=map, limit=limit)
            request = BatchRequest(
                ExplainerRef(run), images, Path(folder), settings, Workers(threads=1)
            )
            summary = run_batch(request, lambda *_, times=clock: times.append(time.process_time()))
        result, wall = summary.manifest, summary.times.wall
        row[map] = result["bytes"] / (result["images"] - result["errors"])
        seconds = seconds or [wall, clock[-1] - clock[0]]
    wall, worked = seconds
    return Measurement(
        processor=read_processor(),
        explainer=Path(result["explainer"]["classifier"]).stem,
        images=result["images"],
        rate=result["images"] / wall,
        cores=worked / wall,
        row=row,
    )


def render_machines(rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table of Markdown with a row for each machine."""
    heads = ("machine", "€ per hour", "images per hour", "images per €")
    heads += ("days of one machine", f"machines for {DAYS} days", "€ in all")
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render_plan(measured: Measurement, images: int, storage: float) -> str:
    """Return the number of shards, and a table of Markdown of the room they take.

    Args:
        measured: bytes of a row, by how maps are stored.
        images: number of images of the plan.
        storage: price in euros per terabyte and month.

    Returns:
        Text in Markdown.
    """
    heads = ("map", "bytes per row", f"TB for {images:,}", "€ per month", "GB per shard")
    lines = [heads, ("---",) * len(heads)]
    for name, size in measured.row.items():
        room = size * images / 1e12
        shard = size * SHARD / 1e9
        lines.append(
            (name, f"{size:,.0f}", f"{room:,.1f}", f"{room * storage:,.0f}", f"{shard:.2f}")
        )
    shards = -(-images // SHARD)
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{shards:,} shards of {SHARD:,} images\n\n{rows}"


def split_pair(text: str) -> tuple[str, str]:
    """Return the two sides of NAME=VALUE."""
    name, _, value = text.partition("=")
    return name, value


def read_processor() -> str:
    """Return the name of the processor, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    raise SystemExit(main())
