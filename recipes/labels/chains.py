"""Ways from few labels to a classifier: a network to begin with, and recipes."""

from __future__ import annotations

import copy
import io
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tasks import CLASSES, NIH, open_task
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from apercu.classifiers import Classifier, InputSpec, Network
from apercu.classifiers.distillation_data import stack_images
from apercu.images import ImageSource
from apercu.io import write_file
from apercu.learning.data import prepare_images, weigh_classes
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Recipe, Task, TrainingStep
from apercu.learning.recipes.registry import parse_recipes
from apercu.learning.results import compute_logits
from apercu.learning.settings import InputChoice, LearningSettings
from apercu.learning.splits import split_by_class
from apercu.learning.start import open_start
from apercu.learning.train import prepare_training
from apercu.learning.training import LabelledTrainingImages, LearningTraining

UNLABELLED = 1024
"""Most images without labels that a chain sees."""
IMAGENET_SIZE = 160
"""Side of the images, in pixels, of ImageNet's frozen network."""
FROZEN_BATCH, TUNED_BATCH = 32, 16


@dataclass(frozen=True)
class Chain:
    """One way from few labels to a classifier.

    Args:
        start: the network: `imagenet`, `pretraining`, `scratch` or `small`.
        recipes: recipes as people type them.
        frozen: whether the network does not change, but for its last layer.
        size: side of the images in pixels; that of the network when None.
        times: factor of the number of steps.
    """

    start: str
    recipes: tuple[str, ...] = ()
    frozen: bool = True
    size: int | None = None
    times: int = 1

    def count_steps(self, labels: int) -> int:
        """Return the steps of a training: of a last layer always as many, else at least 5 passes.

        Passes count up to 400 steps, which are fewer than 5 of the largest sets.
        """
        usual = 150 if self.frozen else min(400, max(120, 5 * labels // TUNED_BATCH))
        return self.times * usual


def list_chains() -> dict[str, Chain]:
    """Return all chains by name; those without a recipe are what the others are compared with."""
    imagenet = Chain("imagenet", size=IMAGENET_SIZE)
    pretraining = Chain("pretraining")
    small = Chain("small", frozen=False, size=64)
    scratch = Chain("scratch", frozen=False, size=64)
    chains = {
        "imagenet": imagenet,
        "pretraining": pretraining,
        "small": small,
        "scratch": scratch,
        "scratch, five times as long": replace(scratch, times=5),
        "imagenet, all layers": replace(imagenet, frozen=False, size=64),
        "pretraining, all layers": replace(pretraining, frozen=False),
    }
    static = "static_augmentation:copies=4"
    added = {
        "static": static,
        "final norm": "final_batch_norm",
        "graph": "graph_interpolation",
        "groups": "auxiliary_targets:combine=true",
        "born again": "distillation:reborn=true",
    }
    for name, recipe in added.items():
        chains[f"imagenet + {name}"] = replace(imagenet, recipes=(recipe,))
        chains[f"pretraining + {name}"] = replace(pretraining, recipes=(recipe,))
    further = {
        "small": {"static": static, "unsupervised": "unsupervised_loss"},
        "scratch": {"static": static, "mean teacher": "mean_teacher"},
        "imagenet, all layers": {},
        "pretraining, all layers": {"unsupervised": "unsupervised_loss"},
    }
    for start in ("imagenet, all layers", "pretraining, all layers"):
        further[start] |= {
            "graph": "graph_interpolation",
            "gradually": "gradual_unfreezing",
            "mean teacher": "mean_teacher",
            "mixmatch": "mixmatch",
        }
    for start, recipes in further.items():
        for name, recipe in recipes.items():
            chains[f"{start} + {name}"] = replace(chains[start], recipes=(recipe,))
    return chains


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

    def open_source(self, channels: int) -> ImageSource:
        """Return the images to learn from with a number of channels."""
        if channels == self.channels:
            return self.learn.source
        return open_task(self.name, self.out, channels)[0].source

    def find_pretraining(self) -> Path:
        """Return the card of the task's pretrained network."""
        name = {**dict.fromkeys(CLASSES, "ztf"), NIH: "films"}.get(self.name, self.name)
        return self.out / "pretrained" / name / "card.json"

    def compute_features(self, chain: Chain) -> tuple[Tensor, Tensor]:
        """Return the frozen network's features of all images, which are kept in the folder."""
        path = self.out / "features" / f"{self.name}-{chain.start}-{chain.size}.npz"
        if chain.start not in self.features and path.is_file():
            with np.load(path) as archive:
                self.features[chain.start] = tuple(  # type: ignore[assignment]
                    torch.from_numpy(archive[part]) for part in ("learn", "test")
                )
        if chain.start not in self.features:
            start, *parts = self.open(chain, 0)
            network = make_network(start, 2, 0, scratch=False).eval()
            both = [embed(network, start, each) for each in parts]
            buffer = io.BytesIO()
            np.savez(buffer, learn=both[0].numpy(), test=both[1].numpy())
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, buffer.getvalue())
            self.features[chain.start] = (both[0], both[1])
        return self.features[chain.start]

    def draw_labels(self, share: float, seed: int) -> list[int]:
        """Return the images whose labels may be seen."""
        if share == 1:
            return list(range(len(self.learn)))
        return split_by_class(self.learn, (share, 1 - share), 1000 + seed)[0]


@torch.no_grad()
def embed(network: LearningNetwork, start: Classifier, images: Tensor) -> Tensor:
    """Return the features of images in [0, 1]."""
    parts = (start.normalise(each.float()) for each in images.split(32))
    return torch.cat([network.compute_outputs(each).features for each in parts])


class FeatureHead(nn.Module):
    """A last layer on features that are given as images of one pixel.

    Args:
        features: number of features.
        classes: number of classes.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(features, features, 1, groups=features)
        self.features.weight.data.fill_(1)
        self.features.bias.data.zero_()  # type: ignore[union-attr]
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of features."""
        return self.head(self.features(images).flatten(1))


def make_head(features: Tensor, classes: int, seed: int) -> LearningNetwork:
    """Return a network from standardised features to logits, of which the last layer learns."""
    torch.manual_seed(seed)
    body = FeatureHead(features.shape[1], classes)
    flat = features.flatten(1)
    spec = InputSpec(
        channels=features.shape[1],
        size=(1, 1),
        mean=tuple(flat.mean(0).tolist()),
        std=tuple(flat.std(0).clamp(min=1e-3).tolist()),
    )
    start = Classifier(Network("memory:features", body, "features", spec, output="logits"))
    return LearningNetwork(body, start, "head", "features")


def train(
    network: LearningNetwork, task: Task, recipes: Sequence[Recipe], chain: Chain, rate: float
) -> LearningTraining:
    """Train a network by the recipes, with the steps of the library but without a run folder."""
    settings = LearningSettings()
    network.requires_grad_(True)
    if chain.frozen:
        network.body.features.requires_grad_(False)  # type: ignore[union-attr]
    training = prepare_training(network, task, recipes, settings)
    learnt = LabelledTrainingImages(task, training.added)
    keeps = chain.frozen or any(recipe.keeps_images for recipe in recipes)
    view = (lambda images, generator: images) if chain.frozen else training.draw_views
    steps = chain.count_steps(len(task.targets))
    optimiser = torch.optim.AdamW(training.parameter_groups(), rate, weight_decay=1e-2)
    schedule = OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    order = task.make_generator("order")
    batch = min(FROZEN_BATCH if chain.frozen else TUNED_BATCH, len(learnt))
    rows = list(iterate_rows(len(learnt), batch, steps, order))
    for number, chosen in enumerate(rows):
        generator = torch.Generator().manual_seed(task.seed * 100_003 + number)
        stored, targets = (
            torch.stack(each) for each in zip(*map(learnt.__getitem__, chosen), strict=True)
        )
        progress = number / steps
        if not chain.frozen:
            training.set_rates(progress)
        step = TrainingStep(
            task,
            network.train(),
            stored if keeps else view(stored, generator),
            stored,
            targets,
            training.draw_unlabelled(len(stored), generator),
            generator,
            progress,
            view,
        )
        torch.manual_seed(task.seed * 100_003 + number)
        loss = torch.stack([each.mean() for each in training.compute_terms(step).values()]).sum()
        optimiser.zero_grad()
        loss.backward()
        for group, factor in zip(optimiser.param_groups, training.rates, strict=True):
            group["lr"] *= factor
        optimiser.step()
        schedule.step()
        for recipe in recipes:
            recipe.finish_step(network, task, (number + 1) / steps)
    training.finish_network()
    return training


def iterate_rows(
    count: int, batch: int, steps: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Yield the images of each step; every image comes once before one comes again."""
    rows: list[int] = []
    for _ in range(steps):
        while len(rows) < batch:
            rows += torch.randperm(count, generator=generator).tolist()
        yield rows[:batch]
        rows = rows[batch:]


def describe_chain(chain: Chain, labels: int) -> dict[str, object]:
    """Return what a training of a chain depends on besides its seed, as JSON keeps it."""
    content = json.loads(json.dumps(asdict(chain))) | {"steps": chain.count_steps(labels)}
    del content["times"]  # the number of steps says it
    return content


def run_chain(laboratory: Laboratory, chain: Chain, share: float, seed: int) -> dict[str, object]:
    """Train one chain, and return the probabilities of the test images."""
    chosen = laboratory.draw_labels(share, seed)
    index = torch.tensor(chosen)
    learn = laboratory.learn
    targets = learn.targets[index]
    recipes = parse_recipes(chain.recipes)
    added: tuple[Tensor, Tensor] | None = None
    began = time.monotonic()
    if chain.frozen:
        images, test = laboratory.compute_features(chain)
        if any(recipe.name == "static_augmentation" for recipe in recipes):
            added = embed_views(laboratory, chain, chosen, recipes, seed)
            recipes = tuple(r for r in recipes if r.name != "static_augmentation")
        images, test = images[:, :, None, None], test[:, :, None, None]
        labelled = images[index] if added is None else torch.cat([images[index], added[0]])
        targets = targets if added is None else torch.cat([targets, added[1]])
        network = make_head(labelled, len(learn.classes), seed)
        rate = 3e-3
    else:
        start, images, test = laboratory.open(chain, seed)
        labelled, test = images[index].float(), test.float()
        network = make_network(
            start, len(learn.classes), seed, scratch=chain.start in ("scratch", "small")
        )
        rate = 1e-3
    others = torch.ones(len(images), dtype=torch.bool)
    others[index] = False
    pool = images[others][:UNLABELLED].float()
    start = network.to_classifier(learn.classes, learn.decision)
    network.requires_grad_(True)
    task = Task(
        Classifier(copy.deepcopy(start.network)),
        learn.classes,
        learn.decision,
        labelled,
        targets,
        weigh_classes(targets, learn.decision, balanced=True),
        pool if len(pool) else None,
        laboratory.out / "unused",
        seed,
    )
    train(network, task, recipes, chain, rate)
    logits = compute_logits(network.eval(), start, test)
    probabilities = learn.decision.probabilities(logits.double()).numpy()
    return {
        "probabilities": np.round(probabilities, 5).tolist(),
        "labels": len(chosen),
        "chain": describe_chain(chain, len(chosen)),
        "seconds": round(time.monotonic() - began, 2),
    }


def embed_views(
    laboratory: Laboratory,
    chain: Chain,
    chosen: Sequence[int],
    recipes: Sequence[Recipe],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return the frozen network's features of fixed views, and their targets."""
    start, images, _ = laboratory.open(chain, seed)
    index = torch.tensor(list(chosen))
    learn = laboratory.learn
    task = Task(
        start,
        learn.classes,
        learn.decision,
        images[index].float(),
        learn.targets[index],
        torch.ones(2, len(learn.classes)),
        None,
        laboratory.out / "unused",
        seed,
    )
    views = next(r for r in recipes if r.name == "static_augmentation").make_images(task)
    if views is None:
        raise ValueError("static_augmentation: expected images")
    network = make_network(start, 2, 0, scratch=False).eval()
    features = embed(network, start, torch.stack(list(views.images)))  # type: ignore[call-overload]
    return features[:, :, None, None], views.targets
