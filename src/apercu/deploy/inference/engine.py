"""The interface of engines that explain and predict, and what they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_serializer
from torch import Tensor

from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.names import TOP_INDEX
from apercu.classifiers.outputs import Output
from apercu.classifiers.preprocessing import prepare_image
from apercu.types import Images, Logits, Maps, Picture, Targets
from apercu.verdicts import Trust


@dataclass(frozen=True, eq=False)
class ExplainedBatch:
    """The explanations of a batch of images, on the CPU.

    Attributes:
        maps: masks in [0, 1] at the size of the images, `batch × height × width`.
        targets: the class of each map.
        probabilities: the probabilities of all classes, `batch × classes`.
        trust: whether each prediction may be believed; None without a guard.
    """

    maps: Maps
    targets: Targets
    probabilities: Float[Tensor, "batch classes"]
    trust: list[Trust] | None = None


class ExplainerInfo(BaseModel):
    """What identifies an explainer in records and responses.

    Attributes:
        runtime: `torch` or `onnxruntime`.
        run: a SHA-256 of the trained weights and the settings, or of the exported graph.
        classifier: the SPEC of the explained classifier.
        fingerprint: the fingerprint of that classifier.
        read_by: what predicts the classes, `classifier` or `explainer`.
        precision: the precision of the numbers.
        guard: a SHA-256 of the guard that judges the predictions; left out where there is none.
        kind: the kind of the explainer, such as `mask` or `shapley`; no record holds it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    runtime: str
    run: str
    classifier: str
    fingerprint: str
    read_by: str
    precision: str = "fp32"
    guard: str | None = None
    kind: str = Field("mask", exclude=True)

    @model_serializer(mode="wrap")
    def _leave_out_guard(self, serialise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Write no guard where there is none, as in older records."""
        content = serialise(self)
        if self.guard is None:
            del content["guard"]
        return content


@dataclass(frozen=True, eq=False)
class InferenceEngine(ABC):
    """An explainer that makes masks, and also predicts.

    Attributes:
        info: what identifies the explainer.
        input: the size, channels and range of its images.
        names: the names of the classes.
        output: what the numbers of the classifier mean.
    """

    info: ExplainerInfo
    input: InputSpec
    names: ClassNames
    output: Output

    def prepare(self, picture: Picture) -> Float[Tensor, "channels rows columns"]:
        """Prepare a picture of any size for the engine: whole, squashed.

        Raises:
            ImageError: the picture has other channels, or raw counts and no stretch is known.
        """
        return prepare_image(picture, self.input)

    @abstractmethod
    def predict_logits(
        self, images: Images, targets: Targets | None = None
    ) -> tuple[Logits, list[Tensor]]:
        """Compute the logits of prepared images, and the features that `compute_masks` needs.

        Args:
            images: prepared images on the CPU.
            targets: a class of each image whose mask will be needed; `TOP_INDEX` or None stands for
                the class predicted most.

        Returns:
            The logits, `batch × classes`, and features whose first axis is the batch.
        """

    @abstractmethod
    def compute_masks(
        self, features: list[Tensor], targets: Int[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes height width"]:
        """Compute masks of several classes per image.

        Args:
            features: the features that `predict_logits` returned.
            targets: class indices, `batch × classes`.

        Returns:
            Masks in [0, 1], `batch × classes × height × width`.
        """

    @property
    def has_guard(self) -> bool:
        """Whether a guard judges the predictions."""
        return self.info.guard is not None

    @abstractmethod
    def judge(
        self, images: Images, logits: Logits, features: list[Tensor], masks: Maps | None = None
    ) -> list[Trust] | None:
        """Say of each prediction whether it may be believed.

        Args:
            images: prepared images.
            logits: the logits that `predict_logits` returned.
            features: the features that it returned besides.
            masks: masks of the classes predicted most, where they are there already.

        Returns:
            One answer per image; None without a guard.
        """

    @abstractmethod
    def __call__(self, images: Images, target: int = TOP_INDEX) -> ExplainedBatch:
        """Explain prepared images.

        Args:
            images: prepared images on the CPU.
            target: the index of the class to explain; `TOP_INDEX` stands for the class predicted
                most in each image.

        Returns:
            The masks, their classes, and the probabilities; with a guard also whether they may be
            believed.
        """
