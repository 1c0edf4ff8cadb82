"""All recipes by name: `get("final_batch_norm:momentum=0.2")`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from pydantic import ValidationError

from apercu.errors import ConfigError
from apercu.learning.recipes.auxiliary_targets import AuxiliaryTargets
from apercu.learning.recipes.background_exchange import BackgroundExchange
from apercu.learning.recipes.base import Recipe, check_recipes
from apercu.learning.recipes.colouring import Colouring
from apercu.learning.recipes.distillation import Distillation
from apercu.learning.recipes.domain_adaptation import DomainAdaptation
from apercu.learning.recipes.explanation_guided import ExplanationGuided
from apercu.learning.recipes.final_batch_norm import FinalBatchNorm
from apercu.learning.recipes.fine_tuning import Frozen, Full, GradualUnfreezing
from apercu.learning.recipes.glico import Glico
from apercu.learning.recipes.graph_interpolation import GraphInterpolation
from apercu.learning.recipes.mean_teacher import MeanTeacher
from apercu.learning.recipes.mixmatch import MixMatch
from apercu.learning.recipes.spatial_attention import SpatialAttention
from apercu.learning.recipes.static_augmentation import StaticAugmentation
from apercu.learning.recipes.unsupervised_loss import UnsupervisedLoss
from apercu.option_strings import parse_named, split_names

RECIPES: Final[Mapping[str, type[Recipe]]] = {
    recipe.name: recipe
    for recipe in (
        Frozen,
        GradualUnfreezing,
        Full,
        FinalBatchNorm,
        SpatialAttention,
        GraphInterpolation,
        ExplanationGuided,
        BackgroundExchange,
        Colouring,
        StaticAugmentation,
        UnsupervisedLoss,
        AuxiliaryTargets,
        Distillation,
        MixMatch,
        MeanTeacher,
        Glico,
        DomainAdaptation,
    )
}


def names() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(RECIPES)


def get(text: str) -> Recipe:
    """Return a recipe by its name, with settings if some are given.

    >>> get("final_batch_norm:momentum=0.2,shift=false")
    FinalBatchNorm(momentum=0.2, scale=True, shift=False)

    Args:
        text: `NAME` or `NAME:KEY=VALUE,KEY=VALUE`, as a person typed it.

    Returns:
        The recipe.

    Raises:
        ConfigError: the name or a setting is unknown, or a value does not fit.
    """
    try:
        return parse_named(text.strip(), RECIPES, "recipe")
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        key = ".".join(map(str, mistake["loc"]))
        reason = mistake["msg"].removeprefix("Value error, ")
        subject = f"{text.partition(':')[0]}:{key}" if key else text.partition(":")[0]
        raise ConfigError(f"recipe: {subject}: {reason[:1].lower()}{reason[1:]}") from None


def parse_recipes(given: str | Iterable[str | Recipe]) -> tuple[Recipe, ...]:
    """Return recipes of texts, each of which may name several, such as `frozen,final_batch_norm`.

    Args:
        given: texts as people type them, or recipes.

    Returns:
        The recipes, in the order in which they change the network.

    Raises:
        ConfigError: a recipe or a setting is unknown, or two cannot be combined.
    """
    recipes: list[Recipe] = []
    for each in [given] if isinstance(given, str) else given:
        if isinstance(each, Recipe):
            recipes.append(each)
        else:
            recipes += [get(text) for text in split_names(each, "recipe", RECIPES)]
    check_recipes(recipes)
    return tuple(recipes)
