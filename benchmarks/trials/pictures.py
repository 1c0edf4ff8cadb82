"""A run folder with random weights, pictures, and the right answers for them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import make_untrained_explainer, open_timm

from apercu.deploy.serving.requests import ExplainRequest
from apercu.deploy.serving.responses import ExplainResponse
from apercu.deploy.serving.worker import ImageWorker, WorkerSetup, open_explainer
from apercu.explainers.mask.network import MaskNetwork
from apercu.images.planted import Planted

SIZE, SIDE = 224, 256
"""Pixels of the network's input, and of the pictures' sides."""
PIXELS = 50_000_000
PROBABILITY, GREY = 1e-3, 2
"""How far probabilities and pixels of maps may be from the right ones: batches round otherwise."""


def save_untrained_run(folder: Path, seed: int = 0, size: int = SIZE) -> Path:
    """Write the light mask explainer of a MobileNetV2, with random weights and maps of contrast."""
    torch.manual_seed(seed)
    explainer = make_untrained_explainer(open_timm("mobilenetv2_100", size), "light")
    network = explainer.network
    torch.nn.init.normal_(network.decoder.head.weight)
    torch.nn.init.zeros_(network.decoder.head.bias)
    planted = Planted(images=8, size=size, objects=2, split="train", seed=seed)
    _set_norms(network, torch.stack([planted[number].picture for number in range(8)]))
    explainer.save_pretrained(folder)
    return folder


@torch.no_grad()
def _set_norms(network: MaskNetwork, images: torch.Tensor) -> None:
    """Set the statistics of batch norms from images, so that images make a difference."""
    norms = [one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    for one in norms:
        one.reset_running_stats()
        one.momentum, one.training = None, True
    network(images, torch.arange(len(images)))
    for one in norms:
        one.training = False


def make_jpegs(count: int, seed: int = 0) -> list[bytes]:
    """Return planted pictures as JPEG files."""
    planted = Planted(images=count, size=SIDE, objects=2, split="test", seed=seed)
    results = []
    for number in range(count):
        pixels = planted[number].picture.permute(1, 2, 0).mul(255).round().byte().numpy()
        results.append(encode(pixels, "JPEG", quality=90))
    return results


def encode(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    """Return an image as a file of a kind that Pillow writes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class BareRuntime:
    """The steps of a worker in a loop, without a server."""

    worker: ImageWorker

    @classmethod
    def open(cls, run: Path, threads: int) -> BareRuntime:
        """Open the explainer of a run folder, for so many threads of PyTorch."""
        torch.set_num_threads(threads)
        explainer = open_explainer(WorkerSetup(run, None, PIXELS))
        explainer.warm_up()
        return cls(ImageWorker(explainer, PIXELS))

    def explain(self, pictures: Sequence[bytes]) -> list[ExplainResponse]:
        """Decode pictures, explain them together and write their responses."""
        prepared = [self.worker.prepare(ExplainRequest(picture)) for picture in pictures]
        return [self.worker.write(explained) for explained in self.worker.explain(prepared)]


@dataclass
class ExpectedAnswers:
    """The right answers for some pictures.

    Attributes:
        answers: one for each picture: index of the class, its probability, the map.
        checked: pairs of picture and body that are right: equal ones are not compared again.
    """

    answers: list[tuple[int, float, np.ndarray]]
    checked: set[tuple[int, bytes]] = field(default_factory=set)

    @classmethod
    def from_run(cls, run: Path, pictures: list[bytes]) -> ExpectedAnswers:
        """Compute the right answers with the explainer itself, picture by picture.

        Raises:
            ValueError: two pictures have answers that a wrong map could pass for.
        """
        runtime = BareRuntime.open(run, 1)
        responses = []
        for picture in pictures:
            [response] = runtime.explain([picture])
            responses.append(_read(response.body))
        key = cls(responses)
        for index, answer in enumerate(responses):
            if any(
                key.is_answer_of(other, answer) for other in range(len(responses)) if other != index
            ):
                raise ValueError("two pictures have the same answer: take another --run or --seed")
        return key

    def is_right(self, picture: int, body: bytes) -> bool:
        """Whether a body is the answer for this picture."""
        if (picture, body) not in self.checked:
            try:
                if not self.is_answer_of(picture, _read(body)):
                    return False
            except (ValueError, KeyError, IndexError, OSError):
                return False
            self.checked.add((picture, body))
        return True

    def is_answer_of(self, picture: int, answer: tuple[int, float, np.ndarray]) -> bool:
        """Whether an answer is that of a picture, but for rounding."""
        index, probability, map = self.answers[picture]
        if answer[0] != index or abs(answer[1] - probability) > PROBABILITY:
            return False
        return answer[2].shape == map.shape and bool(np.abs(answer[2] - map).max() <= GREY)


def _read(body: bytes) -> tuple[int, float, np.ndarray]:
    """Return class index, probability and map of a response."""
    [answer] = json.loads(body)["answers"]
    grey = Image.open(io.BytesIO(base64.b64decode(answer["map"]["png"])))
    return answer["index"], answer["probability"], np.asarray(grey).astype(np.int16)
