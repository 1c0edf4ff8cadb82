"""Compares filters in front of a classifier that learnt what each filter leaves.

    python recipes/halftone/table.py TRAINING VALIDATION OUT [FILTER …]

For each filter EfficientNet-Lite0 learns originals and filtered photographs from its own
predictions (the defence `hybrid`, with the same steps, photographs and views for all). Then PGD
attacks it: without knowledge of the filter, through it, and with images that were made against the
classifier before the training. OUT keeps what is finished; the same call goes on. The last call
prints the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from apercu import Classifier, open_classifier, open_images
from apercu.classifiers.decisions import DecidedLogits
from apercu.classifiers.reinitialise import copy_trainable
from apercu.evaluation.sample import draw_sample
from apercu.filters import Filter, parse_filter
from apercu.images import batches
from apercu.io import write_file
from apercu.robustness.attack_runner import AttackRunner, build_logits_fn
from apercu.robustness.attacks.signed import Pgd
from apercu.robustness.defences import DefenceBatch, Hybrid
from apercu.robustness.defences.training import freeze_batchnorm
from apercu.robustness.jobs import Job
from apercu.training.augment import RandomViews
from apercu.weights import digest_module

CLASSIFIER = "ready:efficientnet_lite0"
FILTERS = (
    "inverse_halftone",
    "jpeg",
    "gaussian",
    "median",
    "bit_depth",
    "floyd_steinberg",
    "total_variation",
    "non_local_means",
)
TITLES = (
    "before: clean",
    "before: naive",
    "clean, bare",
    "clean",
    "naive",
    "transfer",
    "adaptive",
)
"""The columns of the table; the first two are of the classifier before its training."""
STEPS, BATCH, RATE = 24, 8, 1.5e-4
EPSILON = 4 / 255
PHOTOGRAPHS, NAIVE, ADAPTIVE = 250, 64, 24
"""Number of photographs; attacks on each trained classifier get the first of them."""
ATTACK_BATCH = 8
"""Number of photographs that are attacked together."""


@dataclass(frozen=True)
class Measurement:
    """What is measured of a filter.

    Args:
        title: title of the column.
        classifier: the classifier, before or after the training.
        filter: the filter in front of it.
        count: number of photographs.
        job: the attack; None for clean photographs, or those attacked before.
        transferred: whether photographs are used that were attacked before the training.
    """

    title: str
    classifier: Classifier
    filter: Filter | None
    count: int
    job: Job | None = None
    transferred: bool = False


@dataclass(frozen=True)
class Trial:
    """The undefended classifier, photographs, and a folder for what is finished.

    Args:
        undefended: the classifier before the training.
        training: photographs to learn from, one of each class, in random order.
        images: photographs that are attacked.
        labels: their classes.
        out: the folder.
    """

    undefended: Classifier
    training: Tensor
    images: Tensor
    labels: Tensor
    out: Path

    def open_defended(self, name: str) -> Classifier:
        """Open the classifier that learnt a filter; train it where there is none yet."""
        network = copy_trainable(self.undefended)
        path = self.out / f"{name}.safetensors"
        if path.exists():
            network.load_state_dict(load_file(path))
        else:
            self._train(network, Hybrid(representations=(name,)))
            state = network.state_dict()
            write_file(path, save({key: value.contiguous() for key, value in state.items()}))
        network.requires_grad_(False).eval()
        source = self.undefended.network
        digest = digest_module(network, source.source, source.options)
        return Classifier(replace(source, forward=network, digest=digest))

    def _train(self, network: torch.nn.Module, defence: Hybrid) -> None:
        """Train a network with a defence; batch norms keep their statistics."""

        def compute_logits(images: Tensor) -> Tensor:
            raw = network(self.undefended.normalise(images))
            return self.undefended.network.read_logits(raw, len(images))

        views = RandomViews(smallest=0.6, whole=0.3)
        logits_fn = DecidedLogits(compute_logits, self.undefended.decision)
        optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
        schedule = OneCycleLR(optimiser, RATE, total_steps=STEPS)
        torch.manual_seed(0)
        freeze_batchnorm(network.train())
        for step in range(STEPS):
            generator = torch.Generator().manual_seed(step)
            images = views(self.training[step * BATCH :][:BATCH], generator)
            with torch.no_grad():
                targets = self.undefended.predict_probabilities(images)
            batch = DefenceBatch(logits_fn, logits_fn, images, targets, step)
            loss = torch.stack(list(defence.compute_losses(batch).values())).sum(0).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()

    def measure_filter(self, name: str) -> dict[str, list[list[bool]]]:
        """Measure a filter, or return what was measured before.

        Args:
            name: the filter.

        Returns:
            For the clean and the attacked photographs, behind the filter unless bare, whether the
            true class is first, and among the first five.
        """
        path = self.out / f"{name}.json"
        rows = json.loads(path.read_text("utf-8")) if path.exists() else {}
        for measurement in self._plan_measurements(name):
            if measurement.title not in rows:
                rows[measurement.title] = self._classify(measurement, name)
                write_file(path, json.dumps(rows))
                print(name, measurement.title, summarise(rows[measurement.title]), flush=True)
        return rows

    def _plan_measurements(self, name: str) -> Iterator[Measurement]:
        """Plan the measurements of a filter; the classifier is trained after the first one."""
        filter, count = parse_filter(name), len(self.images)
        yield Measurement("before: clean", self.undefended, filter, count)
        defended = self.open_defended(name)
        naive, adaptive = (Job("pgd", EPSILON, Pgd(EPSILON), known) for known in (None, name))
        yield Measurement("clean, bare", defended, None, NAIVE)
        yield Measurement("clean", defended, filter, count)
        yield Measurement("naive", defended, filter, NAIVE, naive)
        yield Measurement("adaptive", defended, filter, ADAPTIVE, adaptive)
        yield Measurement("before: naive", self.undefended, filter, count, transferred=True)
        yield Measurement("transfer", defended, filter, count, transferred=True)

    def _classify(self, measurement: Measurement, name: str) -> list[list[bool]]:
        """Return for each photograph whether its class is first, and among the first five."""
        images = self.make_transferred() if measurement.transferred else self.images
        runner = AttackRunner(measurement.classifier, {name: measurement.filter})
        job = measurement.job
        logits_fn, ranks = build_logits_fn(measurement.classifier, measurement.filter), []
        for start in range(0, measurement.count, ATTACK_BATCH):
            rows = slice(start, min(start + ATTACK_BATCH, measurement.count))
            clean, labels = images[rows], self.labels[rows]
            attacked = clean if job is None else runner.attack(job, clean, labels)[0]
            with torch.no_grad():
                logits = logits_fn(attacked)
            ranks.append((logits > logits.gather(1, labels[:, None])).sum(1))
        rank = torch.cat(ranks)
        return [(rank < 1).tolist(), (rank < 5).tolist()]

    def make_transferred(self) -> Tensor:
        """Attack the undefended classifier, or return what was made before."""
        path = self.out / "transferred.safetensors"
        if not path.exists():
            runner, attacked = AttackRunner(self.undefended, {}), []
            job = Job("pgd", EPSILON, Pgd(EPSILON), None)
            for start in range(0, len(self.images), ATTACK_BATCH):
                rows = slice(start, start + ATTACK_BATCH)
                attacked.append(runner.attack(job, self.images[rows], self.labels[rows])[0])
            write_file(path, save({"images": torch.cat(attacked)}))
        return load_file(path)["images"]


def summarise(flags: list[list[bool]]) -> str:
    """Return the fractions of top-1 and top-5 in %, as text."""
    return " · ".join(f"{100 * sum(each) / len(each):.0f}" for each in flags)


def read_training(classifier: Classifier, folder: str, count: int) -> Tensor:
    """Read one photograph of each class, in random order, `count × 3 × height × width`."""
    source = open_images(folder)
    firsts: dict[str, int] = {}
    for index, name in enumerate(source.names):
        firsts.setdefault(str(Path(name).parent), index)
    order = torch.randperm(len(firsts), generator=torch.Generator().manual_seed(0)).tolist()
    indices = [list(firsts.values())[number] for number in order[:count]]
    read = batches(source, classifier.prepare, BATCH, indices=indices)
    return torch.cat([batch.images for batch in read])


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("training", "validation"):
        words.add_argument(name)
    words.add_argument("out", type=Path)
    words.add_argument("filters", nargs="*", default=FILTERS)
    arguments = words.parse_args()
    classifier = open_classifier(CLASSIFIER)
    arguments.out.mkdir(parents=True, exist_ok=True)
    images, labels = read_validation(classifier, arguments.validation)
    photographs = read_training(classifier, arguments.training, STEPS * BATCH)
    trial = Trial(classifier, photographs, images, labels, arguments.out)
    measured = {name: trial.measure_filter(name) for name in arguments.filters}
    print("| filter |", *(f"{title} |" for title in TITLES))
    for name, rows in measured.items():
        print(f"| {name} |", *(f"{summarise(rows[title])} |" for title in TITLES))


def read_validation(classifier: Classifier, folder: str) -> tuple[Tensor, Tensor]:
    """Read photographs and their classes in random order, `count × 3 × height × width`."""
    sample = draw_sample(classifier, open_images(folder), PHOTOGRAPHS, 0, halves=False)
    read = list(sample.read_batches(classifier, sample.test, BATCH))
    images = torch.cat([batch.images for batch in read])
    labels = torch.cat([batch.targets for batch in read])
    # Sources are in the order of classes: the first of these would be of few.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]


if __name__ == "__main__":
    main()
