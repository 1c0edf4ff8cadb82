"""The training of one chain, with the steps of the library but without a run folder."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from chains import FROZEN_BATCH, TUNED_BATCH, Chain, describe_chain
from laboratory import Laboratory, draw_others, embed
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from apercu.classifiers import Classifier, InputSpec, Network
from apercu.learning.data import weigh_classes
from apercu.learning.network import LearningNetwork, make_network
from apercu.learning.recipes.base import Recipe, Task, TrainingStep
from apercu.learning.recipes.registry import parse_recipes
from apercu.learning.results import compute_logits
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training
from apercu.learning.training import LabelledTrainingImages, LearningTraining


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
        pairs = [learnt[index] for index in chosen]
        stored = torch.stack([image for image, _ in pairs])
        targets = torch.stack([target for _, target in pairs])
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


def run_chain(laboratory: Laboratory, chain: Chain, share: float, seed: int) -> dict[str, object]:
    """Train one chain, and return the probabilities of the test images."""
    chosen = laboratory.draw_labels(share, seed)
    index = torch.tensor(chosen)
    learn = laboratory.learn
    targets = learn.targets[index]
    recipes = parse_recipes([each for each in chain.recipes if each not in chain.changes])
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
        unlabelled, rate = draw_others(images, chosen), 3e-3
    else:
        start, images, test = laboratory.open(chain, seed)
        labelled, test = images[index].float(), test.float()
        unlabelled = laboratory.draw_unlabelled(start, images, chosen)
        network = make_network(
            start, len(learn.classes), seed, scratch=chain.start in ("scratch", "small")
        )
        rate = 1e-3
    start = network.to_classifier(learn.classes, learn.decision)
    network.requires_grad_(True)
    task = Task(
        Classifier(copy.deepcopy(start.network)),
        learn.classes,
        learn.decision,
        labelled,
        targets,
        weigh_classes(targets, learn.decision, balanced=True),
        unlabelled if len(unlabelled) else None,
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
