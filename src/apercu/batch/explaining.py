"""What a batch needs of an explainer, whoever runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from apercu.classifiers import InputSpec
from apercu.classifiers.pixels import fit_picture
from apercu.types import Images, Maps, Picture, Scores, Targets


@dataclass(frozen=True, eq=False)
class Answers:
    """Of a batch of images, on the CPU.

    Attributes:
        maps: in [0, 1], at the explainer's size.
        targets: the class of each map.
        shares: probability of that class.
    """

    maps: Maps
    targets: Targets
    shares: Scores


class About(BaseModel):
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


class Explaining(ABC):
    """An opened explainer that is asked one thing about every image.

    Args:
        about: who explains.
        input: what its images look like.
        classes: readable names.
    """

    def __init__(self, about: About, input: InputSpec, classes: tuple[str, ...]) -> None:
        self.about = about
        self.input = input
        self.classes = classes

    def prepare(self, picture: Picture) -> Float[Tensor, "channels rows columns"]:
        """A picture of any size as the explainer takes it: whole, squashed.

        Raises:
            ImageError: it holds raw counts that nothing says how to stretch.
        """
        return fit_picture(picture, self.input)

    @abstractmethod
    def __call__(self, images: Images) -> Answers:
        """Maps of prepared images."""
