"""The base of every training: its network, its loss, its optimiser, as Lightning runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Generator, Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from apercu.classifiers import Classifier
from apercu.images import ImageSource
from apercu.progress import ProgressCallback, ignore_progress
from apercu.render import Tile
from apercu.training.config import TrainingConfig
from apercu.training.data import SEED_STEP, TargetFunction, TrainingImages
from apercu.types import Images, Scores

RISING_FRACTION = 0.15
"""Fraction of the steps in which the learning rate rises."""
MAX_GRADIENT_NORM = 1.0
"""Largest norm of the gradients of one group of parameters; larger ones are scaled down."""


class TrainingModule(LightningModule, ABC):
    """A training: the loss of each step, and what a person sees of it.

    Every random draw of a step comes from a generator that is seeded by the step, so a resumed
    training continues exactly where it was.

    Args:
        network: the network that is trained.
        classifier: the classifier, differentiable with respect to its images.
        settings: the settings, which hold the schedule.
        seed: seed of all draws.

    Attributes:
        figures: figures of the last step, by name.
        degenerate: the solution that would satisfy the loss and be of no use.
        warms_up_batchnorm: whether batch norms do not normalise in the first pass over the images.
        trained_buffers: prefix of the names of the buffers that are trained with the parameters.
        target_of: returns the target that comes with each image; None for images alone.
    """

    degenerate: ClassVar[DegenerateSolution]
    warms_up_batchnorm: ClassVar[bool] = False
    trained_buffers: ClassVar[str] = "decoder."
    target_of: TargetFunction | None = None

    def __init__(
        self, network: nn.Module, classifier: Classifier, settings: TrainingConfig, seed: int
    ) -> None:
        super().__init__()
        self.network = network
        self.classifier = classifier
        self.settings = settings
        self.seed = seed
        self.figures: dict[str, Tensor] = {}

    @abstractmethod
    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Return the loss of a batch: images, or images and their targets."""

    @abstractmethod
    def sample_tiles(self, images: Images) -> list[Tile]:
        """Return the tiles that show one image and what the network makes of it now."""

    def load_images(self, source: ImageSource, indices: Sequence[int]) -> TrainingImages:
        """Return the training images, with their targets where there are any.

        Args:
            source: the source of the images.
            indices: indices of those to train on.

        Returns:
            The images.
        """
        return TrainingImages(source, self.classifier, indices, target_of=self.target_of)

    def prepare_network(
        self,
        images: TrainingImages,
        folder: Path,
        say: Callable[[str], None],
        report: ProgressCallback = ignore_progress,
    ) -> dict[str, float]:
        """Prepare the network before the first step; called again when a training is resumed.

        Args:
            images: the training images.
            folder: folder of the checkpoints, where a result can be kept for the next time.
            say: receives one line of news at a time.
            report: receives how far each part of the work is.

        Returns:
            What was measured, by name.
        """
        return {}

    def on_fit_start(self) -> None:
        self.classifier.to(self.device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups of parameters that share a peak rate and a clipped gradient norm."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return [{"params": trained, "lr": self.settings.schedule.rate}]

    def configure_optimizers(self) -> Any:
        schedule, groups = self.settings.schedule, self.parameter_groups()
        optimiser = AdamW(groups, weight_decay=schedule.decay)
        peaks = [group["lr"] for group in groups]
        rate = OneCycleLR(
            optimiser, peaks, total_steps=schedule.steps + 1, pct_start=RISING_FRACTION
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for state in checkpoint["lr_schedulers"]:  # the length of the schedule may have grown
            for name in ("total_steps", "_schedule_phases"):
                state.pop(name, None)

    def on_train_start(self) -> None:
        """Set the rate of the next step, as that of a longer schedule may be another one."""
        rate = self.lr_schedulers()
        if isinstance(rate, OneCycleLR) and rate.last_epoch:
            rate.last_epoch -= 1
            rate.step()

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        for group in optimizer.param_groups:
            clip_grad_norm_(group["params"], MAX_GRADIENT_NORM)

    def step_generator(self) -> Generator:
        """Return the generator of this step's draws, on this rank."""
        ranks = self.trainer.world_size
        draw = (self.seed * SEED_STEP + self.global_step) * ranks + self.global_rank
        return torch.Generator().manual_seed(draw)

    def log_terms(self, terms: dict[str, Scores], figures: dict[str, Tensor]) -> None:
        """Log the mean of each term, their sum, and further figures; NaN and infinity are left out.

        Args:
            terms: weighted terms of the loss by name, one number per image.
            figures: further figures by name, one number each.
        """
        means = {f"term_{name}": values.detach().mean() for name, values in terms.items()}
        loss = torch.stack(list(means.values())).sum()
        every = {**means, "loss": loss, **figures}
        self.figures = {name: value for name, value in every.items() if value.isfinite()}
        self.log_dict(self.figures)


DECAY = 0.98
"""Fraction of a running mean that a step keeps."""


@dataclass(frozen=True)
class DegenerateSolution:
    """A useless solution that still has a low loss, such as empty masks.

    Args:
        figures: names of the figures of a step that show it.
        required: names of those that must have been measured before anything can be said.
        message: function from the running means of the figures to one line on what is wrong, or
            None.
    """

    figures: tuple[str, ...]
    required: tuple[str, ...]
    message: Callable[[Mapping[str, float]], str | None]


@dataclass
class DegeneracyMonitor:
    """The running means of a training's figures, and what is wrong with them.

    Args:
        solution: the degenerate solution to look for.
        patience: steps before the first warning; trainings start anywhere.
    """

    solution: DegenerateSolution
    patience: int
    steps: int = 0
    means: dict[str, float] = field(default_factory=dict)

    def add(self, figures: Mapping[str, float]) -> None:
        """Add the figures of one step; the mean of a missing one stays as it was."""
        self.steps += 1
        for name in self.solution.figures:
            if name in figures:
                before = self.means.get(name, figures[name])
                self.means[name] = DECAY * before + (1 - DECAY) * figures[name]

    def warning(self) -> str | None:
        """Return one line on the degenerate solution that the training is in, or None."""
        if self.steps < self.patience or not self.means.keys() >= set(self.solution.required):
            return None
        return self.solution.message(self.means)
