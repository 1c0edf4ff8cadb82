"""The settings that explainers share: those of all, and those of explainers with an encoder.

There are three ways to learn the class embedding, before the explainer itself. `RidgeEmbedding`
fits all of the classifier's logits at once by ridge regression: they are free supervision for every
class, where a single label per image is too little. `MaskedEmbedding` goes on from there with
logits of images that parts were removed from, so that it learns where the evidence is, too.
`BinaryEmbedding` is the published phase: it separates real classes from fake ones by the mean
activation.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from apercu.errors import ConfigError
from apercu.training.config import TrainingConfig

SMALL, OWN, TIMM = "small", "own", "timm/"
"""Encoders: from scratch, the classifier's own layers, and the prefix of timm's names."""


FEWEST_FITTED = 64
"""Images that an embedding is fitted on even in the shortest training; fewer tell nothing."""

MASKED_NEEDS_FROZEN = "an embedding of the form `masked` needs frozen: true"

E = TypeVar("E", bound="ExplainerSettings")
G = TypeVar("G", bound="GatedSettings")


class RidgeEmbedding(BaseModel):
    """Least squares from pooled features to the classifier's logits.

    With a frozen encoder the problem is linear and is solved exactly. An encoder that is trained
    learns the logits together with the embedding, by gradient descent.

    Attributes:
        penalties: weights of the ridge penalty, relative to the mean variance of a feature; the
            one that predicts held-out images best is taken.
        images: number of training images that a frozen encoder is fitted on, at most.
        steps: optimisation steps when the encoder is trained.
        batch: images per such step.
        rate: highest learning rate of such steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    form: Literal["answers"] = "answers"
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.001, 0.01, 0.1, 0.3, 1.0, 3.0), min_length=1
    )
    images: int = Field(3000, ge=1)
    steps: int = Field(1500, ge=1)
    batch: int = Field(64, ge=1)
    rate: float = Field(3e-3, gt=0)

    def shorten(self, fraction: float) -> RidgeEmbedding:
        """Return the settings with a fraction of the steps and images, at least `FEWEST_FITTED`."""
        if fraction >= 1:
            return self
        images = max(math.ceil(fraction * self.images), min(FEWEST_FITTED, self.images))
        steps = math.ceil(fraction * self.steps)
        return self.model_copy(update={"images": images, "steps": max(1, steps)})


class MaskedEmbedding(RidgeEmbedding):
    """Gradient descent to the classifier's logits of images that parts were removed from.

    Cells of the deepest feature map are kept or removed at random in the image. The activations of
    the whole image, summed over the kept cells only, have to predict the logits of what was kept.
    That is the objective of FastSHAP (Jethwani et al. 2022) at the cells of the features, where the
    embedding and an adapter of the frozen features are the amortised explainer. The ridge
    regression is the start.

    Attributes:
        form: name of this way.
        masks: random masks per image.
        width: channels inside the adapter.
    """

    form: Literal["masked"] = "masked"  # type: ignore[assignment]
    steps: int = Field(2400, ge=1)
    masks: int = Field(4, ge=1, le=64)
    width: int = Field(128, ge=1, le=4096)


class BinaryEmbedding(BaseModel):
    """The published embedding phase: cross-entropy of real against fake classes.

    Attributes:
        steps: optimisation steps.
        batch: images per step.
        rate: highest learning rate, reached after a rise and then annealed.
        fakes: probability of a fake class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    form: Literal["labels"] = "labels"
    steps: int = Field(8500, ge=1)
    batch: int = Field(128, ge=1)
    rate: float = Field(1e-3, gt=0)
    fakes: float = Field(0.5, gt=0, lt=1)

    def shorten(self, fraction: float) -> BinaryEmbedding:
        """Return the settings with a fraction of the steps."""
        steps = math.ceil(fraction * self.steps)
        return self.model_copy(update={"steps": max(1, steps)})


def _find_form(embedding: Any) -> str:
    """Return the form of an embedding: `answers` where none is named."""
    if isinstance(embedding, dict):
        return str(embedding.get("form", "answers"))
    return str(getattr(embedding, "form", "answers"))


AnyEmbedding: TypeAlias = Annotated[
    Annotated[RidgeEmbedding, Tag("answers")]
    | Annotated[MaskedEmbedding, Tag("masked")]
    | Annotated[BinaryEmbedding, Tag("labels")],
    Discriminator(_find_form),
]


class ExplainerSettings(TrainingConfig):
    """The settings that every trained explainer has.

    Attributes:
        explainer: the kind of the explainer.
    """

    explainer: str

    @property
    def uses_own_layers(self) -> bool:
        """Whether the network is built on the classifier's own layers."""
        return False

    def with_encoder(self: E, encoder: str) -> E:
        """Return the settings with another encoder.

        Raises:
            ConfigError: the explainer has no encoder to choose.
        """
        raise ConfigError(f"encoder: a {self.explainer} explainer has none to choose; leave it out")


class GatedSettings(ExplainerSettings):
    """The settings of explainers with an encoder and a class embedding.

    Attributes:
        encoder: `own` (the classifier's backbone), `small` (from scratch), `timm/NAME` with
            timm's pretrained weights, or the SPEC of any classifier that shows its layers.
        frozen: whether the encoder stays as it is, or learns together with the class embedding.
        embedding: how the class embedding is learned.
    """

    open_parts: ClassVar[tuple[str, ...]] = ("embedding",)
    encoder: str = OWN
    frozen: bool = True
    embedding: AnyEmbedding = RidgeEmbedding()

    @property
    def uses_own_layers(self) -> bool:
        """Whether the network is built on the classifier's own layers."""
        return self.encoder == OWN

    @property
    def adapter_width(self) -> int:
        """Channels inside the adapter of the deepest features; 0 where there is none."""
        return self.embedding.width if isinstance(self.embedding, MaskedEmbedding) else 0

    def with_encoder(self: G, encoder: str) -> G:
        """Return the settings with another encoder; `small` is trained from scratch.

        Raises:
            ConfigError: an encoder from scratch cannot have the embedding of the settings.
        """
        scratch = encoder == SMALL or (encoder.startswith(TIMM) and not self.frozen)
        if scratch and self.adapter_width:
            raise ConfigError(f"encoder: {encoder} is trained from scratch; {MASKED_NEEDS_FROZEN}")
        return self.model_copy(update={"encoder": encoder, "frozen": not scratch})

    def shorten_phases(self: G, fraction: float) -> G:
        return self.model_copy(update={"embedding": self.embedding.shorten(fraction)})

    @model_validator(mode="after")
    def _check_encoder(self) -> GatedSettings:
        if self.encoder == SMALL and self.frozen:
            raise ValueError("a `small` encoder starts from nothing, so set frozen: false")
        if not self.frozen and self.encoder != SMALL and not self.encoder.startswith(TIMM):
            raise ValueError(
                f"the encoder `{self.encoder}` is a classifier's own, so set frozen: true"
            )
        if not self.frozen and self.adapter_width:
            raise ValueError(MASKED_NEEDS_FROZEN)
        return self
