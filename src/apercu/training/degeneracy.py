"""Early warning when a training settles in a degenerate solution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

DECAY = 0.98
"""Fraction of a running mean that a step keeps."""


@dataclass(frozen=True)
class DegenerateSolution:
    """A solution that satisfies a loss and is of no use, such as masks that are empty.

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
