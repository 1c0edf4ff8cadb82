"""Small networks and tasks on which recipes are tried."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from apercu import open_images
from apercu.classifiers import Classifier, InputSpec
from apercu.learning.data import read_labels_of, weigh_classes
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Task, TrainingStep
from apercu.learning.training import LearningTraining
from apercu.pretraining.backbone import open_backbone

PLANTED = "planted:size=32,images=48,classes=3,difficulty=0"


@pytest.fixture(scope="session")
def backbone() -> Classifier:
    """A tiny network of timm with random weights, whose output is features."""
    spec = InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    return open_backbone("timm/test_resnet", spec, seed=0)


@pytest.fixture(scope="session")
def planted_task(backbone: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """The planted images with their labels, and the same images without."""
    labelled = read_labels_of(open_images(PLANTED))
    images = torch.stack([backbone.prepare(item.picture) for item in labelled.source])
    start = make_network(backbone, 3, 0, scratch=False)
    return Task(
        start.to_classifier(labelled.classes, labelled.decision),
        labelled.classes,
        labelled.decision,
        images,
        labelled.targets,
        weigh_classes(labelled.targets, labelled.decision, balanced=True),
        images,
        tmp_path_factory.mktemp("task"),
    )


@pytest.fixture
def build_network(backbone: Classifier) -> Callable[[], LearningNetwork]:
    """Makes a new network of the planted task, with the same weights each time."""
    return lambda: make_network(backbone, 3, 0, scratch=False)


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory: pytest.TempPathFactory, backbone: Classifier) -> Path:
    """The run folder of a classifier that was trained on planted images."""
    from apercu import train_classifier

    out = tmp_path_factory.mktemp("trained") / "run"
    train_classifier(PLANTED, backbone, out, steps=12, batch=8, recipes=["final_batch_norm"])
    return out


@pytest.fixture
def make_step() -> Callable[[LearningTraining], TrainingStep]:
    """Makes the first step of a training, of eight images."""

    def make(training: LearningTraining, progress: float = 0.0, seed: int = 0) -> TrainingStep:
        task, generator = training.task, torch.Generator().manual_seed(seed)
        stored = torch.stack([task.images[index] for index in range(8)])
        training.set_rates(progress)
        return TrainingStep(
            task,
            training.network.train(),
            training.draw_views(stored, generator),
            stored,
            task.targets[:8],
            training.draw_unlabelled(8, generator),
            generator,
            progress,
            training.draw_views,
        )

    return make


@pytest.fixture(scope="session")
def objects() -> ModuleType:
    """`objects.py` beside this file: images with a small object on a large background."""
    path = Path(__file__).with_name("objects.py")
    specification = importlib.util.spec_from_file_location("objects_to_find", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def write_images(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def write_table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def open_source(spec: object) -> object:
    return open_images(str(spec))


@pytest.fixture
def films(tmp_path: Path) -> Path:
    return write_images(tmp_path / "films", [f"{number}.png" for number in range(6)])
