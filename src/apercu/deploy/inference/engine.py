"""What explains and predicts, whoever computes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.preprocessing import prepare_image
from apercu.deploy.export.graphs import TOP
from apercu.types import Images, Logits, Maps, Picture, Scores, Targets


@dataclass(frozen=True, eq=False)
class ExplainedBatch:
    """Of a batch of images, on the CPU.

    Attributes:
        maps: masks in [0, 1], at the size of the images.
        targets: the class of each map.
        probabilities: of all classes.
    """

    maps: Maps
    targets: Targets
    probabilities: Float[Tensor, "batch classes"]

    @property
    def target_probabilities(self) -> Scores:
        """Probability of the class of each map."""
        return self.probabilities.gather(1, self.targets[:, None])[:, 0]


class ExplainerInfo(BaseModel):
    """Who explains.

    Attributes:
        runtime: PyTorch, or ONNX Runtime.
        run: SHA-256 of what was trained and how, or of the exported graph.
        classifier: how the explained one was named.
        fingerprint: of that classifier.
        read_by: who says which class is seen, and how probable it is.
        precision: of the numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    runtime: str
    run: str
    classifier: str
    fingerprint: str
    read_by: str
    precision: str = "fp32"


@dataclass(frozen=True, eq=False)
class InferenceEngine(ABC):
    """A mask explainer that also predicts.

    Attributes:
        about: who explains.
        input: what its images look like.
        names: of the classes.
    """

    info: ExplainerInfo
    input: InputSpec
    names: ClassNames

    def prepare(self, picture: Picture) -> Float[Tensor, "channels rows columns"]:
        """A picture of any size as the engine takes it: whole, squashed.

        Raises:
            ImageError: it has other channels, or raw counts that nothing says how to stretch.
        """
        return prepare_image(picture, self.input)

    @abstractmethod
    def predict_logits(
        self, images: Images, targets: Targets | None = None
    ) -> tuple[Logits, list[Tensor]]:
        """How strongly each class is seen in prepared images, and what `masks` needs of them; each
        by itself, along the first axis.

        Args:
            images: on the CPU.
            first: a class of each that `masks` will surely be asked about; `TOP` the one seen most.
        """

    @abstractmethod
    def compute_masks(
        self, features: list[Tensor], targets: Int[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes height width"]:
        """Masks in [0, 1] of several classes per image.

        Args:
            found: by `read`.
            targets: class indices.
        """

    @abstractmethod
    def __call__(self, images: Images, target: int = TOP) -> ExplainedBatch:
        """Explains prepared images.

        Args:
            images: on the CPU.
            target: index of the class to look for; `TOP` is the one seen most in each image.
        """
