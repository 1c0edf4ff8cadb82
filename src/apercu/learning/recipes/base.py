"""The base class of recipes: what a recipe may add to the training of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.decisions import Decision
from apercu.classifiers.distillation_data import PreparedImages
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork, NetworkOutputs, ParameterGroup
from apercu.progress import ProgressCallback, ignore_progress
from apercu.run_record import Phase
from apercu.types import Images, Logits, Scores

ViewFunction = Callable[[Images, Generator], Images]
"""Returns a random view of each image."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is known before the training.

    Args:
        start: the network before the training, with its own last layer; it prepares and normalises
            images, and can be a teacher.
        classes: names of the classes.
        decision: how logits become probabilities: one class, or each class by itself.
        images: labelled images to train on, prepared, in [0, 1].
        targets: true probabilities of the classes, `images × classes`: 0 or 1; NaN, where each
            class is decided by itself, for what nobody knows.
        class_weights: weight of each class where it is true, and where it is not, `2 × classes`;
            ones where classes are not balanced.
        unlabelled: prepared images without labels; None where there are none.
        folder: the run folder.
        seed: seed of every draw.
        report: receives the name of each part of the work, how much is done, and how much there is.
        pretrained: the network as it was opened, with the last layer that it had; None where it is
            not known.
        left_out: names of the images that cannot be read, by the part that they belong to.
    """

    start: Classifier
    classes: tuple[str, ...]
    decision: Decision
    images: PreparedImages
    targets: Float[Tensor, "images classes"]
    class_weights: Float[Tensor, "2 classes"]
    unlabelled: PreparedImages | None
    folder: Path
    seed: int = 0
    report: ProgressCallback = ignore_progress
    pretrained: Classifier | None = None
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device on which the training runs."""
        return self.start.device

    def compute_loss(self, logits: Logits, targets: Float[Tensor, "batch classes"]) -> Scores:
        """Return the cross-entropy of each image, weighted so that classes count the same.

        Args:
            logits: logits, `batch × classes`.
            targets: true probabilities, which need not be 0 or 1, `batch × classes`; NaN for what
                nobody knows.

        Returns:
            One number per image; their mean is that over the classes of all images that are known.
        """
        present, absent = self.class_weights.to(logits.device)
        if not self.decision.is_multiple:
            return self.decision.cross_entropy(logits, targets) * (targets @ present)
        known = ~targets.isnan()
        targets = targets.nan_to_num(0)  # a NaN that is masked later would still be in the gradient
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        losses = losses * (present * targets + absent * (1 - targets)) * known
        return losses.mean(1) / known.float().mean()

    def make_generator(self, name: str) -> Generator:
        """Return a generator for one purpose, whose draws do not depend on other draws."""
        salt = sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 2**31
        return Generator().manual_seed(self.seed * 1_000_003 + salt)

    def make_phase(self, name: str, key: str = "") -> Phase:
        """Return a phase that keeps the state of long work before the training, for a resume.

        Args:
            name: the name of the work, also that of its file.
            key: what the work depends on besides the settings of the training.

        Returns:
            The phase; it reports how far it is.
        """
        path = self.folder / "checkpoints" / f"{name.replace(' ', '-')}.pt"
        return Phase(name, self.report, path, f"{key} {self.seed} {len(self.images)}")


@dataclass(frozen=True, eq=False)
class AddedImages:
    """Images that a recipe adds to those with labels.

    Args:
        images: images in [0, 1] at the size of the classifier.
        targets: probabilities of the classes, `images × classes`.
    """

    images: PreparedImages
    targets: Float[Tensor, "images classes"]


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """A step of the training: its images, and all that a loss may need.

    Args:
        task: what was known before the training.
        network: the network that is trained, in training mode.
        images: random views of labelled images, in [0, 1].
        stored: the same images without the random view.
        targets: true probabilities of the classes, `batch × classes`; NaN, where each class is
            decided by itself, for what nobody knows.
        unlabelled: images without labels, as many as labelled ones, without random views; None
            where no recipe needs them.
        generator: generator of all draws of the step.
        progress: fraction of the training that is done, from 0 to 1.
        view: returns a random view of each image.
        figures: figures of the step by name, one number each, which recipes add and curves show.
    """

    task: Task
    network: LearningNetwork
    images: Images
    stored: Images
    targets: Float[Tensor, "batch classes"]
    unlabelled: Images | None
    generator: Generator
    progress: float
    view: ViewFunction
    figures: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def outputs(self) -> NetworkOutputs:
        """The logits, features and feature maps of `images`, computed once for all terms."""
        return self.compute_outputs(self.images)

    def compute_outputs(self, images: Images) -> NetworkOutputs:
        """Return the network's logits, features and feature maps of images in [0, 1]."""
        return self.network.compute_outputs(self.task.start.normalise(images))

    def draw_views(self, images: Images) -> Images:
        """Return a new random view of each image."""
        return self.view(images, self.generator)


class Recipe(BaseModel):
    """One idea for the training of a classifier; prints as `name:key=value`, and is a frozen value.

    Every method may be overridden; what is not overridden adds nothing. A recipe must depend on its
    fields and on what it receives alone: every draw comes from the generator of the step or of the
    task, so that an interrupted training goes on to the same result.

    Attributes:
        name: the name that people type.
        needs_unlabelled: whether it needs images without labels.
        replaces_supervised_loss: whether its losses stand in the place of the cross-entropy.
        copies_network: whether it keeps a copy of the network, and so comes after all that add
            layers.
        normalises_logits: whether it adds a layer that keeps statistics of the logits of the last
            layer, which must therefore be the one that was trained.
        wraps_head: whether its fold may put another layer around the last one, and so comes after
            all that fold something into the last layer.
        unlabelled_domain: where the images without labels must come from; empty where any do.
        adapts_norms: whether batch norms end with statistics of the images without labels alone.
        reads_turns: whether it learns how images are turned, which random turns would hide.
        watched: names of figures that reveal a useless solution.
        keeps_images: whether labelled images are learnt as they are, without random views.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str]
    needs_unlabelled: ClassVar[bool] = False
    replaces_supervised_loss: ClassVar[bool] = False
    copies_network: ClassVar[bool] = False
    normalises_logits: ClassVar[bool] = False
    wraps_head: ClassVar[bool] = False
    unlabelled_domain: ClassVar[str] = ""
    adapts_norms: ClassVar[bool] = False
    reads_turns: ClassVar[bool] = False
    watched: ClassVar[tuple[str, ...]] = ()
    keeps_images: ClassVar[bool] = False

    def __str__(self) -> str:
        """Return the recipe as people type it, without the settings that are at their defaults."""
        defaults = type(self)()
        changed = [
            f"{key}={_format_value(getattr(self, key))}"
            for key in type(self).model_fields
            if getattr(self, key) != getattr(defaults, key)
        ]
        return f"{self.name}:{','.join(changed)}" if changed else self.name

    def check_task(self, task: Task) -> None:
        """Raise ConfigError or ClassifierError, in one line, where the recipe cannot be used."""

    def change_network(self, network: LearningNetwork, task: Task) -> None:
        """Add layers, before the first step.

        Layers that stay in the classifier go into `network.front` or `network.tail`; parts that
        only help in the training go into `network.parts`.
        """

    def choose_rates(
        self, groups: Sequence[ParameterGroup], progress: float
    ) -> Sequence[float] | None:
        """Return the factor of the learning rate of each group of layers; 0 freezes a group.

        Args:
            groups: groups of layers, from the input to the last layer.
            progress: fraction of the training that is done, from 0 to 1.

        Returns:
            One factor in [0, 1] per group; None to leave them as they are.
        """
        return None

    def make_images(self, task: Task) -> AddedImages | None:
        """Return images that are added to those with labels, before the first step."""
        return None

    def compute_losses(self, step: TrainingStep) -> dict[str, Scores]:
        """Return further terms of the loss by name, one number per image; their sum is averaged."""
        return {}

    def finish_step(self, network: LearningNetwork, task: Task, progress: float) -> None:
        """Change parts that are not trained by gradients, such as the mean of past weights."""

    def describe_failure(self, means: Mapping[str, float]) -> str | None:
        """Describe the useless solution that the training is in, in one line, or None.

        Args:
            means: running means of the figures of `watched`; those that were not measured are
                missing.

        Returns:
            What is wrong and what to do, with the figure in brackets; None if nothing is.
        """
        return None

    def build_head(
        self,
        features: Float[Tensor, "images features"],
        targets: Float[Tensor, "images classes"],
        task: Task,
        unlabelled: Float[Tensor, "unlabelled features"] | None = None,
    ) -> nn.Module | None:
        """Return a last layer that needs no training: features → logits.

        Args:
            features: features of the labelled images, after the training.
            targets: their true probabilities.
            task: what was known before the training.
            unlabelled: features of the images without labels; None where there are none.

        Returns:
            The module; None to keep the layer that was trained.
        """
        return None

    def fold_network(self, network: LearningNetwork) -> None:
        """Fold layers that only helped into others, or remove them, after the training."""


def is_overridden(recipe: Recipe, method: str) -> bool:
    """Whether a recipe has its own version of a method."""
    return getattr(type(recipe), method) is not getattr(Recipe, method)


def check_recipes(recipes: Sequence[Recipe]) -> None:
    """Check that recipes can be combined.

    Raises:
        ConfigError: one is given twice, or two do what only one can do.
    """
    names = [recipe.name for recipe in recipes]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"recipe: {repeated} is given twice, expected once")
    exclusive: dict[str, Callable[[Recipe], Any]] = {
        "replace the loss of the labels": lambda recipe: recipe.replaces_supervised_loss,
        "choose which layers learn": lambda recipe: is_overridden(recipe, "choose_rates"),
        "build the last layer": lambda recipe: is_overridden(recipe, "build_head"),
    }
    for what, does in exclusive.items():
        both = [recipe.name for recipe in recipes if does(recipe)]
        if len(both) > 1:
            raise ConfigError(f"recipe: {both[0]} and {both[1]} both {what}; give one of them")
    norm = next((recipe.name for recipe in recipes if recipe.normalises_logits), None)
    builder = next((r.name for r in recipes if is_overridden(r, "build_head")), None)
    if norm is not None and builder is not None:
        raise ConfigError(
            f"recipe: {norm} normalises the logits of the layer that is trained, but {builder} "
            "puts another one in its place; give one of them"
        )
    domains = {recipe.unlabelled_domain: recipe.name for recipe in recipes}
    domains.pop("", None)
    if len(domains) > 1:
        (first, one), (second, other) = list(domains.items())[:2]
        raise ConfigError(
            f"recipe: {one} needs unlabelled images {first}, {other} needs them {second}; give one "
            "of them"
        )


def measure_variety(
    predicted: Bool[Tensor, "images classes"], expected: Float[Tensor, "others classes"]
) -> Tensor:
    """Measure how many classes are predicted, compared with how many are true.

    The number of classes is the exponential of the entropy of their frequencies, less 1.

    Args:
        predicted: which classes are predicted of some images.
        expected: true probabilities of the classes of others; NaN for what nobody knows.

    Returns:
        0 where one class is predicted for all images, 1 where there are as many as are true; NaN
        where no more than one is true.
    """
    means = expected.float().nanmean(0).nan_to_num(0)
    frequencies = torch.stack([predicted.float().mean(0), means])
    fractions = frequencies / frequencies.sum(1, keepdim=True).clamp(min=1e-12)
    numbers = torch.special.entr(fractions).sum(1).exp() - 1
    return torch.where(numbers[1] > 0.01, numbers[0] / numbers[1], torch.nan)


def _format_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return str(value)
