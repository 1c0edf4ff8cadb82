"""The settings that explainers share: those of all, and those of explainers with an encoder."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field, model_validator

from apercu.errors import ConfigError
from apercu.explainers.class_embedding import (
    BinaryEmbedding,
    MaskedEmbedding,
    RidgeEmbedding,
)
from apercu.training.config import TrainingConfig

SMALL, OWN, TIMM = "small", "own", "timm/"
"""Encoders: from scratch, the classifier's own layers, and the prefix of timm's names."""


E = TypeVar("E", bound="ExplainerSettings")
G = TypeVar("G", bound="GatedSettings")


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

    encoder: str = OWN
    frozen: bool = True
    embedding: Annotated[
        RidgeEmbedding | MaskedEmbedding | BinaryEmbedding, Field(discriminator="form")
    ] = RidgeEmbedding()

    @property
    def uses_own_layers(self) -> bool:
        """Whether the network is built on the classifier's own layers."""
        return self.encoder == OWN

    @property
    def adapter_width(self) -> int:
        """Channels inside the adapter of the deepest features; 0 where there is none."""
        return self.embedding.width if isinstance(self.embedding, MaskedEmbedding) else 0

    def with_encoder(self: G, encoder: str) -> G:
        """Return the settings with another encoder; `small` is trained from scratch."""
        scratch = encoder == SMALL or (encoder.startswith(TIMM) and not self.frozen)
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
            raise ValueError("an embedding of the form `masked` needs frozen: true")
        return self
