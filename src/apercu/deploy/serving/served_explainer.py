"""The explainer that a server serves, as clients see it."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

from PIL import Image

from apercu import render
from apercu.classifiers import ClassNames, InputSpec
from apercu.deploy.export.page import PageSubject, list_examples
from apercu.deploy.serving.requests import MAX_CLASSES

Record: TypeAlias = dict[str, Any]
"""A JSON object."""


@dataclass(frozen=True, eq=False)
class ServedExplainer(PageSubject):
    """The explainer that a server serves, as clients see it; its name is part of addresses.

    Args:
        read_by: `classifier` or `explainer`: which of them predicts.
        examples: PNG files for the page.
    """

    read_by: str
    examples: tuple[bytes, ...] = ()

    def describe(self) -> Record:
        """Return the description that the page and the KServe addresses show."""
        return super().describe() | {
            "most_classes": MAX_CLASSES,
            "examples": len(self.examples),
        }


def make_examples(spec: InputSpec, names: ClassNames) -> tuple[bytes, ...]:
    """Return the pictures of `list_examples` as PNG files."""
    return tuple(
        content if name.endswith(".png") else render.encode_image(Image.open(BytesIO(content)))
        for name, content in list_examples(spec, names)
    )
