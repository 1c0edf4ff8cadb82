"""Which recipes help where labels are few: recipes × share of the labels, on the sky and on films.

    python recipes/labels/study.py train OUT [--tasks …] [--shares …] [--chains …] [--seeds N]
    python recipes/labels/study.py table OUT

OUT/data holds what `recipes/ztf/prepare.py` leaves, OUT/pretrained a network for each task. The
folder of all data is `APERCU_DATA`. Each chain is trained for every seed, which draws the labels
that it may see; all chains of a seed see the same ones. Networks that do not change compute their
features once. A finished training is not repeated, so an interrupted study goes on where it was.
The table pairs chains by seed and test image: ▲ and ▼ are differences beyond chance.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from apercu import open_images
from apercu.classifiers import Classifier, InputSpec, Network
from apercu.errors import ApercuError
from apercu.images import ImageSource
from apercu.images.source import ChosenImages
from apercu.io import write_file
from apercu.learning.data import LabelledSet, prepare_images, read_labels_of
from apercu.learning.measure import MEASURES, Predictions
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Recipe, Task, TrainingStep
from apercu.learning.recipes.registry import parse_recipes
from apercu.learning.results import compute_logits
from apercu.learning.settings import InputChoice, LearningSettings
from apercu.learning.splits import split_by_class
from apercu.learning.start import open_start
from apercu.learning.train import prepare_training, weigh_classes
from apercu.learning.training import LabelledTrainingImages, LearningTraining

DATA = Path(os.environ.get("APERCU_DATA", "../shared"))
SHARES = (0.05, 0.25, 0.01, 0.1, 1.0)
RESAMPLES = 200
CLASSES = {"ztf-real": "real", "ztf-star": "star"}
"""The column of the catalogue for the tasks on alerts."""
FOLDERS = {"galaxies": "star-galaxy", "films": "cxr-kermany"}
PARTS = ("train", "test")
UNLABELLED = 1024
"""Most images without labels that a chain sees."""


@dataclass(frozen=True)
class Chain:
    """One way from few labels to a classifier.

    Args:
        start: the network: `imagenet`, `pretraining`, `scratch` or `small`.
        recipes: recipes as people type them.
        frozen: whether the network does not change, but for its last layer.
        steps: steps of the training.
        size: side of the images in pixels; that of the network when None.
    """

    start: str
    recipes: tuple[str, ...] = ()
    frozen: bool = True
    steps: int = 150
    size: int | None = None


def list_chains(tuned: int = 60) -> dict[str, Chain]:
    """Return all chains by name; those without a recipe are what the others are compared with."""
    frozen = {
        "static": ("static_augmentation:copies=4",),
        "final norm": ("final_batch_norm",),
        "graph": ("graph_interpolation",),
        "groups": ("auxiliary_targets:combine=true",),
        "born again": ("distillation:reborn=true",),
    }
    chains = {
        "imagenet": Chain("imagenet", size=96),
        "pretraining": Chain("pretraining"),
        "scratch": Chain("scratch", frozen=False, steps=tuned, size=64),
        "pretraining, all layers": Chain("pretraining", frozen=False, steps=tuned),
        "imagenet, all layers": Chain("imagenet", frozen=False, steps=tuned, size=64),
    }
    for name, recipes in frozen.items():
        chains[f"imagenet + {name}"] = Chain("imagenet", recipes, size=96)
        chains[f"pretraining + {name}"] = Chain("pretraining", recipes)
    low = Chain("small", frozen=False, steps=tuned, size=64)
    chains["small"] = low
    chains["small + static"] = replace(low, recipes=frozen["static"])
    chains["small + unsupervised"] = replace(low, recipes=("unsupervised_loss",))
    chains["scratch + static"] = replace(chains["scratch"], recipes=frozen["static"])
    chains["pretraining, all layers + unsupervised"] = replace(
        chains["pretraining, all layers"], recipes=("unsupervised_loss",)
    )
    further = {
        "gradually": ("gradual_unfreezing",),
        "mean teacher": ("mean_teacher",),
        "mixmatch": ("mixmatch",),
    }
    for name, recipes in further.items():
        for start in ("pretraining, all layers", "imagenet, all layers"):
            chains[f"{start} + {name}"] = replace(chains[start], recipes=recipes)
    return chains


def open_task(name: str, out: Path, channels: int = 3) -> tuple[LabelledSet, LabelledSet]:
    """Open the images to learn from and the test images of a task, with objects or patients."""
    if name in CLASSES:
        labels = read_catalogue(out / "data" / "labels.csv", CLASSES[name])
        objects = read_objects()
        return (
            choose_labelled(out / "data" / "learn.npz", labels, objects),
            choose_labelled(out / "data" / "test.npz", labels, objects),
        )
    folder = DATA / "data" / FOLDERS[name]
    parts = [read_labels_of(open_images(folder / part, channels=channels)) for part in PARTS]
    if name == "films":
        with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
            patients = {row["file"]: row["patient"] for row in csv.DictReader(stream)}
        parts = [
            replace(each, groups=tuple(patients[f"{part}/{name}"] for name in each.source.names))
            for each, part in zip(parts, PARTS, strict=True)
        ]
    return parts[0], parts[1]


def read_catalogue(path: Path, column: str) -> dict[str, str]:
    """Return the label of each candidate that has one."""
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["candid"]: row[column] for row in csv.DictReader(stream) if row[column]}


def read_objects() -> dict[str, str]:
    """Return the object of each candidate."""
    from pyarrow import parquet

    path = DATA / "data" / "ztf" / "alerts.parquet"
    rows = parquet.read_table(path, columns=["candid", "objectId"]).to_pylist()
    return {str(row["candid"]): row["objectId"] for row in rows}


def choose_labelled(path: Path, labels: dict[str, str], objects: dict[str, str]) -> LabelledSet:
    """Return the stamps of a file that have a label."""
    from apercu.classifiers.decisions import ONE_CLASS

    source = open_images(path)
    with np.load(path) as archive:
        names = [str(each) for each in archive["candid"]]
    rows = [index for index, each in enumerate(names) if each in labels]
    classes = tuple(sorted(set(labels.values())))
    targets = torch.zeros(len(rows), len(classes))
    for row, index in enumerate(rows):
        targets[row, classes.index(labels[names[index]])] = 1
    groups = tuple(objects[names[index]] for index in rows)
    return LabelledSet(ChosenImages(source, tuple(rows)), classes, targets, ONE_CLASS, groups)


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
            learn, test = (torch.stack(list(each)).half() for each in images)
            self.prepared = {key: (learn, test)}  # one at a time, for the memory
        return start, *self.prepared[key]

    def open_source(self, channels: int) -> ImageSource:
        """Return the images to learn from with a number of channels."""
        if channels == self.channels:
            return self.learn.source
        return open_task(self.name, self.out, channels)[0].source

    def find_pretraining(self) -> Path:
        """Return the card of the task's pretrained network."""
        name = "ztf" if self.name in CLASSES else self.name
        return self.out / "pretrained" / name / "card.json"

    def compute_features(self, chain: Chain) -> tuple[Tensor, Tensor]:
        """Return the frozen network's features of all images, which are kept in the folder."""
        path = self.out / "features" / f"{self.name}-{chain.start}.npz"
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
    optimiser = torch.optim.AdamW(training.parameter_groups(), rate, weight_decay=1e-2)
    schedule = OneCycleLR(optimiser, rate, total_steps=chain.steps, pct_start=0.15)
    order = task.make_generator("order")
    batch = min(32 if chain.frozen else 16, len(learnt))
    rows = list(iterate_rows(len(learnt), batch, chain.steps, order))
    for number, chosen in enumerate(rows):
        generator = torch.Generator().manual_seed(task.seed * 100_003 + number)
        stored, targets = (
            torch.stack(each) for each in zip(*map(learnt.__getitem__, chosen), strict=True)
        )
        progress = number / chain.steps
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
            recipe.finish_step(network, task, (number + 1) / chain.steps)
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


def find_result(out: Path, task: str, share: float, chain: str, seed: int) -> Path:
    """Return the file of one training's result."""
    name = chain.replace(" ", "-").replace(",", "")
    return out / "trainings" / task / f"{share:g}" / name / f"seed-{seed}.json"


def train_all(
    out: Path, tasks: Sequence[str], shares: Sequence[float], names: Sequence[str], seeds: int
) -> None:
    """Train what is not finished: share by share, chain by chain, task by task."""
    chains = list_chains()
    laboratories: dict[str, Laboratory] = {}
    for share in shares:
        for name in names:
            for task in tasks:
                for seed in range(seeds):
                    path = find_result(out, task, share, name, seed)
                    if path.is_file():
                        continue
                    if task not in laboratories:
                        laboratories[task] = Laboratory(task, out)
                    try:
                        result = run_chain(laboratories[task], chains[name], share, seed)
                    except ApercuError as error:
                        print(f"{task} {share:g} {name}: {error}", flush=True)
                        break
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_file(path, json.dumps(result) + "\n")
                    print(f"{task} {share:g} {name} {seed}: {result['seconds']} s", flush=True)


def make_table(out: Path, tasks: Sequence[str], shares: Sequence[float], seeds: int) -> None:
    """Write results.json and table.md of all trainings that are finished for every seed."""
    rows, lines = [], []
    for task in tasks:
        if not (out / "trainings" / task).is_dir():
            continue
        test = open_task(task, out)[1]
        for share in shares:
            results: dict[str, list[dict[str, object]]] = {}
            for name in list_chains():
                paths = [find_result(out, task, share, name, seed) for seed in range(seeds)]
                if all(path.is_file() for path in paths):
                    results[name] = [json.loads(path.read_text()) for path in paths]
            if results:
                measured = compare_chains(results, test)
                rows += [
                    {"task": task, "share": share, "chain": name, **facts, **figures}
                    for name, figures in measured.items()
                    for facts in [{"labels": results[name][0]["labels"], "seeds": seeds}]
                ]
                lines += format_table(task, results, measured)
    write_file(out / "results.json", json.dumps(rows, indent=1) + "\n")
    write_file(out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


REFERENCES = {"scratch": "S", "small": "K", "imagenet": "I", "pretraining": "P"}
"""The chains that all others are compared with, and their letters in the table."""
FIGURES = ("auroc", "balanced_accuracy")


def compare_chains(
    results: dict[str, list[dict[str, object]]], test: LabelledSet
) -> dict[str, dict[str, object]]:
    """Return the figures of each chain with intervals, and its differences from the references.

    Seeds and objects of the test are resampled together for all chains.
    """
    units: dict[str, list[int]] = {}
    for row, unit in enumerate(test.units):
        units.setdefault(unit, []).append(row)
    members = [np.array(each) for each in units.values()]
    predictions = {
        name: [predict(each["probabilities"], test.targets) for each in runs]
        for name, runs in results.items()
    }
    seeds = len(next(iter(results.values())))
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        rows = np.concatenate(
            [members[i] for i in generator.integers(0, len(members), len(members))]
        )
        draws.append((generator.integers(0, seeds, seeds), rows))
    measured: dict[str, dict[str, object]] = {name: {} for name in results}
    for figure in FIGURES:
        measure = MEASURES[figure][0]
        resampled = {}
        for name, runs in predictions.items():
            values = [measure(each) for each in runs]
            resampled[name] = np.array(
                [np.mean([measure(runs[i].choose(rows)) for i in drawn]) for drawn, rows in draws]
            )
            low, high = np.percentile(resampled[name], [2.5, 97.5])
            measured[name][figure] = {
                "value": float(np.mean(values)),
                "ci95": [float(low), float(high)],
                "seeds": values,
            }
        for name in results:
            for reference in REFERENCES:
                if reference in results and reference != name:
                    difference = resampled[name] - resampled[reference]
                    low, high = np.percentile(difference, [2.5, 97.5])
                    measured[name][f"{figure} - {reference}"] = [
                        float(difference.mean()),
                        float(low),
                        float(high),
                    ]
    return measured


def predict(probabilities: object, targets: Tensor) -> Predictions:
    """Return stored probabilities as predictions."""
    values = np.array(probabilities)
    predicted = np.eye(values.shape[1])[values.argmax(1)]
    return Predictions(values, predicted, targets.double().numpy(), False)


def format_table(
    task: str,
    results: dict[str, list[dict[str, object]]],
    measured: dict[str, dict[str, object]],
) -> list[str]:
    """Return the lines of one table."""
    labels = next(iter(results.values()))[0]["labels"]
    lines = [
        "",
        f"{task}, {labels} labels:",
        "",
        "| chain | AUROC | against | balanced accuracy in % | against | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in measured.items():
        cells = [name]
        for figure, factor, digits in (("auroc", 1, 3), ("balanced_accuracy", 100, 1)):
            each = figures[figure]
            low, high = (f"{factor * end:.{digits}f}" for end in each["ci95"])  # type: ignore[index]
            cells.append(f"{factor * each['value']:.{digits}f} ({low} to {high})")  # type: ignore[index]
            marks = []
            for reference, letter in REFERENCES.items():
                difference = figures.get(f"{figure} - {reference}")
                if difference is not None:
                    low_end, high_end = difference[1:]  # type: ignore[index]
                    mark = "▲" if low_end > 0 else "▼" if high_end < 0 else ""
                    marks += [f"{letter}{mark}"] if mark else []
            cells.append(" ".join(marks))
        seconds = np.mean([each["seconds"] for each in results[name]])  # type: ignore[arg-type]
        lines.append("| " + " | ".join([*cells, f"{seconds:.1f}"]) + " |")
    return lines


def main() -> None:
    """Train, or make the table."""
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("verb", choices=("train", "table"))
    words.add_argument("out", type=Path)
    words.add_argument("--tasks", default="ztf-real,galaxies,films,ztf-star")
    words.add_argument("--shares", default=",".join(f"{share:g}" for share in SHARES))
    words.add_argument("--chains", default=";".join(list_chains()), help="names with ; between")
    words.add_argument("--seeds", type=int, default=5)
    arguments = words.parse_args()
    tasks = arguments.tasks.split(",")
    shares = [float(each) for each in arguments.shares.split(",")]
    if arguments.verb == "table":
        make_table(arguments.out, tasks, shares, arguments.seeds)
    else:
        train_all(arguments.out, tasks, shares, arguments.chains.split(";"), arguments.seeds)


if __name__ == "__main__":
    main()
