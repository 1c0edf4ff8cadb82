"""Small clips, and an engine whose answers are known beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, final

import av
import numpy as np
import pytest
import torch
from av.codec.context import Flags
from PIL import Image

from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.names import TOP_INDEX
from apercu.classifiers.outputs import SOFTMAX
from apercu.deploy.inference import ExplainedBatch, ExplainerInfo, InferenceEngine
from apercu.types import Images, Targets

RATE, SOUND = 25, 48_000


@final
@dataclass(frozen=True, eq=False)
class KnownEngine(InferenceEngine):
    """The map is the brightness of the image; class 1 is seen in what is bright, else class 0.

    Attributes:
        asked: the targets of all calls.
        pause: seconds that each call waits.
    """

    asked: list[int] = field(default_factory=list)
    pause: float = 0.0

    def predict_logits(
        self, images: Images, targets: Targets | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        result = self(images)
        return result.probabilities.log(), [result.maps]

    def compute_masks(self, features: list[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        return features[0][:, None].expand(-1, targets.shape[1], -1, -1)

    def judge(
        self,
        images: Images,
        logits: torch.Tensor,
        features: list[torch.Tensor],
        masks: torch.Tensor | None = None,
    ) -> None:
        return None

    def __call__(self, images: Images, target: int = TOP_INDEX) -> ExplainedBatch:
        self.asked.append(target)
        time.sleep(self.pause)
        bright = images.numpy().mean(dtype=np.float32)
        probabilities = torch.tensor([[1 - bright, bright]])
        targets = probabilities.argmax(1) if target == TOP_INDEX else torch.tensor([target])
        return ExplainedBatch(images.mean(1), targets, probabilities)


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """A smooth picture with structure everywhere, larger than a clip that pans over it."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((320, 192), Image.Resampling.BICUBIC))


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """Writes a clip of pictures, one per time step, the last for longer where asked, with sound."""

    def write(
        pictures: Sequence[np.ndarray],
        name: str = "in.mp4",
        *,
        times: Sequence[int] | None = None,
        sound: str | None = None,
        codec: str = "libx264",
        pixels: str = "yuv420p",
        rotation: int = 0,
        lasts: int = 1,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=RATE, options=_options(codec))
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt, stream.codec_context.time_base = pixels, Fraction(1, RATE)
            stream.codec_context.flags |= Flags.frame_duration
            if rotation:
                stream.set_display_rotation(rotation)
            heard: Any = container.add_stream(sound, rate=SOUND) if sound else None
            times = times or range(len(pictures))
            last = times[-1] + lasts
            for when, picture in zip(times, pictures, strict=True):
                layout = "rgba" if picture.shape[2] == 4 else "rgb24"
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), layout)
                frame = frame.reformat(format=pixels)
                frame.pts, frame.time_base = when, Fraction(1, RATE)
                frame.duration = lasts if when == times[-1] else 1
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if heard:
                tone = _tone(heard, last / RATE)
                container.mux(heard.encode(tone))
                container.mux(heard.encode(None))
        return path

    return write


def _options(codec: str) -> dict[str, str]:
    return {"crf": "4", "preset": "ultrafast"} if codec.startswith("libx264") else {}


def _tone(stream: Any, seconds: float) -> av.AudioFrame:
    places = np.arange(round(SOUND * seconds)) / SOUND
    wave = (0.3 * np.sin(2 * np.pi * 440 * places)).astype(np.float32)[None]
    frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
    frame.sample_rate, frame.pts = SOUND, 0
    return frame


class Player:
    """What can be seen and heard of a file."""

    def pictures(self, path: Path) -> list[np.ndarray]:
        """All frames in red, green and blue."""
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    def times(self, path: Path) -> list[float]:
        """When all frames are shown, in seconds."""
        with av.open(str(path)) as container:
            return [round(frame.time, 4) for frame in container.decode(video=0)]

    def length(self, path: Path) -> float:
        """Until its last frame is no longer shown, in seconds."""
        with av.open(str(path)) as container:
            return float(container.duration / 1e6)

    def sounds(self, path: Path) -> tuple[str, list[bytes]]:
        """Codec and packets of the first stream of sound."""
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            packets = [bytes(one) for one in container.demux(stream) if one.size]
            return stream.codec_context.codec.canonical_name, packets


@pytest.fixture
def player() -> Player:
    return Player()


@pytest.fixture
def engine() -> KnownEngine:
    about = ExplainerInfo(
        runtime="known", run="", classifier="", fingerprint="", read_by="classifier"
    )
    names = ClassNames.of(("night, dark", "day"))
    return KnownEngine(about, InputSpec(size=(32, 32)), names, SOFTMAX)
