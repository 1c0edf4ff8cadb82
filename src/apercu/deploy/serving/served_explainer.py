"""The explainer that a server serves, as clients see it."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

from PIL import Image

from apercu import render
from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.outputs import SOFTMAX, Output
from apercu.deploy.export.page import PageSubject, list_examples
from apercu.deploy.serving.requests import MAX_CLASSES

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
        subject = PageSubject(
            self.name, self.kind, self.classifier, self.names, self.input, self.output
        )
        return subject.describe() | {
            "most_classes": MAX_CLASSES,
            "examples": len(self.examples),
        }


def make_examples(spec: InputSpec, names: ClassNames) -> tuple[bytes, ...]:
    """Return the pictures of `list_examples` as PNG files."""
    return tuple(
        content if name.endswith(".png") else render.encode_image(Image.open(BytesIO(content)))
        for name, content in list_examples(spec, names)
    )
