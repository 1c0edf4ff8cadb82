"""The settings of a training with a defence, and the presets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from apercu.robustness.defences.adversarial import Adversarial
from apercu.robustness.defences.base import Standard
from apercu.robustness.defences.hybrid import Hybrid
from apercu.robustness.defences.purifier import (
    PurifierDefence,
    QuantisedAutoencoderDefence,
    StochasticStudentDefence,
)
from apercu.robustness.defences.sinkhorn import Sinkhorn
from apercu.training.augment import RandomViews
from apercu.training.config import ConfigPresets, Schedule, TrainingConfig

AnyDefence = Annotated[
    Standard
    | Hybrid
    | Adversarial
    | Sinkhorn
    | QuantisedAutoencoderDefence
    | StochasticStudentDefence,
    Field(discriminator="form"),
]


class DefenceSchedule(Schedule):
    """The length and the pace of the training of a classifier."""

    steps: int = Field(1000, ge=1)
    batch: int = Field(24, ge=2)
    rate: float = Field(1.5e-4, gt=0)
    averaging: float = Field(0.995, ge=0, lt=1)


class DefenceSettings(TrainingConfig):
    """Everything that distinguishes one training against attacks from another.

    Attributes:
        defence: the defence, which computes the loss.
        wanted: the targets: `labels`, or `answers`, the probabilities that the undefended
            classifier gives, which needs no labels.
        scratch: whether all weights are reinitialised; otherwise the classifier's own are the
            start. Only from scratch do batch norms learn their statistics, because those of small
            batches spoil learnt features.
        views: random views of the images.
        schedule: the length and the pace.
    """

    defence: AnyDefence = Hybrid()
    wanted: Literal["answers", "labels"] = "answers"
    scratch: bool = False
    views: RandomViews = RandomViews(smallest=0.6, whole=0.3)
    schedule: DefenceSchedule = DefenceSchedule()

    @model_validator(mode="after")
    def _check_effect(self) -> DefenceSettings:
        if isinstance(self.defence, PurifierDefence) and (self.scratch or self.wanted == "labels"):
            raise ValueError(
                f"with {self.defence.form} the classifier stays as it is, and the filter learns "
                "from its predictions; leave out scratch and wanted"
            )
        return self


_PURIFIER = DefenceSchedule(steps=1500, batch=32, rate=2e-3)

DEFENCES = ConfigPresets(
    DefenceSettings,
    {
        "hybrid": DefenceSettings(),
        "standard": DefenceSettings(defence=Standard()),
        "adversarial": DefenceSettings(defence=Adversarial()),
        "halftone_adversarial": DefenceSettings(defence=Adversarial(behind="floyd_steinberg")),
        "sinkhorn": DefenceSettings(defence=Sinkhorn()),
        "quantised_autoencoder": DefenceSettings(
            defence=QuantisedAutoencoderDefence(), schedule=_PURIFIER
        ),
        "stochastic_student": DefenceSettings(
            defence=StochasticStudentDefence(), schedule=_PURIFIER
        ),
    },
)
