"""The training of a classifier: each step with the recipes' losses, rates and parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from apercu import render
from apercu.classifiers.distillation_data import PreparedImages, stack_images
from apercu.classifiers.reinitialise import recalibrate_batchnorm
from apercu.errors import ConfigError
from apercu.images import ImageSource
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import (
    AddedImages,
    Recipe,
    Task,
    TrainingStep,
    is_overridden,
    measure_variety,
)
from apercu.learning.settings import LearningSettings
from apercu.pretraining.pretexts.base import turn_randomly
from apercu.training.data import TrainingImages
from apercu.training.module import DegenerateSolution, TrainingModule
from apercu.types import Images, Scores

NEW_GROUPS = ("front", "head")
"""Groups of layers that may have layers without statistics of their own."""
FEW_CLASSES = 0.2
"""Variety of the classes of a batch below which a network predicts too few of them."""
RECALIBRATION_IMAGES = 512
"""Images from which batch norms take their statistics after the training."""
FORWARD_BATCH = 32
"""Images that go through the network together where no gradient is needed."""


def _describe_few_classes(means: Mapping[str, float]) -> str | None:
    """Describe a network that predicts few of the classes, whatever the image is."""
    if means["classes"] < FEW_CLASSES:
        return (
            f"the network predicts few of the classes (variety {means['classes']:.2f}, 1 is as "
            "many as there are); lower the rate"
        )
    return None


@dataclass(frozen=True)
class FailureDescription:
    """Describes the useless solution that a training with recipes is in.

    Args:
        recipes: the recipes.
    """

    recipes: tuple[Recipe, ...]

    def __call__(self, means: Mapping[str, float]) -> str | None:
        """Return one line on it, or None; that of the network comes first."""
        if problem := _describe_few_classes(means):
            return problem
        for recipe in self.recipes:
            if failure := recipe.describe_failure(means):
                return f"recipe: {recipe.name}: {failure}"
        return None


class LabelledTrainingImages(TrainingImages):
    """Prepared images with their targets, and those that recipes add.

    Args:
        task: labelled images and their targets.
        added: further images.
    """

    def __init__(self, task: Task, added: Sequence[AddedImages]) -> None:
        self.parts: list[tuple[PreparedImages, Tensor]] = [
            (task.images, task.targets),
            *((each.images, each.targets) for each in added),
        ]
        self.unusable: dict[int, str] = {}

    def __len__(self) -> int:
        return sum(len(images) for images, _ in self.parts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        for images, targets in self.parts:
            if index < len(images):
                return images[index], targets[index]
            index -= len(images)
        raise IndexError(index)


@final
class LearningTraining(TrainingModule):
    """The training of a network by the labels there are, with recipes.

    Args:
        network: the network, with what the recipes added.
        task: what is known before the training.
        recipes: the recipes.
        settings: the settings.
        added: images that recipes add to those with labels.
    """

    degenerate: ClassVar[DegenerateSolution] = DegenerateSolution(
        ("classes",), ("classes",), _describe_few_classes
    )
    trained_buffers: ClassVar[str] = ""

    def __init__(
        self,
        network: LearningNetwork,
        task: Task,
        recipes: Sequence[Recipe],
        settings: LearningSettings,
        added: Sequence[AddedImages] = (),
    ) -> None:
        super().__init__(network, task.start, settings, task.seed)
        self.network: LearningNetwork
        self.settings: LearningSettings
        self.task = task
        self.recipes = tuple(recipes)
        self.added = tuple(added)
        watched = ("classes", *(name for recipe in self.recipes for name in recipe.watched))
        self.degenerate = DegenerateSolution(  # type: ignore[misc]  # that of these recipes
            watched, ("classes",), FailureDescription(self.recipes)
        )
        self.groups = network.list_groups()
        self.learnable = [
            [each for each in group.parameters if each.requires_grad] for group in self.groups
        ]
        self.rates: list[float] = [1.0] * len(self.groups)

    @property
    def learns_unlabelled(self) -> bool:
        """Whether a recipe learns from images without labels."""
        return any(recipe.needs_unlabelled for recipe in self.recipes)

    def load_images(self, source: ImageSource, indices: Sequence[int]) -> TrainingImages:
        return LabelledTrainingImages(self.task, self.added)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        images, targets = batch
        generator = self.step_generator()
        progress = self.global_step / self.settings.schedule.steps
        self.set_rates(progress)
        keeps = any(recipe.keeps_images for recipe in self.recipes)
        views = images if keeps else self.draw_views(images, generator)
        step = TrainingStep(
            task=self.task,
            network=self.network,
            images=views,
            stored=images,
            targets=targets,
            unlabelled=self.draw_unlabelled(len(images), generator),
            generator=generator,
            progress=progress,
            view=self.draw_views,
        )
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # dropout draws from the global generator
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            terms = self.compute_terms(step)
            decision, logits = self.task.decision, step.outputs.logits.detach()
        expected, predicted = targets > 0.5, decision.find_predicted(logits)
        figures = {
            "right": ((predicted == expected) | targets.isnan()).all(1).float().mean(),
            "classes": measure_variety(predicted, targets),
        }
        self.log_terms(terms, figures | step.figures)
        return torch.stack([values.mean() for values in terms.values()]).sum()

    def compute_terms(self, step: TrainingStep) -> dict[str, Scores]:
        """Return all terms of the loss by name; those of a recipe begin with its name."""
        terms: dict[str, Scores] = {}
        if not any(recipe.replaces_supervised_loss for recipe in self.recipes):
            terms["labels"] = self.task.compute_loss(step.outputs.logits, step.targets)
        for recipe in self.recipes:
            for name, values in recipe.compute_losses(step).items():
                terms[f"{recipe.name}_{name}"] = values
        if not terms:
            raise ConfigError("recipe: none of them gives a loss")
        return terms

    def set_rates(self, progress: float) -> None:
        """Freeze and unfreeze the groups of layers, as the recipes say for this step."""
        for recipe in self.recipes:
            rates = recipe.choose_rates(self.groups, progress)
            if rates is not None:  # layers that recipes put before the network always learn
                added = (group.name == "front" for group in self.groups)
                self.rates = [1.0 if new else r for new, r in zip(added, rates, strict=True)]
        for learnable, rate in zip(self.learnable, self.rates, strict=True):
            for parameter in learnable:
                parameter.requires_grad_(rate > 0)
        for norm in self.list_kept_norms():
            norm.eval()

    def list_kept_norms(self) -> list[_BatchNorm]:
        """Return the batch norms that keep their statistics in this step."""
        keeps = self.settings.norms == "keep"
        return [
            norm
            for group, rate in zip(self.groups, self.rates, strict=True)
            if not rate or (keeps and group.name not in NEW_GROUPS)
            for norm in group.norms
        ]

    def draw_views(self, images: Images, generator: Generator) -> Images:
        """Return a random view of each image."""
        if self.settings.turned:
            images = turn_randomly(images, generator)
        return self.settings.exposure(self.settings.views(images, generator), generator)

    def draw_unlabelled(self, count: int, generator: Generator) -> Images | None:
        """Draw so many images without labels; None where no recipe needs them."""
        pool = self.task.unlabelled
        if pool is None or not self.learns_unlabelled:
            return None
        rows = torch.randint(len(pool), (count,), generator=generator)
        return stack_images(pool, rows).to(self.device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        rate = self.settings.schedule.rate
        return [{"params": list(group.parameters), "lr": rate} for group in self.groups]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Multiply the rate of each group; the schedule sets it anew after the step."""
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] *= rate

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """Finish the step after that of the optimiser, before a checkpoint is written."""
        super().optimizer_step(*arguments, **named)
        progress = (self.global_step + 1) / self.settings.schedule.steps
        for recipe in self.recipes:
            recipe.finish_step(self.network, self.task, progress)

    @torch.no_grad()
    def finish_network(self) -> None:
        """Give batch norms their last statistics, build heads without training, and fold layers."""
        self.set_rates(1.0)
        self._recalibrate_norms()
        self.network.eval()
        self._build_heads()
        for recipe in sorted(self.recipes, key=lambda recipe: recipe.wraps_head):
            recipe.fold_network(self.network)
        if self.settings.balanced and self.settings.restore_frequencies:
            self._restore_frequencies()
        self.network.eval()

    def _recalibrate_norms(self) -> None:
        """Compute the statistics of all batch norms that do not keep theirs."""
        kept = set(self.list_kept_norms())
        norms = [
            module
            for module in self.network.modules()
            if isinstance(module, _BatchNorm) and module not in kept
        ]
        if norms:
            batches = chain.from_iterable(map(self.draw_batches, self._list_norm_images()))
            recalibrate_batchnorm(self.network, batches, norms)

    def _list_norm_images(self) -> list[PreparedImages]:
        """List the images from which batch norms take their last statistics."""
        labelled, unlabelled = self.task.images, self.task.unlabelled
        if unlabelled is None or not self.learns_unlabelled:
            return [labelled]
        if any(recipe.adapts_norms for recipe in self.recipes):
            return [unlabelled]
        return [labelled, unlabelled]

    def _build_heads(self) -> None:
        """Put in the last layer of a recipe that builds one without training."""
        unlabelled = self.task.unlabelled
        for recipe in self.recipes:
            if is_overridden(recipe, "build_head"):
                features = self.compute_features(self.task.images)
                others = None if unlabelled is None else self.compute_features(unlabelled)
                head = recipe.build_head(features, self.task.targets, self.task, others)
                if head is not None:
                    self.network.set_head(head.to(self.task.device).eval())

    def _restore_frequencies(self) -> None:
        """Make probabilities those of the classes as frequent as they are among the images."""
        present, absent = self.task.class_weights.log().to(self.task.device)
        multiple = self.task.decision.is_multiple
        self.network.add_to_logits(absent - present if multiple else -present)

    def draw_batches(self, images: PreparedImages) -> Iterator[Images]:
        """Yield batches of normalised images for the statistics of batch norms."""
        order = torch.randperm(len(images), generator=self.task.make_generator("batch norms"))
        rows = order[:RECALIBRATION_IMAGES]
        for part in rows.tensor_split(max(1, len(rows) // self.settings.schedule.batch)):
            yield self.task.start.normalise(stack_images(images, part).to(self.task.device))

    @torch.no_grad()
    def compute_features(self, images: PreparedImages) -> Float[Tensor, "images features"]:
        """Return the features of images, on the CPU."""
        rows = torch.split(torch.arange(len(images)), FORWARD_BATCH)
        normalise, device = self.task.start.normalise, self.task.device
        batches = (normalise(stack_images(images, part).to(device)) for part in rows)
        return torch.cat([self.network.compute_outputs(each).features.cpu() for each in batches])

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        logits = self.network(self.task.start.normalise(images))
        probability, top = self.task.decision.probabilities(logits)[0].max(0)
        title = f"{self.task.classes[int(top)]} {probability:.2f}"
        return [render.Tile(render.to_image(images[0].cpu()), title)]
