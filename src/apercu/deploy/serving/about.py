"""What a server tells of the explainer that it serves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apercu import render
from apercu.classifiers import InputSpec
from apercu.deploy.serving.facts import Facts
from apercu.deploy.serving.orders import MOST_CLASSES
from apercu.images.planted import Planted

EXAMPLES, LARGEST_EXAMPLE, SMALLEST_EXAMPLE = 6, 224, 64
"""Generated images on the page; pixels of their sides."""


@dataclass(frozen=True, eq=False)
class About:
    """One explainer, as callers see it.

    Args:
        name: of its run folder; part of addresses.
        facts: see there.
        examples: PNG files.
    """

    name: str
    facts: Facts
    examples: tuple[bytes, ...]

    @classmethod
    def of(cls, facts: Facts, run: Path) -> About:
        return cls(run.resolve().name or "explainer", facts, tuple(_examples(facts.input)))

    def record(self) -> dict[str, Any]:
        """For the page, and for whoever asks what is served."""
        height, width = self.facts.input.size
        return {
            "name": self.name,
            "explainer": self.facts.kind,
            "classifier": self.facts.classifier,
            "map_size": {"width": width, "height": height},
            "classes": list(self.facts.names.names),
            "most_classes": MOST_CLASSES,
            "examples": len(self.examples),
            "heat": list(render.HEAT_COLOURS),
        }


def _examples(input: InputSpec) -> list[bytes]:
    """Planted images; none for classifiers of other channels than grey or colour."""
    if input.channels not in (1, 3) or input.takes_raw_counts:
        return []
    side = min(max(*input.size, SMALLEST_EXAMPLE), LARGEST_EXAMPLE)
    planted = Planted(images=EXAMPLES, size=side, objects=2, split="test", channels=input.channels)
    return [render.encode_image(render.to_image(planted[i].picture)) for i in range(EXAMPLES)]
