"""Early warning when a training settles in a trivial answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

DECAY = 0.98
EMPTY, FULL, ALIKE = 0.01, 0.95, 0.8
TURNED, SEEN, FAINT, WIDE = 0.5, 0.002, 0.05, 0.6
TOLD, MISREAD = 0.1, 1.0
FEW = 0.35
COLLAPSED = 0.02


@dataclass(frozen=True)
class DegenerateSolution:
    """What satisfies an objective and explains nothing.

    Args:
        figures: what is looked at, as a training measures it.
        needed: those without which nothing can be told.
        told: one line on what is wrong with their running means, or None.
    """

    figures: tuple[str, ...]
    required: tuple[str, ...]
    message: Callable[[Mapping[str, float]], str | None]


def _describe_masks(means: Mapping[str, float]) -> str | None:
    """A mask that is empty, one that is full, one that ignores the class it was asked for."""
    true, fake = means["area_true"], means.get("area_fake")
    if true < EMPTY:
        return f"masks are empty (mean area {true:.3f}); lower the weight of the area"
    if true > FULL:
        return f"masks are full (mean area {true:.3f}); raise the weight of the area"
    if fake is not None and fake > ALIKE * true:
        return (
            f"masks ignore the class (mean area {true:.2f} for true, {fake:.2f} for fake "
            "classes); gate the skip connections or train longer"
        )
    return None


def _describe_counterparts(means: Mapping[str, float]) -> str | None:
    """Images that are both the same, that change nothing, everything, or nothing visible."""
    turned, change = means["flipped"], means["change"]
    if change < SEEN:
        return f"both counterparts are the same (mean difference {change:.4f}); raise flip"
    if turned < TURNED:
        return f"adversarial images keep the decision (flipped {turned:.2f}); raise flip"
    if means["peak"] < FAINT:
        return (
            f"adversarial images are invisible noise (largest difference {means['peak']:.3f}); "
            "coarsen the resolution or raise plausibility"
        )
    if means["spread"] > WIDE:
        return (
            f"the difference is everywhere (on {means['spread']:.2f} of the image); "
            "raise scarcity or closeness"
        )
    return None


def _describe_codes(means: Mapping[str, float]) -> str | None:
    """Codes that tell nothing of their images, and readers that know less than nothing."""
    if means["told"] < TOLD:
        return (
            f"codes tell little of their images ({means['told']:.2f} of the variance); lower noise"
        )
    if means["misread"] > MISREAD:
        return (
            "the classifier's answers cannot be read from the codes (error "
            f"{means['misread']:.2f} of the change); enlarge shape.side, or train on"
        )
    return None


def _describe_classifiers(means: Mapping[str, float]) -> str | None:
    """Networks that answer the same to everything."""
    if means["classes"] < FEW:
        return (
            f"the network answers few of the classes ({means['classes']:.2f} of those there are); "
            "lower the rate, or the budget of the attack"
        )
    return None


def _describe_features(means: Mapping[str, float]) -> str | None:
    """Networks that give every image the same features."""
    if means["spread"] < COLLAPSED:
        return (
            f"features are the same for all images (spread {means['spread']:.3f}); lower the rate, "
            "or enlarge the batch"
        )
    return None


MASKS = DegenerateSolution(("area_true", "area_fake"), ("area_true",), _describe_masks)
_FOUR = ("flipped", "change", "peak", "spread")
COUNTERPARTS = DegenerateSolution(_FOUR, _FOUR, _describe_counterparts)
LATENT = DegenerateSolution(("told", "misread"), ("told", "misread"), _describe_codes)
CLASSIFIERS = DegenerateSolution(("classes",), ("classes",), _describe_classifiers)
FEATURES = DegenerateSolution(("spread",), ("spread",), _describe_features)


@dataclass
class DegeneracyMonitor:
    """Running means of a training's figures, and what is wrong with them.

    Args:
        trivial: what is looked for.
        patience: steps before the first warning; explanations start anywhere.
    """

    solution: DegenerateSolution
    patience: int
    steps: int = 0
    means: dict[str, float] = field(default_factory=dict)

    def add(self, figures: Mapping[str, float]) -> None:
        """Takes in one step's figures; one that is missing stays as it was."""
        self.steps += 1
        for name in self.solution.figures:
            if name in figures:
                before = self.means.get(name, figures[name])
                self.means[name] = DECAY * before + (1 - DECAY) * figures[name]

    def warning(self) -> str | None:
        """One line on the trivial answer that the training is in, or None."""
        if self.steps < self.patience or not self.means.keys() >= set(self.solution.required):
            return None
        return self.solution.message(self.means)
