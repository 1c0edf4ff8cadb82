"""What a training of the mask explainer can be told, and the presets."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from apercu.networks.decoder import DecoderShape
from apercu.training.embedding import Answers, Labels
from apercu.training.objectives import Dial, Printed, Released
from apercu.training.settings.schedule import Schedule


class MaskSettings(BaseModel):
    """Everything that distinguishes one mask explainer from another.

    Attributes:
        encoder: `own` (the classifier's backbone), `small` (from scratch), `timm/NAME` with
            timm's pretrained weights, or the SPEC of any classifier that shows its layers.
        frozen: whether the encoder stays as it is, or learns together with the class embedding.
        decoder: the U-Net's way up.
        embedding: how the class embedding is learned.
        objective: what the masks are trained for.
        schedule: how long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    encoder: str = "own"
    frozen: bool = True
    decoder: DecoderShape = DecoderShape()
    embedding: Annotated[Answers | Labels, Field(discriminator="form")] = Answers()
    objective: Annotated[Dial | Printed | Released, Field(discriminator="form")] = Dial()
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _trains_what_is_random(self) -> MaskSettings:
        if self.encoder == "small" and self.frozen:
            raise ValueError("a `small` encoder starts from nothing, so set frozen: false")
        return self


PRESETS: dict[str, MaskSettings] = {
    "light": MaskSettings(),
    "paper": MaskSettings(
        encoder="timm/resnet50",
        decoder=DecoderShape(768, 3, "bottleneck", "transposed", gate="deepest"),
        embedding=Labels(),
        objective=Printed(),
        schedule=Schedule(steps=4000, batch=64, rate=1e-3),
    ),
    "release": MaskSettings(
        encoder="timm/resnet50",
        decoder=DecoderShape(256, 1, "bottleneck", "pixel_shuffle", gate="deepest"),
        embedding=Labels(),
        objective=Released(),
        schedule=Schedule(steps=3000, batch=64, rate=1e-3),
    ),
    "small": MaskSettings(
        encoder="small",
        frozen=False,
        decoder=DecoderShape(64, resolution=2),
        embedding=Answers(steps=6000),
    ),
}
