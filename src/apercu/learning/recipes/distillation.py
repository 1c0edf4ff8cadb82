"""Learning from a teacher: its logits, features, attention, or the likeness of images to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar, Final, Literal, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from apercu.classifiers import Classifier, open_classifier
from apercu.classifiers.decisions import Decision
from apercu.errors import ConfigError
from apercu.learning.network import LearningNetwork, NetworkOutputs, make_network
from apercu.learning.recipes.base import Recipe, Task, TrainingStep
from apercu.types import Images, Logits, Scores

NAME = "distillation"
KEPT_LAYERS: Final = ("front", "body", "tail")
"""Layers of a `LearningNetwork` that stay in the classifier."""
FeatureMaps = Float[Tensor, "batch channels rows columns"]
TeacherMaps = Float[Tensor, "batch teacher_channels teacher_rows teacher_columns"]


@final
class Distillation(Recipe):
    """Learns from a teacher beside the labels (Sarfraz, Arani and Zonooz 2020).

    "Knowledge Distillation Beyond Model Compression" compares nine forms and claims that all of
    them are better than training by the labels alone, also where teacher and student are equally
    large, where labels are wrong, and where classes are rare. The forms here:

    - `logits`: the student's probabilities become those of the teacher, both softened by a
      temperature (Hinton et al. 2015; temperature 4 in the study).
    - `features`: a trained projection of the student's last feature map becomes the teacher's
      (FitNets, Romero et al. 2015).
    - `attention`: where the last feature map is large (Zagoruyko and Komodakis 2017).
    - `similarity`: which images of a batch are alike (Tung and Mori 2019).

    The teacher is a SPEC, such as the run of a larger network, or of the same network, which gives
    a born-again generation (Furlanello et al. 2018). Without a SPEC the network teaches itself: a
    copy is taken `generations` times, at equal distances, and teaches what comes after it; with
    `reborn` the student then begins again.

    Ours: the projection is trained together with the student, and all generations without a SPEC
    share one schedule, so that later ones learn at a lower rate.

    Attributes:
        teacher: SPEC of the teacher, or its run folder; the network itself where it is empty.
        form: what the student learns from the teacher.
        weight: weight of the term.
        temperature: number by which logits are divided, for `logits`.
        generations: number of teachers, where the network teaches itself.
        reborn: whether the student begins again with its first weights after each generation.
    """

    name: ClassVar[str] = NAME
    copies_network: ClassVar[bool] = True
    teacher: str = ""
    form: Literal["logits", "features", "attention", "similarity"] = "logits"
    weight: float = Field(1.0, gt=0)
    temperature: float = Field(4.0, ge=1)
    generations: int = Field(1, ge=1, le=10)
    reborn: bool = False

    def check_task(self, task: Task) -> None:
        if self.teacher:
            if self.generations > 1 or self.reborn:
                raise ConfigError(
                    f"recipe: {NAME}: generations and reborn are for a network that teaches "
                    "itself; leave the teacher out, or take the last run as the next teacher"
                )
            self.open_teacher(task)

    def open_teacher(self, task: Task) -> Teacher:
        """Open the teacher; raises ConfigError or ClassifierError where it cannot teach."""
        teacher = open_classifier(self.teacher).to(task.device)
        if teacher.channels not in (task.start.channels, 3) or (
            teacher.channels != task.start.channels and task.start.channels != 1
        ):
            raise ConfigError(
                f"recipe: {NAME}: the teacher {self.teacher} takes {teacher.channels} channels, "
                f"the network {task.start.channels}"
            )
        columns = []
        if self.form == "logits":
            missing = [name for name in task.classes if name not in teacher.classes]
            if missing or len(teacher.classes) != len(task.classes):
                raise ConfigError(
                    f"recipe: {NAME}: the teacher {self.teacher} has the classes "
                    f"{', '.join(teacher.classes[:5])}, the labels {', '.join(task.classes[:5])}; "
                    "expected the same, or form=features, attention or similarity"
                )
            columns = [teacher.classes.index(name) for name in task.classes]
        return Teacher(teacher, columns)

    def change_network(self, network: LearningNetwork, task: Task) -> None:
        if self.teacher:
            teacher = self.open_teacher(task)
            parts = DistillationParts(None, None, [teacher])
        else:
            first = CopiedLayers(network) if self.reborn else None
            parts = DistillationParts(CopiedLayers(network), first, [])
        if self.form in ("features", "attention"):
            image = task.images[0][None].to(task.device)
            own = compute_quietly(network, task.start.normalise(image))
            maps = teacher.compute_maps(image) if self.teacher else own.maps
            if own.maps.ndim != 4 or maps.ndim != 4:
                raise ConfigError(
                    f"recipe: {NAME}: form={self.form} expected networks with feature maps, got "
                    "one of tokens; use form=logits or form=similarity"
                )
            if self.form == "features":
                parts.projection = nn.Conv2d(own.maps.shape[1], maps.shape[1], 1)
        network.parts[NAME] = parts

    def compute_losses(self, step: TrainingStep) -> dict[str, Scores]:
        parts = cast(DistillationParts, step.network.parts[NAME])
        if not parts.has_teacher:
            return {self.form: torch.zeros(len(step.images), device=step.images.device)}
        outputs = step.outputs
        with torch.no_grad():
            logits, maps = parts.compute_targets(step, needs_maps=self.form != "logits")
        if self.form == "logits":
            losses = match_logits(outputs.logits, logits, self.temperature, step.task.decision)
        else:
            own = parts.projection(outputs.maps) if self.form == "features" else outputs.maps
            losses = MATCHES[self.form](own, maps)
        return {self.form: self.weight * losses}

    @torch.no_grad()
    def finish_step(self, network: LearningNetwork, task: Task, progress: float) -> None:
        if self.teacher:
            return
        parts = cast(DistillationParts, network.parts[NAME])
        due = int(progress * (self.generations + 1) + 1e-9)
        if progress >= 1 or due <= int(parts.generation):
            return
        parts.generation.fill_(due)
        if parts.own_teacher is not None:
            parts.own_teacher.copy_from(network)
        if parts.first is not None:
            parts.first.copy_to(network)


@final
class Teacher:
    """A classifier whose logits or feature maps are learnt; it does not change.

    Args:
        classifier: the classifier.
        columns: column of the classifier's logits for each class; empty where they are not used.
    """

    def __init__(self, classifier: Classifier, columns: list[int]) -> None:
        self.classifier, self.columns = classifier, columns
        self.network: LearningNetwork | None = None

    def fit_images(self, images: Images) -> Images:
        """Return images at the size, and with the number of channels, that the teacher takes."""
        if images.shape[1] != self.classifier.channels:
            images = images.expand(-1, self.classifier.channels, -1, -1)
        if images.shape[2:] != self.classifier.size:
            size = self.classifier.size
            images = F.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)
        return images

    @torch.no_grad()
    def compute_logits(self, images: Images) -> Logits:
        """Return the teacher's logits in the order of the classes that are learnt."""
        return self.classifier(self.fit_images(images))[:, self.columns]

    @torch.no_grad()
    def compute_maps(self, images: Images) -> Tensor:
        """Return the teacher's last feature map."""
        if self.network is None:
            network = make_network(self.classifier, 2, 0, scratch=False)
            self.network = network.requires_grad_(False).to(self.classifier.device).eval()
        fitted = self.fit_images(images)
        return self.network.compute_outputs(self.classifier.normalise(fitted)).maps


class CopiedLayers(nn.Module):
    """A copy of all layers that a classifier keeps: those before the body, the body, and behind it.

    Args:
        network: the network, with all layers that recipes add.
    """

    def __init__(self, network: LearningNetwork) -> None:
        super().__init__()
        for name in KEPT_LAYERS:
            self.add_module(name, copy.deepcopy(getattr(network, name)))
        self.requires_grad_(False)

    def copy_from(self, network: LearningNetwork) -> None:
        """Take the weights and statistics of a network."""
        for name in KEPT_LAYERS:
            self.get_submodule(name).load_state_dict(network.get_submodule(name).state_dict())

    def copy_to(self, network: LearningNetwork) -> None:
        """Give a network these weights and statistics."""
        for name in KEPT_LAYERS:
            network.get_submodule(name).load_state_dict(self.get_submodule(name).state_dict())

    def compute_outputs(self, network: LearningNetwork, images: Images) -> NetworkOutputs:
        """Return the outputs of these layers, in evaluation mode, in the place of the network's.

        Args:
            network: the network that was copied; it is as before afterwards.
            images: normalised images.

        Returns:
            Logits, features and feature maps.
        """
        own = {name: network.get_submodule(name) for name in KEPT_LAYERS}
        self.eval()
        try:
            for name in KEPT_LAYERS:
                setattr(network, name, self.get_submodule(name))
            return network.compute_outputs(images)
        finally:
            for name, layer in own.items():
                setattr(network, name, layer)


class DistillationParts(nn.Module):
    """What only the training needs: a teacher of its own, the first weights, a projection.

    Args:
        own_teacher: copy of the network that teaches; None where the teacher is a SPEC.
        first: copy of the network before the training; None where it does not begin again.
        teachers: the teacher of a SPEC, in a list, as it is no part of the network.
    """

    generation: Tensor

    def __init__(
        self, own_teacher: CopiedLayers | None, first: CopiedLayers | None, teachers: list[Teacher]
    ) -> None:
        super().__init__()
        self.own_teacher, self.first, self._teachers = own_teacher, first, teachers
        self.projection: nn.Module = nn.Identity()
        self.register_buffer("generation", torch.zeros((), dtype=torch.long))

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher: a SPEC, or a copy of the network that was taken."""
        return bool(self._teachers) or int(self.generation) > 0

    def compute_targets(self, step: TrainingStep, *, needs_maps: bool) -> tuple[Tensor, Tensor]:
        """Compute the teacher's logits and feature maps of the step's views; one may be empty.

        Args:
            step: the step of the training.
            needs_maps: whether feature maps are wanted, not logits.

        Returns:
            Logits, `batch × classes`, and feature maps, `batch × channels × rows × columns`.
        """
        empty = torch.zeros(0)
        if self.own_teacher is not None:
            images = step.task.start.normalise(step.images)
            outputs = self.own_teacher.compute_outputs(step.network, images)
            return outputs.logits, outputs.maps
        teacher = self._teachers[0]
        if needs_maps:
            return empty, teacher.compute_maps(step.images)
        return teacher.compute_logits(step.images), empty


def compute_quietly(network: LearningNetwork, images: Images) -> NetworkOutputs:
    """Return the outputs of a network in evaluation mode, which is as before afterwards."""
    is_training = network.training
    with torch.no_grad():
        outputs = network.to(images.device).eval().compute_outputs(images)
    network.train(is_training)
    return outputs


def match_logits(own: Logits, teacher: Logits, temperature: float, decision: Decision) -> Scores:
    """Return the divergence of softened probabilities from the teacher's, times temperature².

    Args:
        own: logits of the student.
        teacher: logits of the teacher.
        temperature: number by which both are divided.
        decision: one class of an image is true, or each class by itself.

    Returns:
        One number per image; 0 where both say the same.
    """
    own, teacher = own / temperature, teacher / temperature
    expected = decision.probabilities(teacher)
    if decision.is_multiple:
        losses = F.binary_cross_entropy_with_logits(own, expected, reduction="none")
        least = F.binary_cross_entropy_with_logits(teacher, expected, reduction="none")
        return temperature**2 * (losses - least).mean(1)
    difference = teacher.log_softmax(1) - own.log_softmax(1)
    return temperature**2 * (expected * difference).sum(1)


def match_features(own: FeatureMaps, teacher: TeacherMaps) -> Scores:
    """Return the squared difference of feature maps, divided by the teacher's mean square."""
    own, teacher = match_sizes(own, teacher)
    return (own - teacher).square().mean((1, 2, 3)) / teacher.square().mean().clamp(min=1e-12)


def match_attention(own: FeatureMaps, teacher: TeacherMaps) -> Scores:
    """Return the squared difference of the mean squares of each position, of length 1."""
    own, teacher = match_sizes(own, teacher)
    first, second = (
        F.normalize(each.square().mean(1).flatten(1), dim=1) for each in (own, teacher)
    )
    return (first - second).square().sum(1)


def match_similarity(own: Tensor, teacher: Tensor) -> Scores:
    """Return how differently the images of a batch are alike, one number per image."""
    first, second = (F.normalize(compare_images(each), dim=1) for each in (own, teacher))
    return (first - second).square().sum(1)


def compare_images(maps: Tensor) -> Float[Tensor, "batch batch"]:
    """Return the scalar product of each two images of a batch."""
    flat = maps.flatten(1)
    return flat @ flat.T


def match_sizes(own: FeatureMaps, teacher: TeacherMaps) -> tuple[Tensor, Tensor]:
    """Return both at the resolution of the coarser one."""
    rows = min(own.shape[2], teacher.shape[2])
    columns = min(own.shape[3], teacher.shape[3])
    first, second = (F.adaptive_avg_pool2d(each, (rows, columns)) for each in (own, teacher))
    return first, second


MATCHES: Final[dict[str, Callable[[Tensor, Tensor], Scores]]] = {
    "features": match_features,
    "attention": match_attention,
    "similarity": match_similarity,
}
"""The forms that compare feature maps."""
