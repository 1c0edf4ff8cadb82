"""Trainings of purifiers: the network of a filter learns, and the classifier stays as it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor

from apercu import render
from apercu.classifiers import Classifier, save_classifier
from apercu.errors import ClassifierError
from apercu.filters import FILTERS, NONE, Filter, move_folder, parse_filter
from apercu.filters.purifier import (
    PURIFIER_FOLDER,
    STRIDE,
    Purifier,
    PurifierNetwork,
    write_purifier,
)
from apercu.progress import ProgressCallback
from apercu.robustness.attacks import Pgd
from apercu.robustness.objectives import Untargeted
from apercu.training.augment import RandomViews
from apercu.training.config import TrainingConfig
from apercu.training.data import TrainingImages, iterate_batches, report_batches, split_held_out
from apercu.training.module import DegenerateSolution, TrainingModule
from apercu.training.trainer import Trainer
from apercu.types import Images, Scores

MEASURED_ATTACK = Pgd(epsilon=8 / 255)
"""The attack on the bare classifier by which a purifier is measured before and after training."""
MAX_MEASURED = 200
"""Images held out on which a purifier is measured, at most."""
MIN_KEPT = 0.5
"""Fraction of kept decisions on clean images below which a purifier does not look trained."""


class PurifierDefence(BaseModel, ABC):
    """The network of a filter, and the weights of its loss; prints as its own settings.

    Attributes:
        decision: weight of the cross-entropy with the classifier's own probabilities; that of the
            squared error of the pixels is 1.
        width: features of the network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    form: str
    decision: float = Field(0.02, ge=0)
    width: int = Field(48, ge=1, le=1024)

    @property
    def test_filters(self) -> tuple[str, ...]:
        """Names of the filters behind which the network is used besides that of its card."""
        return (NONE,)

    @property
    def has_filters(self) -> bool:
        """Whether the network learns behind filters of the defence's own: it is one itself."""
        return True

    @property
    @abstractmethod
    def penalty(self) -> float:
        """Weight of what the network says should be small besides."""

    def find_sizes(self, channels: int) -> dict[str, int]:
        """Return the sizes of the network for images of some channels."""
        return {"channels": channels, "width": self.width}

    def build_network(self, channels: int, seed: int) -> PurifierNetwork:
        """Build the untrained network for images of some channels."""
        filter_class = FILTERS[self.form]
        if not issubclass(filter_class, Purifier):  # the forms are names of purifiers
            raise TypeError(self.form)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return filter_class.network_class(**self.find_sizes(channels))


@final
class QuantisedAutoencoderDefence(PurifierDefence):
    """Trains a variational autoencoder whose codes are rounded.

    Attributes:
        code: numbers of the code for 4 × 4 pixels.
        levels: levels of each number.
        divergence: weight of the divergence of the codes from a standard normal distribution.
    """

    form: Literal["quantised_autoencoder"] = "quantised_autoencoder"
    code: int = Field(16, ge=1, le=1024)
    levels: int = Field(8, ge=2, le=1024)
    divergence: float = Field(1e-3, ge=0)

    @property
    def penalty(self) -> float:
        return self.divergence

    def find_sizes(self, channels: int) -> dict[str, int]:
        return super().find_sizes(channels) | {"code": self.code, "levels": self.levels}


@final
class StochasticStudentDefence(PurifierDefence):
    """Trains a network to add as much noise as the classifier bears, and to remove it again.

    Attributes:
        noise: weight of the logarithm of the strength of the noise, which is to be large.
    """

    form: Literal["stochastic_student"] = "stochastic_student"
    noise: float = Field(0.01, ge=0)

    @property
    def penalty(self) -> float:
        return self.noise


def _describe_lost(means: Mapping[str, float]) -> str | None:
    """Describe purified images that the classifier does not recognise."""
    if means["right"] < MIN_KEPT / 2:
        return (
            f"the classifier decides otherwise on most purified images ({means['right']:.2f} "
            "kept); raise defence.decision, or the size of the network"
        )
    return None


LOST = DegenerateSolution(("right",), ("right",), _describe_lost)
"""Purified images that the classifier does not recognise."""


@final
class PurifierTraining(TrainingModule):
    """The training of a purifier on clean images, for a classifier that stays as it is.

    Args:
        network: the network of the filter.
        classifier: the bare classifier, with gradients.
        settings: the schedule.
        seed: seed of all draws.
        defence: the weights of the loss.
        views: random views of the images.
    """

    degenerate: ClassVar[DegenerateSolution] = LOST
    trained_buffers: ClassVar[str] = ""

    def __init__(
        self,
        network: PurifierNetwork,
        classifier: Classifier,
        settings: TrainingConfig,
        seed: int,
        defence: PurifierDefence,
        views: RandomViews,
    ) -> None:
        super().__init__(network, classifier, settings, seed)
        self.network: PurifierNetwork
        self.defence, self.views = defence, views

    def training_step(self, images: Images, batch_index: int) -> Tensor:
        generator, decision = self.step_generator(), self.classifier.decision
        images = self.views(images, generator)
        purified, penalty = self._purify(images, generator)
        terms = {
            "pixels": (purified - images).square().mean((1, 2, 3)),
            "penalty": self.defence.penalty * penalty,
        }
        with torch.no_grad():
            probabilities = self.classifier.predict_probabilities(images)
        logits = self.classifier.compute_logits_unchecked(purified.clamp(0, 1))
        terms["decision"] = self.defence.decision * decision.cross_entropy(logits, probabilities)
        kept = decision.agreement(logits, decision.restore_logits(probabilities))
        self.log_terms(terms, {"right": kept.mean()})
        return torch.stack(list(terms.values())).sum(0).mean()

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        generator = torch.Generator().manual_seed(self.seed)
        purified, _ = self._purify(images, generator)
        tiles = []
        for picture in (images, purified.clamp(0, 1)):
            probability, top = self.classifier.predict_probabilities(picture)[0].max(0)
            title = self.classifier.names.short_names[int(top)]
            image = render.to_image(picture[0].cpu())
            tiles.append(render.Tile(image, f"{title} {probability:.2f}"))
        return tiles

    def _purify(self, images: Images, generator: Generator) -> tuple[Images, Scores]:
        """Return purified images of any size, and the penalty of each."""
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        purified, penalty = self.network.purify_for_training(padded, generator)
        return purified[:, :, :height, :width], penalty


def train_purifier(
    settings: TrainingConfig,
    defence: PurifierDefence,
    views: RandomViews,
    trainer: Trainer,
    *,
    resume: bool = True,
) -> tuple[Classifier, dict[str, float]]:
    """Train the network of a filter for the trainer's classifier, and save both in the run folder.

    Args:
        settings: the settings of the run.
        defence: the network, and the weights of its loss.
        views: random views of the images.
        trainer: the classifier, the images and the run folder. A filter in front of the classifier
            is replaced.
        resume: whether to continue a training that was begun in the folder.

    Returns:
        The classifier with the filter in front, and what was measured on images that were held out,
        before and after: how often the classifier's own decision on the clean image is kept, on
        clean images, and on those that an attack on the bare classifier made.

    Raises:
        ClassifierError: the classifier gives no gradients.
        ConfigError: the path of the run folder has a comma.
        RunError: the folder holds a training with other settings.
    """
    bare = trainer.classifier.without_filter()
    if not bare.differentiable:
        raise ClassifierError(
            f"{bare.spec} gives no gradients{bare.gradient_reason}, from which a purifier learns; "
            "train one for a network of PyTorch"
        )
    trainer = replace(trainer, classifier=bare)
    folder = trainer.run / PURIFIER_FOLDER
    text = move_folder(f"{defence.form}:folder=", str(folder))  # before the training, not after it
    network = defence.build_network(bare.channels, trainer.seed)
    with trainer.make_record(settings).begin(resume=resume):
        training = PurifierTraining(network, bare, settings, trainer.seed, defence, views)
        facts = trainer.fit(training)
        write_purifier(network, defence.form, defence.find_sizes(bare.channels), folder)
        held_out = split_held_out(len(trainer.source), trainer.seed).held_out
        images = TrainingImages(trainer.source, bare, held_out)
        filter = parse_filter(text)
        if filter is not None:
            facts |= _measure_kept(bare, filter, images, trainer.report)
        trainer.note_quality(facts, find_purifier_doubts)
        defended = Classifier(replace(bare.network, filter=text, guard=None))
        if trainer.is_main_process:
            save_classifier(defended, trainer.run)
            trainer.save_facts(facts)
    return defended, facts


def find_purifier_doubts(facts: Mapping[str, float]) -> list[str]:
    """Return why a purifier does not look trained, from images held out.

    Args:
        facts: what was measured, by name, before and after the training.

    Returns:
        One phrase for each reason.
    """
    doubts = []
    if facts["honest"] < MIN_KEPT:
        doubts.append(f"few decisions on clean images are kept ({facts['honest']:.0%})")
    if facts["hard"] <= facts["hard_before"]:
        doubts.append(
            "an attack on the bare classifier is not weaker behind it "
            f"({facts['hard_before']:.0%} of decisions kept, now {facts['hard']:.0%})"
        )
    return doubts


def _measure_kept(
    bare: Classifier, filter: Filter, images: TrainingImages, report: ProgressCallback
) -> dict[str, float]:
    """Measure how often decisions are kept, with and without the filter.

    The keys are `honest` for clean images, `hard` for attacked ones, and `measured_images` for how
    many there are of each.
    """
    names = ("honest_before", "hard_before", "honest", "hard")
    kept: dict[str, list[float]] = {name: [] for name in names}
    count, decision = min(MAX_MEASURED, len(images)), bare.decision
    batches = report_batches(iterate_batches(images, count), "measuring", count, report)
    for batch in batches:
        clean = batch.to(bare.device)
        with torch.no_grad():
            logits = bare(clean)
        attacked = MEASURED_ATTACK(Untargeted(bare, logits.argmax(1)), clean)
        for key, inputs in (("honest", clean), ("hard", attacked)):
            for suffix, received in (("_before", inputs), ("", filter(inputs))):
                with torch.no_grad():
                    agreement = decision.agreement(bare(received), logits)
                kept[key + suffix] += agreement.tolist()
    means = {name: sum(values) / max(len(values), 1) for name, values in kept.items()}
    return means | {"measured_images": float(count)}
