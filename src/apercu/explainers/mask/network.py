"""The masking model of Dabkowski & Gal: encoder, class gate, decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from apercu.networks.decoder import Decoder, DecoderShape, Evidence, SharedFeatures
from apercu.networks.diffusion import affinity_features, diffuse
from apercu.networks.encoder import Encoder
from apercu.networks.gate import GatedNetwork, GateKind
from apercu.networks.shared_decoder import SharedDecoder, SharedShape
from apercu.types import Images, LogOdds, Maps, Targets

CLASSES_PER_PASS = 64
"""Classes of an image that are decoded at once; more would take memory and no less time."""
CORE_PEAK_FRACTION = 0.8
"""Share of the core's peak above which the extent orders the pixels of a mask with it."""


@final
class MaskNetwork(GatedNetwork):
    """Images and class indices → how strongly each pixel should be kept.

    Two output channels a, b give a mask |a| / (|a| + |b|), handled as its log-odds
    log |a| − log |b|. With the gate on every skip connection there are two such fields, the extent
    of the evidence and its core, and the mask is a dial from one to the other.

    Args:
        encoder: where features come from.
        classes: number of classes the gate knows.
        shape: size and kind of the decoder: of each class its own, or shared by all of an image.
        frozen: whether the encoder stays as it is (in evaluation mode and without gradients) from
            the start, or from when it is settled.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        shape: DecoderShape | SharedShape,
        *,
        frozen: bool = True,
    ) -> None:
        two_fields = isinstance(shape, SharedShape) or shape.gate == "everywhere"
        kind: GateKind = "relative" if two_fields else "published"
        super().__init__(encoder, classes, kind, frozen=frozen)
        self.two_fields = two_fields
        self.decoder: Decoder | SharedDecoder
        if isinstance(shape, SharedShape):
            self.decoder = SharedDecoder(encoder.channels, encoder.strides, shape)
        else:
            self.decoder = Decoder(encoder.channels, encoder.strides, shape)

    def evidence(self, features: list[Tensor], targets: Targets) -> Evidence:
        """Both fields for one class per image, as training shapes them."""
        return self.decoder.apply_gate(
            self._prepare_common(features), self.gate(features[-1], targets)
        )

    def decode(self, features: list[Tensor], targets: Targets) -> LogOdds:
        """Log-odds of keeping for one class per image, at the mask's own resolution."""
        return self.decode_classes(features, targets[:, None]).squeeze(1)

    def decode_classes(
        self, features: list[Tensor], targets: Int[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes rows columns"]:
        """The same for several classes per image, which share the walk's ground.

        What the decoder has in common for all classes is made once. Then many classes of few
        images go through it as one batch, else one class after the other.
        """
        if targets.shape[0] < targets.shape[1]:
            images = zip(*(torch.split(map, 1) for map in features), strict=True)
            pairs = zip(images, targets, strict=True)
            return torch.stack(
                [self._decode_parts(list(one), row.split(CLASSES_PER_PASS)) for one, row in pairs]
            )
        found = self._choose_evidence(features, targets.unbind(1))
        extent = torch.stack([evidence.extent for evidence in found], 1)
        core = torch.stack([evidence.core for evidence in found], 1)
        return self._combine(features, Evidence(extent, core))

    def decode_many(
        self, features: list[Tensor], targets: Int[Tensor, " classes"]
    ) -> Float[Tensor, "classes rows columns"]:
        """Log-odds for many classes of one image, as one batch."""
        return self._decode_parts(features, [targets])

    def _decode_parts(
        self, features: list[Tensor], parts: Sequence[Tensor]
    ) -> Float[Tensor, "classes rows columns"]:
        """Log-odds for the classes of one image, each part as one batch."""
        found = self._choose_evidence(features, parts)
        extent = torch.cat([evidence.extent for evidence in found])
        core = torch.cat([evidence.core for evidence in found])
        return self._combine(features, Evidence(extent[None], core[None]))[0]

    def _choose_evidence(self, features: list[Tensor], parts: Sequence[Tensor]) -> list[Evidence]:
        """Evidence for several sets of classes, after what they have in common."""
        common = self._prepare_common(features)
        return [self.decoder.apply_gate(common, self.gate(features[-1], one)) for one in parts]

    def _prepare_common(self, features: list[Tensor]) -> SharedFeatures:
        skips = dict(zip(self.encoder.strides[:-1], features[:-1], strict=True))
        return self.decoder.compute_shared_features(skips, features[-1])

    def _combine(self, features: list[Tensor], evidence: Evidence) -> Tensor:
        """Both fields as one mask; the field itself where the network has only one."""
        if not self.two_fields:
            return evidence.extent
        extent = diffuse(evidence.extent.sigmoid(), affinity_features(features))
        core = evidence.core
        if core.shape != extent.shape:  # small images, where the walk is on a finer grid
            core = F.interpolate(core, extent.shape[2:], mode="bilinear", align_corners=False)
        return combine_fields(extent, core.sigmoid())

    def forward(self, images: Images, targets: Targets) -> Maps:
        """Log-odds of keeping at the size of the images."""
        return enlarge(self.decode(self.encode(images), targets), images.shape[-2:])


def enlarge(log_odds: LogOdds, size: tuple[int, int] | torch.Size) -> Maps:
    """Bilinear enlargement to the size of the image."""
    up = F.interpolate(log_odds.unsqueeze(1), tuple(size), mode="bilinear", align_corners=False)
    return up.squeeze(1)


def combine_fields(
    extent: Float[Tensor, "*maps rows columns"], core: Float[Tensor, "*maps rows columns"]
) -> Float[Tensor, "*maps rows columns"]:
    """One mask of two: its regions are the extent's up to level 0.5, and above 0.6 the core's.

    The core counts inside the extent, as a share of its peak there, from half of that peak on;
    there the mask is above 0.6 and rises with it. Where it is above `SUREST` of its peak the
    pixels are ordered by both fields, since the highest one of the core alone is often beside the
    object. Elsewhere the mask is the extent, which shrinks fast between 0.5 and
    0.6. Regions shrink as the level rises, everywhere. (A core that reaches out of the extent
    widens the boxes of every level; one that is not measured by its own peak is empty at high
    levels for some images and wide for others; see docs/experiments.md.)
    """
    low = torch.minimum(extent, 0.5 + 0.2 * (extent - 0.5))
    core = _divide_by_peak(torch.where(extent > 0.5, core, 0))
    high = torch.where(core > 0.5, 0.6 + 0.8 * (core - 0.5), 0)
    surest, level = core > CORE_PEAK_FRACTION, 0.6 + 0.8 * (CORE_PEAK_FRACTION - 0.5)
    lowest = torch.where(surest, extent, 1).amin((-2, -1), keepdim=True)
    inner = _divide_by_peak(torch.where(surest, extent - lowest, 0))
    rise = (
        ((core - CORE_PEAK_FRACTION) / (1 - CORE_PEAK_FRACTION)).clamp(min=0).sqrt()
    )  # no step at the border
    high = torch.where(surest, level + (1 - level) * inner * rise, high)
    return torch.logit(torch.maximum(low, high), eps=1e-4)


def _divide_by_peak(field: Float[Tensor, "*maps rows columns"]) -> Tensor:
    """Each map divided by its highest value; a map of zeros stays one."""
    return field / field.amax((-2, -1), keepdim=True).clamp(min=1e-6)
