"""Early warning when a training settles in a trivial answer."""

from __future__ import annotations

from dataclasses import dataclass, field

DECAY = 0.98
EMPTY, FULL, ALIKE = 0.01, 0.95, 0.8


@dataclass
class TrivialAnswers:
    """Running means of the mask area for true and fake classes, and what is wrong with them.

    Three answers satisfy part of every masking objective without explaining anything: a mask that
    is empty, one that is full, and one that ignores the class it was asked for.

    Args:
        patience: steps before the first warning; masks start anywhere.
    """

    patience: int
    steps: int = 0
    means: dict[str, float] = field(default_factory=dict)

    def add(self, figures: dict[str, float]) -> None:
        """Takes in one step's `area_true` and, where there were fakes, `area_fake`."""
        self.steps += 1
        for name in ("area_true", "area_fake"):
            if name in figures:
                before = self.means.get(name, figures[name])
                self.means[name] = DECAY * before + (1 - DECAY) * figures[name]

    def warning(self) -> str | None:
        """One line on the trivial answer that the training is in, or None."""
        if self.steps < self.patience or "area_true" not in self.means:
            return None
        true, fake = self.means["area_true"], self.means.get("area_fake")
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
