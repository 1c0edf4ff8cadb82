"""The mask network of Dabkowski & Gal: encoder, class gate, decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from apercu.networks.decoder import (
    Decoder,
    DecoderShape,
    Evidence,
    EvidenceDecoder,
    SharedFeatures,
)
from apercu.networks.diffusion import affinity_features, connect_to_peak, diffuse, diffuse_finely
from apercu.networks.encoder import Encoder
from apercu.networks.gate import GatedNetwork, GateKind
from apercu.networks.shared_decoder import SharedDecoder, SharedShape
from apercu.types import Images, LogOdds, Maps, Targets

Refinement: TypeAlias = Literal["walk", "object"]
"""What is done with the trained fields: `walk` averages the extent over positions that look alike;
`object` does so on a finer grid, and one level of the mask is the part with the strongest evidence.
"""
CLASSES_PER_PASS = 64
"""Classes of an image that are decoded at once; more would need more memory and save no time."""
OBJECT_EXTENT = 0.55
"""Value of the extent at which one object is cut out of it; see docs/experiments.md."""
OBJECT_LEVEL = 0.55
"""Level of the mask whose region is that object."""
CORE_LEVEL, CORE_RISE = 0.6, 0.8
"""Level of the mask at half of the core's peak, and how fast it rises from there to 1."""
CORE_PEAK_FRACTION = 0.8
"""Fraction of the core's peak above which pixels are ordered by the extent, too."""


@final
class MaskNetwork(GatedNetwork):
    """Computes from images and class indices how strongly each pixel should be kept.

    Two output channels a, b give a mask |a| / (|a| + |b|), handled as its log-odds
    log |a| − log |b|. With the gate on every skip connection there are two such fields, the extent
    of the evidence and its core, and the levels of the mask lead from one to the other.

    Args:
        encoder: the encoder of the features.
        classes: number of classes that the gate knows.
        shape: size and kind of the decoder, which runs for each class or once per image.
        frozen: whether the encoder stays as it is from the start; else it is trained until
            `freeze_encoder`.
        adapter_width: channels inside the adapter of the deepest features; 0 for none.
        encoder_side: shorter side in pixels to which images are enlarged for the encoder; None
            leaves them as they are.
        refinement: how both fields become one mask, see `Refinement`.
        closes_absent: whether the gate depends on the z-score of the class, too.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        shape: DecoderShape | SharedShape,
        *,
        frozen: bool = True,
        adapter_width: int = 0,
        encoder_side: int | None = None,
        refinement: Refinement = "walk",
        closes_absent: bool = False,
    ) -> None:
        two_fields = isinstance(shape, SharedShape) or shape.gate == "everywhere"
        kind: GateKind = "relative" if two_fields else "published"
        super().__init__(
            encoder,
            classes,
            kind,
            frozen=frozen,
            adapter_width=adapter_width,
            encoder_side=encoder_side,
            closes_absent=closes_absent,
        )
        self.two_fields = two_fields
        self.refinement = refinement
        self.decoder: EvidenceDecoder
        if isinstance(shape, SharedShape):
            self.decoder = SharedDecoder(encoder.channels, encoder.strides, shape)
        else:
            self.decoder = Decoder(encoder.channels, encoder.strides, shape)

    def evidence(self, features: list[Tensor], targets: Targets) -> Evidence:
        """Return extent and core for one class per image, as they are trained."""
        return self.decoder.apply_gate(
            self._compute_shared(features), self.gate(features[-1], targets)
        )

    def decode(self, features: list[Tensor], targets: Targets) -> LogOdds:
        """Return the log-odds of keeping for one class per image, at the mask's own resolution."""
        return self.decode_classes(features, targets[:, None]).squeeze(1)

    def decode_classes(
        self, features: list[Tensor], targets: Int[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes rows columns"]:
        """Return the log-odds of keeping for several classes per image.

        What does not depend on the class is computed once. Then many classes of few images go
        through the decoder as one batch, else one class after the other.

        Args:
            features: feature maps that `encode` returned, finest first.
            targets: class indices, `batch × classes`.

        Returns:
            Log-odds at the mask's own resolution, `batch × classes × rows × columns`.
        """
        if targets.shape[0] < targets.shape[1]:
            images = zip(*(torch.split(map, 1) for map in features), strict=True)
            pairs = zip(images, targets, strict=True)
            return torch.stack(
                [self._decode_parts(list(maps), row.split(CLASSES_PER_PASS)) for maps, row in pairs]
            )
        fields = self._compute_evidence(features, targets.unbind(1))
        extent = torch.stack([evidence.extent for evidence in fields], 1)
        core = torch.stack([evidence.core for evidence in fields], 1)
        return self._combine(features, Evidence(extent, core))

    def decode_many(
        self, features: list[Tensor], targets: Int[Tensor, " classes"]
    ) -> Float[Tensor, "classes rows columns"]:
        """Return the log-odds of keeping for many classes of one image, as one batch."""
        return self._decode_parts(features, [targets])

    def _decode_parts(
        self, features: list[Tensor], parts: Sequence[Tensor]
    ) -> Float[Tensor, "classes rows columns"]:
        """Return the log-odds of keeping for classes of one image, each part as one batch."""
        fields = self._compute_evidence(features, parts)
        extent = torch.cat([evidence.extent for evidence in fields])
        core = torch.cat([evidence.core for evidence in fields])
        return self._combine(features, Evidence(extent[None], core[None]))[0]

    def _compute_evidence(self, features: list[Tensor], parts: Sequence[Tensor]) -> list[Evidence]:
        """Return the evidence for several sets of classes."""
        shared = self._compute_shared(features)
        gates = [self.gate(features[-1], targets) for targets in parts]
        return [self.decoder.apply_gate(shared, gate) for gate in gates]

    def _compute_shared(self, features: list[Tensor]) -> SharedFeatures:
        skips = dict(zip(self.encoder.strides[:-1], features[:-1], strict=True))
        return self.decoder.compute_shared_features(skips, features[-1])

    def _combine(self, features: list[Tensor], evidence: Evidence) -> Tensor:
        """Return both fields as one mask, or the field itself where the network has only one."""
        if not self.two_fields:
            return evidence.extent
        extent, core = evidence.extent.sigmoid(), evidence.core
        shows_object = self.refinement == "object"
        if shows_object:
            extent = diffuse_finely(extent, features)
        else:
            extent = diffuse(extent, affinity_features(features))
        if core.shape != extent.shape:  # small images, where the extent has a finer grid
            core = F.interpolate(core, extent.shape[2:], mode="bilinear", align_corners=False)
        core = core.sigmoid()
        connected = connect_to_peak(extent, extent * core) if shows_object else None
        return combine_fields(extent, core, connected)

    def forward(self, images: Images, targets: Targets) -> Maps:
        """Return the log-odds of keeping at the size of the images."""
        return enlarge(self.decode(self.encode(images), targets), images.shape[-2:])


def enlarge(log_odds: LogOdds, size: tuple[int, int] | torch.Size) -> Maps:
    """Enlarge bilinearly to the size of the image, height and width in pixels."""
    up = F.interpolate(log_odds.unsqueeze(1), tuple(size), mode="bilinear", align_corners=False)
    return up.squeeze(1)


def combine_fields(
    extent: Float[Tensor, "*maps rows columns"],
    core: Float[Tensor, "*maps rows columns"],
    connected: Float[Tensor, "*maps rows columns"] | None = None,
) -> Float[Tensor, "*maps rows columns"]:
    """Combine two masks: regions are those of the extent up to level 0.5, of the core above 0.6.

    The core counts only inside the extent, as a fraction of its peak there, and only from half of
    that peak on; there the mask is above 0.6 and rises with it. Where the core is above
    `CORE_PEAK_FRACTION` of its peak, pixels are ordered by both fields, since the highest pixel of
    the core alone is often beside the object. Elsewhere the mask is the extent, which shrinks fast
    between 0.5 and 0.6. Regions shrink everywhere as the level rises. (A core that reaches out of
    the extent widens the boxes of every level; a core that is not divided by its own peak is empty
    at high levels for some images and wide for others; see docs/experiments.md.)

    With `connected`, the region at level `OBJECT_LEVEL` is the one part of the extent, cut at
    `OBJECT_EXTENT`, that holds the strongest evidence: of several objects, one. The core counts
    only inside of that part.

    Args:
        extent: mask of the extent in [0, 1].
        core: mask of the core in [0, 1].
        connected: the extent as `connect_to_peak` returns it; None for masks without that level.

    Returns:
        Log-odds of the combined mask.
    """
    if connected is None:
        is_inside = extent > 0.5
        low = torch.minimum(extent, 0.5 + 0.2 * (extent - 0.5))
    else:
        is_inside = connected > OBJECT_EXTENT
        others = torch.minimum(extent, 0.5 + 0.08 * (extent - 0.5))
        low = torch.where(is_inside, OBJECT_LEVEL + 0.1 * (connected - OBJECT_EXTENT), others)
    core = _divide_by_peak(torch.where(is_inside, core, 0))
    return torch.logit(torch.maximum(low, _compute_upper_levels(core, extent)), eps=1e-4)


def _compute_upper_levels(
    core: Float[Tensor, "*maps rows columns"], extent: Float[Tensor, "*maps rows columns"]
) -> Float[Tensor, "*maps rows columns"]:
    """Return the levels of the mask above `CORE_LEVEL`, which the core gives; 0 elsewhere.

    Args:
        core: mask of the core, divided by its peak.
        extent: mask of the extent, which orders the pixels near the core's peak.

    Returns:
        The levels.
    """
    high = torch.where(core > 0.5, CORE_LEVEL + CORE_RISE * (core - 0.5), 0)
    is_peak, level = core > CORE_PEAK_FRACTION, CORE_LEVEL + CORE_RISE * (CORE_PEAK_FRACTION - 0.5)
    lowest = torch.where(is_peak, extent, 1).amin((-2, -1), keepdim=True)
    inner = _divide_by_peak(torch.where(is_peak, extent - lowest, 0))
    above = (core - CORE_PEAK_FRACTION) / (1 - CORE_PEAK_FRACTION)
    rise = above.clamp(min=0).sqrt()  # no step at the border
    return torch.where(is_peak, level + (1 - level) * inner * rise, high)


def _divide_by_peak(field: Float[Tensor, "*maps rows columns"]) -> Tensor:
    """Divide each map by its highest value; a map of zeros stays as it is."""
    return field / field.amax((-2, -1), keepdim=True).clamp(min=1e-6)
