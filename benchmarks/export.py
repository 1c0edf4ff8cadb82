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
from timing import (
    CPU,
    SIZE,
    Call,
    Clock,
    Promise,
    Rounds,
    compute_ratio,
    format_times,
    make_untrained_explainer,
    open_timm,
    report_promises,
    time_in_turns,
)
from torch import nn

from apercu.deploy.export.graphs import ClassesGraph, CombinedGraph, MaskGraph
from apercu.deploy.export.precision import convert_graph
from apercu.deploy.export.tracing import Traceable, open_session, write_onnx
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder

CLASSES = 100
EXPLAINERS = ("light", "lean")


class Prediction(nn.Module):
    """The prediction of a classifier alone: images to probabilities."""

    outputs = ("probabilities",)

    def __init__(self, encoder: GraphEncoder) -> None:
        super().__init__()
        self.read = EncoderWithHead(encoder)

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.read(images)[0].softmax(1),)


@dataclass(frozen=True)
class GraphBenchmark:
    """Graphs in a folder, and how they are run.

    Attributes:
        folder: folder of the graphs.
        threads: number of threads of each session.
        batch: images per call.
        repeats: number of rounds.
        clock: clock in seconds.
    """

    folder: Path
    threads: int
    batch: int
    repeats: int
    clock: Clock

    def write_graphs(self, name: str) -> None:
        """Write the graphs of a timm model, and of an explainer of each preset.

        Args:
            name: the model. Files are `NAME.onnx` for its prediction, and
                `NAME_PRESET_(mask|combined|classes).onnx`.
        """
        classifier = open_timm(name, SIZE)
        self._write(
            Prediction(GraphEncoder(classifier)),
            f"{name}.onnx",
            ClassifierInfo.from_classifier(classifier),
        )
        for preset in EXPLAINERS:
            explainer = make_untrained_explainer(classifier, preset)
            encoder, mask = explainer.network.encoder, MaskGraph(explainer.network)
            combined = CombinedGraph(mask, EncoderWithHead(encoder))
            classes = ClassesGraph(explainer.network)
            for kind, graph in (("mask", mask), ("combined", combined), ("classes", classes)):
                self._write(graph, f"{name}_{preset}_{kind}.onnx", explainer.classifier_info)

    def _write(self, graph: nn.Module, file: str, info: ClassifierInfo) -> None:
        """Trace a graph, and write it under a name."""
        make = Traceable.for_classes if isinstance(graph, ClassesGraph) else Traceable.for_images
        write_onnx(make(graph, graph.outputs, info.input), self.folder / file)

    def quantise(self, name: str) -> None:
        """Write `NAME_int8.onnx` from `NAME.onnx`, with ranges of noise."""
        exact, converted = (self.folder / f"{file}.onnx" for file in (name, f"{name}_int8"))
        noise = torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        convert_graph(exact, "int8-static", converted, list(noise.split(4)))

    def time_calls(self, calls: Mapping[str, Call]) -> Rounds:
        """Time all calls in turn, and print their seconds."""
        rounds = time_in_turns(calls, self.repeats, CPU, self.clock)
        for name, seconds in rounds.items():
            print(f"  {name:<28} {format_times(seconds)}")
        return rounds

    def make_call(self, name: str, targets: Sequence[int] | None = None) -> Call:
        """Return a call of a graph on random images; targets are classes of one image."""
        session = open_session(self.folder / f"{name}.onnx", self.threads)
        generator = np.random.default_rng(0)
        batch = self.batch if targets is None else 1
        inputs = {"images": generator.random((batch, 3, SIZE, SIZE), np.float32)}
        if len(session.get_inputs()) > 1:
            chosen = [-1] * batch if targets is None else targets
            inputs["targets"] = np.array(chosen, np.int64)
        return partial(session.run, None, inputs)


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
        bench = GraphBenchmark(Path(folder), given.threads, given.batch, given.repeats, clock)
        for name in ("mobilenetv2_100", "resnet50"):
            bench.write_graphs(name)
        promises = []
        for preset in EXPLAINERS:
            bench.quantise(f"mobilenetv2_100_{preset}_mask")
            promises += [
                *measure_maps(bench, preset),
                *measure_combined(bench, preset),
                *measure_classes(bench, preset),
            ]
    print(f"onnxruntime {onnxruntime.__version__}, {given.threads} threads, batch {given.batch}")
    return report_promises(promises)


def measure_maps(bench: GraphBenchmark, preset: str) -> list[Promise]:
    """Measure maps per second and their time over a ResNet-50's, in float32 and in 8 bits."""
    mask = f"mobilenetv2_100_{preset}_mask"
    names = ("resnet50", mask, f"{mask}_int8")
    rounds = bench.time_calls({name: bench.make_call(name) for name in names})
    results = []
    for name, words in ((names[1], preset), (names[2], f"{preset}, int8-static")):
        rate = bench.batch / statistics.median(rounds[name])
        results.append(Promise(f"{words}: maps per second", rate, 100, least=True))
        results.append(Promise(f"{words} ÷ ResNet-50", compute_ratio(rounds, name, names[0]), 0.15))
    return results


def measure_combined(bench: GraphBenchmark, preset: str) -> list[Promise]:
    """Measure the time of prediction and map over that of the prediction alone."""
    results = []
    for name, words, limit in (
        ("resnet50", "ResNet-50", 1.15),
        ("mobilenetv2_100", "MobileNetV2", 1.35),
    ):
        names = (name, f"{name}_{preset}_combined")
        rounds = bench.time_calls({one: bench.make_call(one) for one in names})
        times = compute_ratio(rounds, names[1], name)
        results.append(Promise(f"{preset}, {words}: with map ÷ prediction alone", times, limit))
    return results


def measure_classes(bench: GraphBenchmark, preset: str) -> list[Promise]:
    """Measure the time of maps of a hundred classes of an image over that of one class."""
    name = f"mobilenetv2_100_{preset}_classes"
    calls = {str(count): bench.make_call(name, range(count)) for count in (1, CLASSES)}
    times = compute_ratio(bench.time_calls(calls), str(CLASSES), "1")
    return [Promise(f"{preset}: {CLASSES} classes of an image ÷ one", times, 5)]


if __name__ == "__main__":
    raise SystemExit(main())
