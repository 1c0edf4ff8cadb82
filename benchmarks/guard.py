"""What it costs to say whether an answer may be believed: beside the explanation, and in a server.

    python benchmarks/guard.py [--run RUN] [--batch 8] [--repeats 15] [--seconds 5] [--rounds 5]

An engine with a guard, the same engine without, and the classifier's forward pass take turns; the
price is the difference of the engines over the forward pass, as the median over the rounds. Then
two servers of the same explainer, one with the guard, take turns under a load that never ends.
`--run` names a run that holds its classifier; without it weights are random, which does not change
the time. The guard is fitted with the explainer, so that it judges the pass that is made anyway.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from multiprocessing.pool import Pool
from pathlib import Path

import torch
from timing import (
    Promise,
    format_times,
    make_untrained_explainer,
    open_timm,
    report_promises,
    time_in_turns,
)
from trials.load_generator import count_statuses, run_closed_loop, spawn_process
from trials.pictures import SIZE, make_jpegs
from trials.server_process import ServerProcess, run_server

from apercu.deploy.inference import open_engine
from apercu.deploy.inference.torch_engine import TorchEngine
from apercu.explainers.run_folder import load_explainer
from apercu.guard import Guard, fit_guard
from apercu.images.planted import Planted
from apercu.render import save_image, to_image

CLEAN_IMAGES, PICTURES = 60, 16
"""Images that the guard is fitted to, and pictures that are sent."""
WARM = 1.0
"""Seconds of load before anything is counted."""


def save_run(folder: Path) -> Path:
    """Write the light mask explainer of a MobileNetV2 with random weights, which it holds."""
    torch.manual_seed(0)
    make_untrained_explainer(open_timm("mobilenetv2_100", SIZE), "light").save_pretrained(folder)
    return folder


def fit_planted_guard(run: Path, out: Path) -> Guard:
    """Fit a guard to generated images, and write it."""
    explainer = load_explainer(run)
    classifier = explainer.own_classifier
    if classifier is None:
        raise SystemExit(f"{run}: expected a run that holds its classifier")
    planted = Planted(images=CLEAN_IMAGES, size=SIZE, objects=2, split="train")
    for number in range(CLEAN_IMAGES):  # without labels, which are those of other classes
        save_image(out.parent / "clean" / f"{number}.png", to_image(planted[number].picture))
    return fit_guard(classifier, out.parent / "clean", out, explainer=explainer)


def measure_price(run: Path, guard: Path, batch: int, repeats: int) -> Promise:
    """Measure what a check costs beside the explanation, in forward passes of the classifier."""
    engines = {"with": open_engine(run, guard=guard), "without": open_engine(run)}
    engine = engines["without"]
    assert isinstance(engine, TorchEngine)
    classifier = engine.predictor.classifier
    images = torch.rand(batch, engine.input.channels, *engine.input.size)

    def run_classifier() -> None:
        with torch.inference_mode():
            classifier(images)

    calls = {name: lambda engine=engine: engine(images) for name, engine in engines.items()}
    rounds = time_in_turns({**calls, "forward": run_classifier}, repeats, images.device)
    for name, seconds in rounds.items():
        print(f"  {name:<8} {format_times(seconds)}, {batch} images")
    prices = [
        (checked - plain) / base
        for checked, plain, base in zip(
            rounds["with"], rounds["without"], rounds["forward"], strict=True
        )
    ]
    what = f"check ÷ the classifier's forward, {batch} images together"
    return Promise(what, statistics.median(prices), 0.2)


def measure_rate(
    server: ServerProcess, clients: Pool, pictures: Sequence[bytes], batch: int, seconds: float
) -> float:
    """Measure images per second of a server that is never idle."""
    replies = clients.apply(run_closed_loop, (server.port, pictures, 3 * batch, seconds + WARM))
    if set(counted := count_statuses(replies)) != {200}:
        raise RuntimeError(f"expected answers only, got {counted}")
    started = min(reply.started for reply in replies) + WARM
    ended = [end for reply in replies if (end := reply.started + reply.seconds) > started]
    return len(ended) / (max(ended) - started)


def measure_server(run: Path, guard: Path, given: argparse.Namespace) -> Promise:
    """Measure the throughput of a server with a guard over that of one without."""
    pictures, ratios = make_jpegs(PICTURES), []
    words = ("--batch", str(given.batch))
    with (
        spawn_process() as clients,
        run_server(run, *words, "--guard", str(guard)) as guarded,
        run_server(run, *words) as plain,
    ):
        for _ in range(given.rounds):
            rates = [
                measure_rate(server, clients, pictures, given.batch, given.seconds)
                for server in (guarded, plain)
            ]
            print(f"  images per second: with {rates[0]:6.2f}, without {rates[1]:6.2f}")
            ratios.append(rates[0] / rates[1])
    return Promise(
        "throughput of a server with ÷ without a guard", statistics.median(ratios), 0.85, least=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = given.run or save_run(Path(folder) / "run")
        guard = Path(folder) / "guard"
        print(f"looks at {', '.join(fit_planted_guard(run, guard).record.signals)}")
        promises = [measure_price(run, guard, batch, given.repeats) for batch in (1, given.batch)]
        promises.append(measure_server(run, guard, given))
    print(f"{torch.get_num_threads()} threads")
    return report_promises(promises)


if __name__ == "__main__":
    raise SystemExit(main())
