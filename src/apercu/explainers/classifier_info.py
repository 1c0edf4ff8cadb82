"""What a trained explainer keeps of its classifier, which it no longer needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator, model_serializer
from torch import Tensor

from apercu.classifiers import Classifier, ClassNames, InputSpec
from apercu.classifiers.decisions import Decision
from apercu.classifiers.outputs import SOFTMAX, Output
from apercu.classifiers.preprocessing import prepare_image
from apercu.errors import ImageError, RunError, format_shape
from apercu.types import Images, Picture


class ClassifierInfo(BaseModel):
    """Identity, input and class names of the classifier that an explainer was trained for.

    Attributes:
        spec: SPEC of the classifier.
        fingerprint: digest of its weights and preprocessing.
        input: size, channels and preprocessing of its images.
        classes: readable names of the classes.
        identifiers: WordNet or other identifiers of the classes; the names where there are none.
        output: what the numbers of the classifier mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    spec: str
    fingerprint: str
    input: InputSpec
    classes: tuple[str, ...]
    identifiers: tuple[str, ...]
    output: Output = SOFTMAX

    @field_validator("identifiers")
    @classmethod
    def _check_identifiers(cls, identifiers: tuple[str, ...], info: Any) -> tuple[str, ...]:
        if len(identifiers) != len(info.data.get("classes", identifiers)):
            raise ValueError("expected as many identifiers as classes")
        return identifiers

    @classmethod
    def from_classifier(cls, classifier: Classifier) -> ClassifierInfo:
        """Return what an explainer keeps of this classifier."""
        return cls(
            spec=classifier.spec,
            fingerprint=classifier.fingerprint,
            input=classifier.network.input,
            classes=classifier.classes,
            identifiers=classifier.identifiers,
            output=SOFTMAX if classifier.output.is_softmax else classifier.output,
        )

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, serialise: Callable[[Any], Any]) -> dict[str, Any]:
        """Write no output where it is the default, as in older runs."""
        content: dict[str, Any] = serialise(self)
        if self.output.is_softmax:
            del content["output"]
        return content

    @property
    def decision(self) -> Decision:
        """How logits become probabilities and predicted classes."""
        return self.output.decision

    @property
    def names(self) -> ClassNames:
        """Names and identifiers of the classes, which find the index of a class."""
        return ClassNames(self.classes, self.identifiers)

    def prepare(self, picture: Picture) -> Tensor:
        """Return all of a picture, squashed to the classifier's size."""
        return prepare_image(picture, self.input)

    def check_images(self, images: Images) -> None:
        """Raise ImageError unless the classifier can take the images; NaN is refused, too."""
        expected = (self.input.channels, *self.input.size)
        if not images.is_floating_point():
            kind = str(images.dtype).removeprefix("torch.")
            raise ImageError(f"images: expected floats in [0, 1], got {kind}; divide by 255.0")
        if images.ndim != 4 or tuple(images.shape[1:]) != expected or not len(images):
            raise ImageError(
                f"images: expected batch × {format_shape(expected)}, got "
                f"{format_shape(images.shape)}; prepare() resizes a picture"
            )
        low, high = (bound.item() for bound in images.aminmax())
        if not self.input.takes_raw_counts and not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ImageError(
                f"images: expected pixels in [0, 1], got [{low:.4g}, {high:.4g}]; scale them, 0 to "
                "255 by / 255"
            )

    def check_classifier(self, classifier: Classifier) -> None:
        """Raise RunError unless this is the classifier that the explainer was trained for."""
        if classifier.fingerprint != self.fingerprint:
            raise RunError(
                f"this explainer was trained for {self.spec} (fingerprint "
                f"{self.fingerprint[:12]}), not for {classifier.spec} "
                f"({classifier.fingerprint[:12]}); train one for it"
            )
