"""The settings of the training of a classifier, and the presets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from apercu.errors import ConfigError
from apercu.images.stretch import StretchMethod
from apercu.pretraining.backbone import FirstLayer
from apercu.training.augment import RandomExposure, RandomViews
from apercu.training.config import ConfigPresets, Schedule, TrainingConfig


def _print_recipes(given: object) -> object:
    """Return recipes as the texts that the settings keep; pydantic expects a ValueError."""
    from apercu.learning.recipes.base import Recipe
    from apercu.learning.recipes.registry import parse_recipes

    if isinstance(given, str):
        given = (given,)
    if not isinstance(given, list | tuple):
        return given
    if not all(isinstance(each, str | Recipe) for each in given):
        raise ValueError("expected names of recipes")
    try:
        return tuple(map(str, parse_recipes(given)))
    except ConfigError as error:
        raise ValueError(str(error)) from None


RecipeTexts = Annotated[tuple[str, ...], BeforeValidator(_print_recipes)]


class LearningSchedule(Schedule):
    """The length and the pace of the training of a classifier."""

    steps: int = Field(600, ge=1)
    batch: int = Field(32, ge=2)
    rate: float = Field(1e-3, gt=0)
    decay: float = Field(1e-2, ge=0)
    averaging: float = Field(0.99, ge=0, lt=1)


class InputChoice(BaseModel):
    """How images are prepared, where the network does not say it.

    Attributes:
        channels: number of bands; those of the network when None.
        size: side in pixels; that of the network when None, or of the first image, up to 224,
            where the network has new weights.
        stretch: how raw counts become pixels; that of the network when None.
        first: what happens to the first layer for another number of bands.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    channels: int | None = Field(None, ge=1, le=64)
    size: int | None = Field(None, ge=8, le=2048)
    stretch: Literal["auto", "none"] | StretchMethod | None = None
    first: FirstLayer = "inflate"


class SearchSpace(BaseModel):
    """The settings that a search tries, by cross-validation inside the training part.

    Attributes:
        rates: learning rates.
        layers: recipes that choose which layers learn; empty for all at the same rate.
        folds: number of parts of the training part, each of which is measured on once.
        steps: steps of a trial; those of the training when None.
        by: figure by which trials are compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    rates: tuple[Annotated[float, Field(gt=0)], ...] = Field((3e-4, 1e-3, 3e-3), min_length=1)
    layers: tuple[str, ...] = Field(("frozen", "gradual_unfreezing", "full"), min_length=1)
    folds: int = Field(3, ge=2, le=10)
    steps: int | None = Field(None, ge=1)
    by: Literal["accuracy", "balanced_accuracy", "auroc", "average_precision", "log_loss"] = "auroc"

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        for text in filter(None, layers):
            _print_recipes(text)
        return layers


class LearningSettings(TrainingConfig):
    """Everything that distinguishes one training of a classifier from another.

    Attributes:
        learning: what the training is, so that folders of other trainings are recognised.
        recipes: recipes as people type them, in the order in which they change the network.
        scratch: whether all weights are new.
        input: how images are prepared, where the network does not say it.
        balanced: whether all classes count the same, however often they occur.
        restore_frequencies: whether probabilities are brought back to the frequencies of the
            training images, after a training in which all classes count the same.
        calibration: fraction of the labelled images that only calibrate the probabilities.
        test: fraction of the labelled images that only measure, where no test images are given.
        views: random views of the images.
        exposure: random changes of the exposure, sharpness and noise of the images.
        norms: whether batch norms of the network that the training begins with learn statistics of
            the training images, or keep their own, which few images or small batches do not give.
        turned: whether images are turned by right angles and mirrored, as the sky has no upside.
        search: what a search tries, where one is asked for.
        schedule: the length and the pace.
    """

    learning: Literal["classifier"] = "classifier"
    recipes: RecipeTexts = ()
    scratch: bool = False
    input: InputChoice = InputChoice()
    balanced: bool = True
    restore_frequencies: bool = False
    calibration: float = Field(0.2, gt=0, lt=0.5)
    test: float = Field(0.2, gt=0, lt=0.5)
    views: RandomViews = RandomViews(smallest=0.7, stretch=1.2)
    exposure: RandomExposure = RandomExposure()
    norms: Literal["learn", "keep"] = "learn"
    turned: bool = False
    search: SearchSpace = SearchSpace()
    schedule: LearningSchedule = LearningSchedule()


LEARNING = ConfigPresets(
    LearningSettings,
    {
        "full": LearningSettings(),
        "frozen": LearningSettings(recipes=("frozen",)),
        "gradual": LearningSettings(recipes=("gradual_unfreezing",)),
        "scratch": LearningSettings(scratch=True),
    },
)
