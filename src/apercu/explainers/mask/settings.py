"""The settings of the mask explainer, and their presets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    Discriminator,
    Field,
    Tag,
    model_serializer,
)

from apercu.explainers.mask.objectives import ExtentAndCore, Printed, Released
from apercu.explainers.settings import BinaryEmbedding, GatedSettings, RidgeEmbedding
from apercu.networks.decoder import DecoderShape
from apercu.networks.shared_decoder import SharedShape
from apercu.training.config import ConfigPresets, Schedule


class MaskSchedule(Schedule):
    """How long and how fast a mask explainer is trained.

    Attributes:
        fakes: probability that a mask is trained for a class that the classifier does not predict.
        side: shorter side in pixels of the images on which masks are scored, at most; a classifier
            whose size is fixed scores them at its own.
    """

    fakes: float = Field(0.3, ge=0, lt=1)
    side: int = Field(160, ge=16, le=4096)


def _find_form(decoder: Any) -> str:
    """Return the form of a decoder; runs from before there were two do not name it."""
    if isinstance(decoder, dict):
        return str(decoder.get("form", "gated"))
    return str(getattr(decoder, "form", "gated"))


AnyDecoder: TypeAlias = Annotated[
    Annotated[DecoderShape, Tag("gated")] | Annotated[SharedShape, Tag("shared")],
    Discriminator(_find_form),
]


class MaskSettings(GatedSettings):
    """The settings of a mask explainer.

    Attributes:
        explainer: the kind of the explainer.
        decoder: the decoder of the U-Net, which runs for each class (`gated`) or once per image
            (`shared`).
        objective: the objective of the masks.
        encoder_side: shorter side in pixels to which images are enlarged for the encoder, so that
            it shows small objects; none leaves them at the classifier's size, and so does a side
            that is not larger than theirs. It costs time in proportion to the area.
        refinement: what is done with the trained fields. `walk`: the extent is averaged over
            positions that look alike. `object`: on a finer grid, and the region at level 0.55 is
            the one part that holds the strongest evidence.
        close_absent: whether the gate is also closed for classes whose estimated logit is low among
            those of the image. From where on is chosen after the training, so that masks of the
            five most probable classes hardly change.
    """

    explainer: Literal["mask"] = "mask"
    decoder: AnyDecoder = DecoderShape()
    objective: Annotated[ExtentAndCore | Printed | Released, Field(discriminator="form")] = (
        ExtentAndCore()
    )
    schedule: MaskSchedule = MaskSchedule()
    encoder_side: int | None = Field(None, ge=16, le=4096)
    refinement: Literal["walk", "object"] = "walk"
    close_absent: bool = False

    @model_serializer(mode="wrap")
    def _leave_out_newer(
        self, serialise: Callable[[MaskSettings], dict[str, Any]]
    ) -> dict[str, Any]:
        """Leave out settings that runs of version 0.1.0 do not have, where they do what it did."""
        content = serialise(self)
        old = {"encoder_side": None, "refinement": "walk", "close_absent": False}
        return {k: v for k, v in content.items() if k not in old or v != old[k]}


MASK_PRESETS = ConfigPresets(
    MaskSettings,
    {
        "light": MaskSettings(),
        "lean": MaskSettings(decoder=SharedShape(coarse_filters=16), close_absent=True),
        "sharp": MaskSettings(
            schedule=MaskSchedule(steps=700),
            encoder_side=288,
            refinement="object",
            close_absent=True,
        ),
        "paper": MaskSettings(
            encoder="timm/resnet50",
            decoder=DecoderShape(768, 3, "bottleneck", "transposed", gate="deepest"),
            embedding=BinaryEmbedding(),
            objective=Printed(),
            schedule=MaskSchedule(steps=4000, batch=64, rate=1e-3),
        ),
        "release": MaskSettings(
            encoder="timm/resnet50",
            decoder=DecoderShape(256, 1, "bottleneck", "pixel_shuffle", gate="deepest"),
            embedding=BinaryEmbedding(),
            objective=Released(),
            schedule=MaskSchedule(steps=3000, batch=64, rate=1e-3),
        ),
        "small": MaskSettings(
            encoder="small",
            frozen=False,
            decoder=DecoderShape(64, resolution=2),
            embedding=RidgeEmbedding(steps=6000),
        ),
    },
    default="lean",
)
