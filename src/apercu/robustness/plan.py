"""The plan of a stress test: attacks, filters and budgets by the names that people type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from apercu.classifiers import Classifier
from apercu.classifiers.trust import check_spec_of_file
from apercu.errors import ClassifierError, ConfigError
from apercu.filters import NONE, parse_filter
from apercu.log import warn
from apercu.option_strings import MAX_SEED, parse_named, parse_value, split_names
from apercu.robustness.attacks import ATTACKS, Attack
from apercu.training.config import ConfigPresets

CLASS_ATTACKS = "fgsm,pgd"
"""Attacks that detectors and guards are measured with, where none are named."""
DEFAULT_EPSILONS = "2/255,4/255,8/255"
"""Budgets of attacks, where none are named."""
WITHOUT_GRADIENTS = "sparse_evo"
"""Attack that replaces the default attacks where a classifier has no gradients."""
DECISIONS_ONLY = "{} has no gradients, so it is attacked through its decisions only"
"""Warning about attacks that were replaced, with the SPEC of the classifier."""

ObjectiveName: TypeAlias = Literal["class", "map", "expected", "margin"]

OBJECTIVE_PREFIXES: dict[str, ObjectiveName] = {
    "map_": "map",
    "eot_": "expected",
    "margin_": "margin",
}
"""Prefixes of the names of attacks, for other objectives than the loss of the class."""

AttackerKnowledge: TypeAlias = Literal["naive", "adaptive"]
"""Whether the attacker knows of the filter."""


def find_objective_name(text: str) -> ObjectiveName:
    """Find the objective of an attack from its name.

    `class` is the loss of the class, `map` the distance of the map, `expected` the loss of the
    class averaged over noise, and `margin` the margin of the class.
    """
    return next(
        (name for prefix, name in OBJECTIVE_PREFIXES.items() if text.startswith(prefix)), "class"
    )


def parse_attack(text: str, seed: int = 0) -> Attack:
    """Parse the name of an attack, such as `pgd:steps=20` or `map_pgd`.

    Args:
        text: name with settings.
        seed: seed of the attack, unless its settings have one.

    Returns:
        The attack; a prefix only chooses its objective.

    Raises:
        ConfigError: there is no such attack or setting, or it cannot follow the objective.
    """
    prefix = next((prefix for prefix in OBJECTIVE_PREFIXES if text.startswith(prefix)), "")
    bare = text.removeprefix(prefix)
    if prefix and bare.startswith(tuple(OBJECTIVE_PREFIXES)):
        raise ConfigError(
            f"attacks: {text}: expected one of {', '.join(OBJECTIVE_PREFIXES)} before a name"
        )
    attack = parse_named(bare, ATTACKS, "attacks", seed=seed)
    if prefix and attack.needs != "gradients":
        raise ConfigError(
            f"attacks: {text} uses no gradients, so it takes no prefix; "
            f"expected {prefix}pgd, for example"
        )
    if prefix and not attack.any_objective:
        raise ConfigError(
            f"attacks: {text} has an objective of its own, so it takes no prefix; "
            f"expected {prefix}pgd, for example"
        )
    return attack


def parse_epsilons(text: str) -> list[float]:
    """Parse budgets such as `2/255,4/255`, in units of the range of a pixel.

    Raises:
        ConfigError: a word is not a number, or not above 0 and up to 1.
    """
    return [_parse_epsilon(word) for word in split_names(text, "epsilons", ())]


def _parse_epsilon(word: str) -> float:
    try:
        epsilon = cast(float, parse_value(float, word))
    except ValueError:
        raise ConfigError(f"epsilons: expected a number such as 8/255, got {word!r}") from None
    if not 0 < epsilon <= 1:
        raise ConfigError(
            f"epsilons: expected numbers above 0 and up to 1 (8/255 is 0.0314), got {word}"
        )
    return epsilon


def adapt_attacks(names: Sequence[str], classifier: Classifier, *, chosen: bool) -> tuple[str, ...]:
    """Adapt a list of attacks to a classifier that may have no gradients.

    Args:
        names: names of the attacks.
        classifier: classifier that is attacked.
        chosen: whether a person chose the attacks; default attacks are replaced instead.

    Returns:
        The names that the classifier allows.

    Raises:
        ClassifierError: an attack that was chosen needs gradients, and there are none.
    """
    failing = [name for name in names if parse_attack(name).needs != "decisions"]
    if classifier.differentiable or not failing:
        return tuple(names)
    if chosen:
        raise ClassifierError(
            f"attacks: {', '.join(failing)} need gradients, and {classifier.spec} has none; "
            f"use {WITHOUT_GRADIENTS}"
        )
    return (WITHOUT_GRADIENTS,)


def adapt_plan(plan: StressPlan, classifier: Classifier) -> StressPlan:
    """Adapt a plan to a classifier: its attacks, and the filter in front of it.

    Args:
        plan: the plan; attacks that it does not name are the default ones.
        classifier: classifier that is attacked.

    Returns:
        The plan; a warning says where default attacks were replaced.

    Raises:
        ClassifierError: an attack that the plan names needs gradients, and there are none.
    """
    is_chosen = "attacks" in plan.model_fields_set
    allowed = adapt_attacks(plan.attacks, classifier, chosen=is_chosen)
    if allowed != plan.attacks:
        warn(DECISIONS_ONLY.format(classifier.spec))
        plan = plan.model_copy(update={"attacks": allowed})
    return plan.with_filter_of(classifier)


def _parse_number(value: object) -> object:
    """Parse a fraction such as 8/255 as a number."""
    try:
        return parse_value(float, value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("expected a number such as 8/255") from None


Epsilon = Annotated[float, BeforeValidator(_parse_number), Field(gt=0, le=1)]


class StressPlan(BaseModel):
    """The attacks and filters of a stress test, by their names with settings.

    Attributes:
        attacks: names such as `pgd:steps=20`; one with an epsilon of its own runs with that budget
            alone. `map_pgd` keeps the class and moves the map, `eot_pgd` averages over noise,
            `margin_pgd` maximises the difference of two logits.
        filters: names such as `jpeg:quality=75`, or `none`.
        epsilons: budgets in units of the range of a pixel, such as 8/255.
        knowledge: `naive` attackers know the classifier alone, `adaptive` ones the filter, too.
        limit: largest number of images, drawn at random.
        batch: number of images that are attacked together.
        seed: seed of all draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    attacks: tuple[str, ...] = ("fgsm", "i_fgsm", "pgd")
    filters: tuple[str, ...] = (NONE,)
    epsilons: tuple[Epsilon, ...] = tuple(parse_epsilons(DEFAULT_EPSILONS))
    knowledge: tuple[AttackerKnowledge, ...] = ("naive", "adaptive")
    limit: int | None = Field(None, ge=1)
    batch: int = Field(16, ge=1)
    seed: int = Field(0, ge=0, le=MAX_SEED)

    @field_validator("attacks", "filters", "epsilons", "knowledge", mode="before")
    @classmethod
    def _split_text(cls, value: object) -> object:
        """Split one or more values where a file has no list."""
        if isinstance(value, str):
            return split_names(value, "names", ()) if value.strip(", ") else ()
        return (value,) if isinstance(value, int | float) else value

    @field_validator("attacks", "filters", "epsilons", "knowledge")
    @classmethod
    def _check_values(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if not values:
            raise ValueError("expected at least one, got none")
        if len(set(values)) < len(values):
            raise ValueError("expected each once")
        return values

    def with_filter_of(self, classifier: Classifier) -> StressPlan:
        """Return the plan with the filter in front of a classifier, if it has one, at the end."""
        own = classifier.network.filter
        if own is None or any(parse_filter(name) == classifier.filter for name in self.filters):
            return self
        return self.model_copy(update={"filters": (*self.filters, own)})


class StressSettings(StressPlan):
    """A plan with the classifier, images and explainer that it is run with.

    Attributes:
        classifier, images: SPEC of the classifier, and of the images.
        explainer: run folder of a trained explainer.
        surrogate: SPEC of another classifier.
    """

    classifier: str | None = None
    images: str | None = None
    explainer: str | None = None
    surrogate: str | None = None

    @property
    def plan(self) -> StressPlan:
        """The plan without the classifier, the images and the explainers.

        What nobody named stays unset, so that default attacks may be replaced.
        """
        named = self.model_dump(include=set(StressPlan.model_fields), exclude_unset=True)
        return StressPlan(**named)


def read_stress_settings(
    path: str | Path | None, options: Mapping[str, Any] | None = None
) -> StressSettings:
    """Read the settings of a stress test from a YAML file, and let options override them.

    >>> from apercu.robustness import read_stress_settings, run_stress_test
    >>> read = read_stress_settings("plan.yaml", {"limit": 100})  # doctest: +SKIP
    >>> run_stress_test(read.classifier, read.images, "stress", read.plan)  # doctest: +SKIP

    Args:
        path: YAML file; None for the defaults.
        options: values by the names of settings; None, and other names, are left out. Lists may be
            text such as `fgsm,pgd`.

    Returns:
        The settings.

    Raises:
        ConfigError: the file or an option has mistakes; all of them are listed.
        UntrustedError: the file names a factory that may not be called.
    """
    presets = ConfigPresets(StressSettings, {"standard": StressSettings()})
    values = {name: (options or {}).get(name) for name in StressSettings.model_fields}
    changes = {name: value for name, value in values.items() if value is not None}
    for name in ("attacks", "filters", "knowledge"):
        if isinstance(changes.get(name), str):
            changes[name] = split_names(changes[name], name, ())
    if isinstance(changes.get("epsilons"), str):
        changes["epsilons"] = parse_epsilons(changes["epsilons"])
    if "explainer" in changes:
        changes["explainer"] = str(changes["explainer"])
    planned = presets.read(path)
    for name in ("classifier", "surrogate"):
        if name not in changes:
            check_spec_of_file(getattr(planned, name) or "", f"{path}: {name}")
    return presets.parse({**planned.model_dump(exclude_unset=True), **changes}, "stress")
