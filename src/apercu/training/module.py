"""What the trainings of all explainers share, as Lightning runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Generator, Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from apercu.classifiers import Classifier
from apercu.render import Tile
from apercu.training.config import TrainingConfig
from apercu.training.data import TargetFunction
from apercu.training.degeneracy import DegenerateSolution
from apercu.types import Images, Scores

RISING_FRACTION = 0.15  # share of the steps in which the learning rate rises
MAX_GRADIENT_NORM = 1.0  # largest norm of the slopes of one group


class TrainingModule(LightningModule, ABC):
    """One phase of training: a loss per step, and what a person should see of it.

    Every random draw of a step comes from a generator that is seeded by the step, so a resumed
    training goes on exactly where it was.

    Args:
        network: what is trained.
        classifier: the black box, differentiable with respect to its images.
        settings: they hold the schedule.
        seed: of all draws.

    Attributes:
        measured: figures of the last step.
        trivial: the answers that would satisfy the loss and explain nothing.
        still: whether batch norms do not normalise in the first pass over the images.
        learns: what the names of the statistics begin with that are trained along.
        wanted: what comes with each image of a batch; a batch is images alone where None.
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
        """The loss of a batch: images, or images and what is `wanted` of them."""

    @abstractmethod
    def sample_tiles(self, images: Images) -> list[Tile]:
        """One image and how it is explained now."""

    def on_fit_start(self) -> None:
        self.classifier.to(self.device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters that have one peak learning rate, and whose slopes are clipped together."""
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

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        for group in optimizer.param_groups:
            clip_grad_norm_(group["params"], MAX_GRADIENT_NORM)

    def step_generator(self) -> Generator:
        """Of this step's draws, on this rank."""
        ranks = self.trainer.world_size
        draw = (self.seed * 1_000_003 + self.global_step) * ranks + self.global_rank
        return torch.Generator().manual_seed(draw)

    def log_terms(self, terms: dict[str, Scores], figures: dict[str, Tensor]) -> None:
        """Logs the mean of each term, their sum, and further figures; what is no number is not."""
        means = {f"term_{name}": values.detach().mean() for name, values in terms.items()}
        loss = torch.stack(list(means.values())).sum()
        found = {**means, "loss": loss, **figures}
        self.figures = {name: value for name, value in found.items() if value.isfinite()}
        self.log_dict(self.figures)
