"""The settings of the counterpart explainer, and their presets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from apercu.explainers.counterpart.network import CounterpartShape
from apercu.explainers.counterpart.objective import CounterpartObjective
from apercu.explainers.settings import GatedSettings
from apercu.training.config import ConfigPresets, Schedule


class CounterpartSchedule(Schedule):
    """How long and how fast a counterpart explainer is trained."""

    steps: int = Field(800, ge=1)
    rate: float = Field(2e-3, gt=0)


class CounterpartSettings(GatedSettings):
    """The settings of a counterpart explainer.

    Attributes:
        explainer: the kind of the explainer.
        generators: size and kind of the generators.
        objective: the objective of the images.
        weathered: whether the classifier gets the images a little blurred, shifted and noisy.
    """

    explainer: Literal["counterpart"] = "counterpart"
    generators: CounterpartShape = CounterpartShape()
    objective: CounterpartObjective = CounterpartObjective()
    weathered: bool = True
    schedule: CounterpartSchedule = CounterpartSchedule()

    @model_validator(mode="after")
    def _check_effect(self) -> CounterpartSettings:
        objective = self.objective
        if objective.scarcity and not self.generators.places:
            raise ValueError("objective.scarcity needs generators.places; set one of them")
        if objective.stable == "itself" and (objective.similarity or objective.keep):
            raise ValueError(
                "with objective.stable `itself` there is no second image, so set "
                "objective.similarity and objective.keep to 0"
            )
        return self


_FINE = CounterpartShape(resolution=1, places=False)
_PUBLISHED = {"smoothness": 0.0, "scarcity": 0.0}

COUNTERPART_PRESETS = ConfigPresets(
    CounterpartSettings,
    {
        "light": CounterpartSettings(),
        "sagen": CounterpartSettings(
            encoder="small",
            frozen=False,
            generators=_FINE,
            objective=CounterpartObjective(keep=0.01, flip=0.2, plausibility=0.0, **_PUBLISHED),
            weathered=False,
        ),
        "syce": CounterpartSettings(
            encoder="small",
            frozen=False,
            generators=_FINE,
            objective=CounterpartObjective(
                stable="twice",
                closeness=0.0,
                keep=0.01,
                flip=0.2,
                cycle=2.0,
                cycle_keep=0.005,
                plausibility=0.25,
                **_PUBLISHED,
            ),
            weathered=False,
        ),
        "cyce": CounterpartSettings(
            encoder="small",
            frozen=False,
            generators=_FINE,
            objective=CounterpartObjective(
                stable="itself",
                similarity=0.0,
                keep=0.0,
                closeness=0.0,
                flip=0.2,
                cycle=10.0,
                cycle_keep=0.005,
                plausibility=0.25,
                **_PUBLISHED,
            ),
            weathered=False,
        ),
    },
)
"""`light` is ours. `syce` and `cyce` have the published weights of their terms, `sagen` our guess
of unpublished ones; all three differ from the papers in their one generator for all classes, the
discriminator's loss, and the schedule."""
