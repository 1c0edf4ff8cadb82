"""The images of a task, as the networks see them, and the features of frozen networks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from chains import Chain
from tasks import CLASSES, DATA, ELSEWHERE, NIH, open_task, open_unlabelled
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.distillation_data import stack_images
from apercu.images import ImageSource
from apercu.io import write_file
from apercu.learning.data import prepare_images
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Task
from apercu.learning.recipes.registry import parse_recipes
from apercu.learning.settings import InputChoice
from apercu.learning.splits import split_by_class
from apercu.learning.start import open_start

UNLABELLED = 1024
"""Most images without labels that a chain sees."""


@dataclass(eq=False)
class Laboratory:
    """A task with its images, as the networks see them, and the features of frozen networks.

    Args:
        name: name of the task.
        out: the folder of the study.
    """

    name: str
    out: Path
    channels: int = 3

    def __post_init__(self) -> None:
        self.learn, self.test = open_task(self.name, self.out)
        self.prepared: dict[str, tuple[Tensor, Tensor]] = {}
        self.features: dict[str, tuple[Tensor, Tensor]] = {}

    def open(self, chain: Chain, seed: int) -> tuple[Classifier, Tensor, Tensor]:
        """Return the network that a chain begins with, and all images as it takes them."""
        spec = {
            "imagenet": "ready:efficientnet_lite0",
            "mobilenetv2": str(DATA / "models" / "mobilenetv2_100.json"),
            "pretraining": str(self.find_pretraining()),
            "scratch": "timm/resnet10t",
            "small": str(Path(__file__).with_name("low_complexity.json")),
        }[chain.start]
        is_raw = self.name in CLASSES
        choice = InputChoice(size=chain.size, stretch="arcsinh" if is_raw and chain.size else None)
        start = open_start(spec, choice, self.open_source, seed, scratch=chain.start == "scratch")
        look = start.network.input
        key = f"{look.channels} {look.size} {look.resize} {look.stretch}"
        if key not in self.prepared:
            both = self.learn, self.test
            if start.channels != self.channels:
                both = open_task(self.name, self.out, start.channels)
            images = [prepare_images(part.source, start)[1] for part in both]
            learn, test = (stack_images(each, torch.arange(len(each))).half() for each in images)
            self.prepared = {key: (learn, test)}  # one at a time, for the memory
        return start, *self.prepared[key]

    def draw_unlabelled(self, start: Classifier, learn: Tensor, chosen: Sequence[int]) -> Tensor:
        """Return images without labels: the others to learn from, or those of another domain."""
        elsewhere = open_unlabelled(self.name, start.channels)
        if elsewhere is not None:
            images = prepare_images(elsewhere, start)[1]
            return stack_images(images, torch.arange(min(UNLABELLED, len(images)))).float()
        return draw_others(learn, chosen)

    def open_source(self, channels: int) -> ImageSource:
        """Return the images to learn from with a number of channels."""
        if channels == self.channels:
            return self.learn.source
        return open_task(self.name, self.out, channels)[0].source

    def find_pretraining(self) -> Path:
        """Return the card of the task's pretrained network."""
        name = {**dict.fromkeys(CLASSES, "ztf"), NIH: "films", ELSEWHERE: "films"}.get(
            self.name, self.name
        )
        return self.out / "pretrained" / name / "card.json"

    def compute_features(self, chain: Chain) -> tuple[Tensor, Tensor]:
        """Return the frozen network's features of all images, which are kept in the folder."""
        key = "-".join((chain.start, str(chain.size), *chain.changes))
        path = self.out / "features" / f"{self.name}-{key}.npz"
        if key not in self.features and path.is_file():
            with np.load(path) as archive:
                self.features[key] = tuple(  # type: ignore[assignment]
                    torch.from_numpy(archive[part]) for part in ("learn", "test")
                )
        if key not in self.features:
            start, *parts = self.open(chain, 0)
            network = make_network(start, 2, 0, scratch=False).eval()
            task = self.describe_start(start, parts[0])
            for recipe in parse_recipes(chain.changes):
                recipe.check_task(task)
                recipe.change_network(network, task)
            both = [embed(network.eval(), start, each) for each in parts]
            buffer = io.BytesIO()
            np.savez(buffer, learn=both[0].numpy(), test=both[1].numpy())
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, buffer.getvalue())
            self.features[key] = (both[0], both[1])
        return self.features[key]

    def describe_start(self, start: Classifier, images: Tensor) -> Task:
        """Return what recipes look at before the training, with all images to learn from."""
        learn = self.learn
        weights = torch.ones(2, len(learn.classes))
        return Task(
            start,
            learn.classes,
            learn.decision,
            images.float(),
            learn.targets,
            weights,
            None,
            self.out / "unused",
            pretrained=start,
        )

    def draw_labels(self, share: float, seed: int) -> list[int]:
        """Return the images whose labels may be seen."""
        if share == 1:
            return list(range(len(self.learn)))
        return split_by_class(self.learn, (share, 1 - share), 1000 + seed)[0]


def draw_others(images: Tensor, chosen: Sequence[int]) -> Tensor:
    """Return the first of the images, or features, that were not chosen."""
    others = torch.ones(len(images), dtype=torch.bool)
    others[list(chosen)] = False
    return images[others][:UNLABELLED].float()


@torch.no_grad()
def embed(network: LearningNetwork, start: Classifier, images: Tensor) -> Tensor:
    """Return the features of images in [0, 1]."""
    parts = (start.normalise(each.float()) for each in images.split(32))
    return torch.cat([network.compute_outputs(each).features for each in parts])
