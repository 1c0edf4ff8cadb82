"""What exported explainers cost in ONNX Runtime, beside the prediction alone.

    python benchmarks/export.py [--threads 2] [--repeats 15] [--batch 1] [--processor]

All calls of a row take turns, and its figure is the median ratio over the rounds. Beside other
work, threads that wait for each other tell little: `--processor --threads 1` counts the processor's
time instead, and maps per second of one core. Weights are random, which does not change the time;
the ranges of `int8-static` are those of noise. Explainers are those of the presets `light` and
`lean`, of a MobileNetV2 at 224 pixels where nothing else is said; combined graphs look through the
classifier's own backbone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from timing import Call, Clock, Rounds, by_turns, opened, ratio, shown
from torch import nn

from apercu.classifiers import Classifier
from apercu.deploy.export.graphs import ClassesGraph, CombinedGraph, MaskGraph
from apercu.deploy.export.precision import convert_graph
from apercu.deploy.export.tracing import Traceable, open_session, write_onnx
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.kind import build_mask_network
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder

SIZE, CLASSES = 224, 100
EXPLAINERS = ("light", "lean")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Promise:
    """What is promised of a ratio, or of maps per second.

    Attributes:
        what: in words.
        value: as measured.
        limit: at most, or at least where `least`.
        least: whether more is better.
    """

    what: str
    value: float
    limit: float
    least: bool = False

    @property
    def kept(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit

    def __str__(self) -> str:
        bound = f"at {'least' if self.least else 'most'} {self.limit:g}"
        return f"{self.what:<58} {self.value:8.2f}  {bound:<14} {'' if self.kept else 'MISSED'}"


class Prediction(nn.Module):
    """A classifier alone: images → probabilities."""

    outputs = ("probabilities",)

    def __init__(self, encoder: GraphEncoder) -> None:
        super().__init__()
        self.read = EncoderWithHead(encoder)

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.read(images)[0].softmax(1),)


@dataclass(frozen=True)
class Bench:
    """Graphs in a folder, run by so many threads.

    Attributes:
        folder: of the graphs.
        threads: of each session.
        batch: images per call.
        repeats: rounds.
        clock: what is counted.
    """

    folder: Path
    threads: int
    batch: int
    repeats: int
    clock: Clock

    def written(self, name: str) -> None:
        """`NAME.onnx`, and of each preset the graphs NAME_PRESET_(mask|combined|classes).onnx."""
        classifier = opened(name, SIZE)
        self._write(
            Prediction(GraphEncoder(classifier)),
            f"{name}.onnx",
            ClassifierInfo.from_classifier(classifier),
        )
        for preset in EXPLAINERS:
            explainer = untrained(classifier, preset)
            encoder, explaining = explainer.network.encoder, MaskGraph(explainer.network)
            combined = CombinedGraph(explaining, EncoderWithHead(encoder))
            many = ClassesGraph(explainer.network)
            for kind, graph in (("mask", explaining), ("combined", combined), ("classes", many)):
                self._write(graph, f"{name}_{preset}_{kind}.onnx", explainer.classifier_info)

    def _write(self, graph: nn.Module, file: str, passport: ClassifierInfo) -> None:
        make = Traceable.for_classes if isinstance(graph, ClassesGraph) else Traceable.for_images
        write_onnx(make(graph, graph.outputs, passport.input), self.folder / file)

    def quantised(self, name: str) -> None:
        """`NAME_int8.onnx` from `NAME.onnx`."""
        exact, converted = (self.folder / f"{file}.onnx" for file in (name, f"{name}_int8"))
        noise = torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        convert_graph(exact, "int8-static", converted, list(noise.split(4)))

    def turns(self, calls: Mapping[str, Call]) -> Rounds:
        """Run all calls by turns, and print their seconds."""
        rounds = by_turns(calls, self.repeats, CPU, self.clock)
        for name, seconds in rounds.items():
            print(f"  {name:<28} {shown(seconds)}")
        return rounds

    def call(self, name: str, targets: Sequence[int] | None = None) -> partial[object]:
        """One answer of a graph."""
        running = open_session(self.folder / f"{name}.onnx", self.threads)
        generator = np.random.default_rng(0)
        batch = self.batch if targets is None else 1
        given = {"images": generator.random((batch, 3, SIZE, SIZE), np.float32)}
        if len(running.get_inputs()) > 1:
            chosen = [-1] * batch if targets is None else targets
            given["targets"] = np.array(chosen, np.int64)
        return partial(running.run, None, given)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--processor", action="store_true", help="count the processor's time")
    given = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        clock = time.process_time if given.processor else time.perf_counter
        bench = Bench(Path(folder), given.threads, given.batch, given.repeats, clock)
        for name in ("mobilenetv2_100", "resnet50"):
            bench.written(name)
        promises = []
        for preset in EXPLAINERS:
            bench.quantised(f"mobilenetv2_100_{preset}_mask")
            promises += [*alone(bench, preset), *beside(bench, preset), *many(bench, preset)]
    print(f"onnxruntime {onnxruntime.__version__}, {given.threads} threads, batch {given.batch}")
    print(*promises, sep="\n")
    return 0 if all(promise.kept for promise in promises) else 1


def alone(bench: Bench, preset: str) -> list[Promise]:
    """A map per second, and over a ResNet-50 forward; in float32 and in 8 bits."""
    mask = f"mobilenetv2_100_{preset}_mask"
    names = ("resnet50", mask, f"{mask}_int8")
    rounds = bench.turns({name: bench.call(name) for name in names})
    results = []
    for name, words in ((names[1], preset), (names[2], f"{preset}, int8-static")):
        rate = bench.batch / statistics.median(rounds[name])
        results.append(Promise(f"{words}: maps per second", rate, 100, least=True))
        results.append(Promise(f"{words} ÷ ResNet-50", ratio(rounds, name, names[0]), 0.15))
    return results


def beside(bench: Bench, preset: str) -> list[Promise]:
    """Prediction and map over the prediction alone."""
    results = []
    for name, words, limit in (
        ("resnet50", "ResNet-50", 1.15),
        ("mobilenetv2_100", "MobileNetV2", 1.35),
    ):
        names = (name, f"{name}_{preset}_combined")
        rounds = bench.turns({one: bench.call(one) for one in names})
        times = ratio(rounds, names[1], name)
        results.append(Promise(f"{preset}, {words}: with map ÷ prediction alone", times, limit))
    return results


def many(bench: Bench, preset: str) -> list[Promise]:
    """Maps of a hundred classes of an image over one."""
    name = f"mobilenetv2_100_{preset}_classes"
    calls = {str(count): bench.call(name, range(count)) for count in (1, CLASSES)}
    times = ratio(bench.turns(calls), str(CLASSES), "1")
    return [Promise(f"{preset}: {CLASSES} classes of an image ÷ one", times, 5)]


def untrained(classifier: Classifier, preset: str) -> MaskExplainer:
    """The explainer of a preset."""
    settings, passport = MASK_PRESETS.presets[preset], ClassifierInfo.from_classifier(classifier)
    network = build_mask_network(settings, passport, classifier)
    return MaskExplainer(network, passport, settings, {})


if __name__ == "__main__":
    raise SystemExit(main())
