"""Frames per second of overlay videos: 720p, decoded, explained, drawn and encoded again.

    python benchmarks/video.py [--threads 2] [--frames 300] [--repeats 3] [--memory]

A synthetic clip pans over the planted images, with sound. It is explained by the light explainer of
a MobileNetV2 (random weights, which do not change the time) in ONNX Runtime, in float32 and in
8 bits, as `apercu video` does it. Each stage is also run alone, and its share is one of processor
time, since the stages overlap. `--memory` also explains a clip of 10 seconds and one of
5 minutes, and compares the most memory that each took.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import av
import numpy as np
import onnxruntime
import torch
from PIL import Image
from timing import CPU, SIZE, Promise, make_untrained_explainer, open_timm, report_promises

from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.outputs import SOFTMAX
from apercu.deploy.export.graphs import ClassesGraph, CombinedGraph, MaskGraph
from apercu.deploy.export.precision import convert_graph
from apercu.deploy.export.tracing import Traceable, open_session, write_onnx
from apercu.deploy.inference import ExplainerInfo, InferenceEngine
from apercu.deploy.inference.onnx_engine import OnnxEngine
from apercu.deploy.video import VideoSettings, open_video, write_video
from apercu.deploy.video.frame_explainer import FrameExplainer, OverlayContent, StableClass
from apercu.deploy.video.motion import MapSmoother
from apercu.deploy.video.overlay import FrameOverlay
from apercu.deploy.video.source import VideoPicture
from apercu.deploy.video.writer import FORMATS, VideoWriter
from apercu.evaluation.cost import track_peak_memory
from apercu.images import open_images
from apercu.networks.graph_encoder import EncoderWithHead

WIDTH, HEIGHT, RATE, SOUND = 1280, 720, 25, 48_000
SHORT, LONG = 10, 300
"""Seconds of the clips whose memory is compared."""
SAMPLE = 50
"""Frames that each stage is timed with."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="also compare memory")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        clip = write_clip(folder / "clip.mp4", given.frames / RATE)
        graphs = write_graphs(folder)
        promises = []
        for name, graph in graphs.items():
            bench = VideoBenchmark(open_graph(graph, given.threads), clip, folder)
            promises.append(bench.measure_rate(name, given.repeats))
            bench.time_stages()
        if given.memory:
            promises.append(
                measure_growth(open_graph(graphs["int8-static"], given.threads), folder)
            )
    print(f"onnxruntime {onnxruntime.__version__}, PyAV {av.__version__}, {given.threads} threads")
    return report_promises(promises)


@dataclass(frozen=True)
class VideoBenchmark:
    """One engine on one clip.

    Attributes:
        engine: engine that explains the frames.
        clip: file of the clip.
        folder: folder of what is written.
    """

    engine: InferenceEngine
    clip: Path
    folder: Path

    def measure_rate(self, name: str, repeats: int) -> Promise:
        """Measure frames per second from file to file, the median of some repeats."""
        rates, busy = [], []
        for _ in range(repeats):
            out = self.folder / "out.mp4"
            start = time.process_time()
            done = write_video(self.engine, open_video(str(self.clip)), out, VideoSettings())
            busy.append((time.process_time() - start) / done.frames)
            rates.append(done.frames / done.wall_seconds)
            out.unlink()
        print(
            f"{name}: {', '.join(f'{rate:.1f}' for rate in rates)} frames per second; "
            f"{statistics.median(busy) * 1e3:.1f} ms of processor time per frame"
        )
        words = f"720p, {name}: frames per second"
        return Promise(words, statistics.median(rates), RATE, least=True)

    def time_stages(self) -> None:
        """Print the processor time of each stage alone, per frame."""
        source = open_video(str(self.clip))
        frames: list[VideoPicture] = []
        explain_frame = FrameExplainer(self.engine, StableClass(), MapSmoother(0.2))
        draw_overlay = FrameOverlay(source.frame_format)
        contents: list[OverlayContent] = []
        drawn: list[av.VideoFrame] = []

        def decode() -> None:
            items = (item for item in source.read_items() if isinstance(item, VideoPicture))
            frames.extend(item for item, _ in zip(items, range(SAMPLE), strict=False))

        def explain() -> None:
            contents.extend(map(explain_frame, frames))

        def draw() -> None:
            for frame, one in zip(frames, contents, strict=True):
                drawn.append(draw_overlay(frame.picture, one))

        def encode() -> None:
            out = self.folder / "stage.mp4"
            with VideoWriter(out, FORMATS[".mp4"], source) as writer:
                for picture in drawn:
                    writer.write_frame(picture)
            out.unlink()

        times = {stage.__name__: time_processor(stage) for stage in (decode, explain, draw, encode)}
        total = sum(times.values())
        for name, seconds in times.items():
            milliseconds, share = seconds / SAMPLE * 1e3, seconds / total
            print(f"  {name:<10} {milliseconds:7.2f} ms per frame {share:6.0%}")


def time_processor(stage: Callable[[], None]) -> float:
    """Return the processor time of a stage in seconds, of all threads."""
    start = time.process_time()
    stage()
    return time.process_time() - start


def write_graphs(folder: Path) -> dict[str, Path]:
    """Write prediction and map as one graph in two precisions, and a graph of further classes.

    Args:
        folder: folder of the graphs; the one of further classes is `classes.onnx`.

    Returns:
        The graphs that predict, by precision.
    """
    explainer = make_untrained_explainer(open_timm("mobilenetv2_100", SIZE), "light")
    read = EncoderWithHead(explainer.network.encoder)
    graph, classes = (
        CombinedGraph(MaskGraph(explainer.network), read),
        ClassesGraph(explainer.network),
    )
    spec = explainer.classifier_info.input
    exact = write_onnx(Traceable.for_images(graph, graph.outputs, spec), folder / "float32.onnx")
    write_onnx(Traceable.for_classes(classes, classes.outputs, spec), folder / "classes.onnx")
    noise = torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    small = convert_graph(exact, "int8-static", folder / "int8.onnx", list(noise.split(4)))
    return {"float32": exact, "int8-static": small}


def open_graph(graph: Path, threads: int) -> InferenceEngine:
    """Open an exported graph, and that of further classes beside it, with a number of threads."""
    session = open_session(graph, threads, spin=False)
    info = ExplainerInfo(
        runtime="onnxruntime", run="", classifier="", fingerprint="", read_by="classifier"
    )
    names = ClassNames.make_numbered(session.get_outputs()[0].shape[1])
    open_classes = cache(
        partial(open_session, graph.with_name("classes.onnx"), threads, spin=False)
    )
    spec = InputSpec(size=(SIZE, SIZE))
    return OnnxEngine(info, spec, names, SOFTMAX, session, open_classes)


def write_clip(path: Path, seconds: float) -> Path:
    """Write a clip that pans over planted images, with a tone."""
    mosaic = make_mosaic()
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=SOUND)
        for number in range(round(seconds * RATE)):
            left = 2 * number % (mosaic.shape[1] - WIDTH)
            pixels = np.ascontiguousarray(mosaic[:HEIGHT, left : left + WIDTH])
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(audio.encode(make_tone(number)))
        container.mux([*video.encode(None), *audio.encode(None)])
    return path


def make_mosaic() -> np.ndarray:
    """Return planted images side by side, larger than a frame, `height × width × 3`, uint8."""
    images = open_images("planted:size=128,images=16,classes=4")
    tiles = [(images[n].picture.permute(1, 2, 0).numpy() * 255).astype(np.uint8) for n in range(16)]
    large = [np.asarray(Image.fromarray(tile).resize((360, 360))) for tile in tiles]
    return np.concatenate([np.concatenate(large[:8], 1), np.concatenate(large[8:], 1)], 0)


def make_tone(number: int) -> av.AudioFrame:
    """Return the sound of one frame, given its number."""
    count = SOUND // RATE
    times = (np.arange(count) + number * count) / SOUND
    frame = av.AudioFrame.from_ndarray(
        np.sin(2 * np.pi * 440 * times).astype(np.float32)[None], "fltp", "mono"
    )
    frame.sample_rate, frame.pts = SOUND, number * count
    return frame


def measure_growth(engine: InferenceEngine, folder: Path) -> Promise:
    """Measure the memory that a long clip takes over that of a short one.

    Memory is the largest during the work, above what was there before.
    """
    results = []
    for seconds in (SHORT, LONG):
        clip, out = write_clip(folder / f"{seconds}.mp4", seconds), folder / "out.mkv"
        with track_peak_memory(CPU) as usage:
            write_video(engine, open_video(str(clip)), out, VideoSettings())
        out.unlink()
        results.append(usage.peak_mb or float("nan"))
        print(f"a clip of {seconds} s: {results[-1]:.0f} MB at most")
    return Promise(f"memory of {LONG} s ÷ memory of {SHORT} s", results[1] / results[0], 1.2)


if __name__ == "__main__":
    raise SystemExit(main())
