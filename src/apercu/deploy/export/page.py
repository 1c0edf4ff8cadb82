"""The page of an explainer, which a server sends or a folder holds: its files and examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apercu import render
from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.outputs import Output
from apercu.explainers.ready import has_imagenet_classes, list_photographs
from apercu.images.planted import Planted

PAGE_FOLDER = Path(__file__).parents[1] / "serving" / "web"
"""The scripts and styles of the page."""
EXAMPLES, MAX_EXAMPLE, MIN_EXAMPLE = 6, 224, 64
"""Planted images on the page; pixels of their sides."""
FEW_CLASSES, DIGITS = 12, 6
"""Classes up to which all are listed, as in `names.js`; digits of a probability."""


@dataclass(frozen=True, eq=False)
class PageSubject:
    """The explainer that a page shows.

    Args:
        name: what the page calls it, such as the name of its run folder.
        kind: kind of the explainer, such as `mask` or `latent`; `method` where a method explains.
        classifier: SPEC of the explained classifier.
        names: names of the classes.
        input: what the classifier's images look like.
        output: what the numbers of the classifier mean.
    """

    name: str
    kind: str
    classifier: str
    names: ClassNames
    input: InputSpec
    output: Output

    def describe(self) -> dict[str, Any]:
        """Return what the page needs to know, as JSON can hold it."""
        height, width = self.input.size
        return {
            "name": self.name,
            "explainer": self.kind,
            "classifier": self.classifier,
            "map_size": {"width": width, "height": height},
            "classes": list(self.names.names),
            "output": "softmax" if self.output.is_softmax else self.output.name,
            "several": self.output.decision.is_multiple,
            "heat": list(render.HEAT_COLOURS),
        }


def list_examples(spec: InputSpec, names: ClassNames) -> list[tuple[str, bytes]]:
    """Return pictures for the page: photographs for the classes of ImageNet, else planted images.

    Args:
        spec: what the images of the classifier look like.
        names: names of its classes.

    Returns:
        Names and bytes of JPEG or PNG files; none for classifiers of other channels than grey or
        colour.
    """
    if spec.channels == 3 and has_imagenet_classes(names):
        return [(path.name, path.read_bytes()) for path in list_photographs()]
    if spec.channels not in (1, 3) or spec.takes_raw_counts:
        return []
    side = min(max(*spec.size, MIN_EXAMPLE), MAX_EXAMPLE)
    planted = Planted(images=EXAMPLES, size=side, objects=2, split="test", channels=spec.channels)
    return [
        (f"{number}.png", render.encode_image(render.to_image(planted[number].picture)))
        for number in range(EXAMPLES)
    ]
