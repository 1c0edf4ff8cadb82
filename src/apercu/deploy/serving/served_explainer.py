"""The explainer that a server serves, as clients see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from PIL import Image

from apercu import render
from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.outputs import SOFTMAX, Output
from apercu.deploy.serving.requests import MAX_CLASSES
from apercu.explainers.ready import has_imagenet_classes, list_photographs
from apercu.images.planted import Planted

EXAMPLES, MAX_EXAMPLE, MIN_EXAMPLE = 6, 224, 64
"""Planted images on the page; pixels of their sides."""
Record: TypeAlias = dict[str, Any]
"""A JSON object."""


@dataclass(frozen=True, eq=False)
class ServedExplainer:
    """The explainer that a server serves, as clients see it.

    Args:
        name: name of the run folder, which is part of addresses.
        kind: `mask`, `counterpart`, `latent`.
        classifier: SPEC of the explained classifier.
        names: names of the classes.
        input: what the classifier's images look like.
        read_by: `classifier` or `explainer`: which of them predicts.
        examples: PNG files for the page.
        output: what the numbers of the classifier mean.
    """

    name: str
    kind: str
    classifier: str
    names: ClassNames
    input: InputSpec
    read_by: str
    examples: tuple[bytes, ...] = ()
    output: Output = SOFTMAX

    def describe(self) -> Record:
        """Return the description that the page and the KServe addresses show."""
        height, width = self.input.size
        return {
            "name": self.name,
            "explainer": self.kind,
            "classifier": self.classifier,
            "map_size": {"width": width, "height": height},
            "classes": list(self.names.names),
            "output": "softmax" if self.output.is_plain else self.output.name,
            "several": self.output.decision.is_multiple,
            "most_classes": MAX_CLASSES,
            "examples": len(self.examples),
            "heat": list(render.HEAT_COLOURS),
        }


def make_examples(spec: InputSpec, names: ClassNames) -> tuple[bytes, ...]:
    """Return PNG files for the page: photographs for the classes of ImageNet, else planted images.

    Args:
        spec: what the images of the classifier look like.
        names: names of its classes.

    Returns:
        The files; none for classifiers of other channels than grey or colour.
    """
    if spec.channels == 3 and has_imagenet_classes(names):
        return tuple(render.encode_image(Image.open(path)) for path in list_photographs())
    if spec.channels not in (1, 3) or spec.takes_raw_counts:
        return ()
    side = min(max(*spec.size, MIN_EXAMPLE), MAX_EXAMPLE)
    planted = Planted(images=EXAMPLES, size=side, objects=2, split="test", channels=spec.channels)
    return tuple(
        render.encode_image(render.to_image(planted[number].picture)) for number in range(EXAMPLES)
    )
