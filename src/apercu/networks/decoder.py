"""The decoder of the U-Net: doubled resolution, gated skip connections, residual blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from apercu.networks.blocks import (
    UPSAMPLINGS,
    build_bottleneck,
    build_compact,
    build_conv_block,
)


@dataclass(frozen=True)
class Evidence:
    """The evidence for one class per image, as log-odds of keeping.

    Attributes:
        extent: log-odds that there is any evidence, `batch × rows × columns`.
        core: log-odds of the crop that suffices, in the same shape; the same tensor where a
            network has only one.
    """

    extent: Tensor
    core: Tensor


@dataclass(frozen=True)
class SharedFeatures:
    """The part of a decoder's work on an image that is the same for all classes.

    Attributes:
        deepest: features from the deepest map, `batch × channels × height × width`.
        finer: features from the other maps, by their stride.
    """

    deepest: Tensor
    finer: dict[int, Tensor]


@dataclass(frozen=True)
class DecoderShape:
    """The size of the decoder and the kind of its blocks.

    Args:
        width: channels after the first block; each further block has half of them.
        blocks: residual blocks after each doubling of the resolution.
        residual: `bottleneck` as in ResNet-50, on the whole skip connection; or `compact`, two
            3 × 3 convolutions on a skip connection that is first projected to the block's width.
        upsampling: `transposed` convolution (paper) or `pixel_shuffle` (released code).
        gate: `everywhere`: the relative gate weighs every skip connection and is the first mask;
            `deepest`: the published gate weighs only the deepest map.
        resolution: pixels of the image per cell of the mask.
        form: kind of the decoder in settings files.
    """

    width: Annotated[int, Field(ge=1, le=4096)] = 96
    blocks: Annotated[int, Field(ge=1, le=64)] = 1
    residual: Literal["bottleneck", "compact"] = "compact"
    upsampling: Literal["transposed", "pixel_shuffle"] = "pixel_shuffle"
    gate: Literal["everywhere", "deepest"] = "everywhere"
    resolution: Annotated[int, Field(ge=1, le=1024)] = 4
    form: Literal["gated"] = "gated"


def compute_strides(stride: int, resolution: int) -> list[int]:
    """Return the strides of the decoder's steps, coarsest first, from half of the deepest one."""
    strides = []
    while stride > resolution:
        stride //= 2
        strides.append(stride)
    return strides


class EvidenceDecoder(nn.Module, ABC):
    """A network from feature maps and the gate of a class to the evidence for that class.

    Attributes:
        resolution: pixels of the image per cell of the mask.
    """

    resolution: int

    def forward(self, skips: dict[int, Tensor], deepest: Tensor, gate: Tensor) -> Evidence:
        """Return the evidence at the mask's resolution.

        The features of one image may have many gates.

        Args:
            skips: feature maps by stride, without the deepest.
            deepest: deepest feature map, `batch × channels × height × width`.
            gate: class gate on the deepest map, `batch × 1 × height × width`.

        Returns:
            Extent and core, `batch × rows × columns`.
        """
        return self.apply_gate(self.compute_shared_features(skips, deepest), gate)

    @abstractmethod
    def compute_shared_features(self, skips: dict[int, Tensor], deepest: Tensor) -> SharedFeatures:
        """Return the features that are the same for all classes; see `forward`."""

    @abstractmethod
    def apply_gate(self, shared: SharedFeatures, gate: Tensor) -> Evidence:
        """Return what `forward` returns, from features that are computed already."""


class Decoder(EvidenceDecoder):
    """A decoder from gated features, coarsest to finest, to the channels of the evidence.

    Args:
        channels: channels of the encoder's feature maps, finest first.
        strides: strides of the encoder's feature maps, finest first.
        shape: size and kind of the blocks.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], shape: DecoderShape
    ) -> None:
        super().__init__()
        self.shape, self.resolution = shape, shape.resolution
        skips = dict(zip(strides[:-1], channels[:-1], strict=True))
        self.deepest = build_conv_block(channels[-1], 2 * shape.width, size=1)
        self.steps = nn.ModuleList()
        self.strides = compute_strides(strides[-1], shape.resolution)
        width = 2 * shape.width + 1
        for number, stride in enumerate(self.strides):
            outputs = max(16, shape.width // 2**number)
            self.steps.append(UpStep(width, skips.get(stride, 0), outputs, shape))
            width = outputs
        everywhere = shape.gate == "everywhere"
        self.head = nn.Conv2d(width + everywhere, 4 if everywhere else 2, 1)
        if everywhere:
            initialise_as_gate(self.head)
        else:
            nn.init.ones_(cast(Tensor, self.head.bias))

    def compute_shared_features(self, skips: dict[int, Tensor], deepest: Tensor) -> SharedFeatures:
        """Return the projections of the feature maps, which do not depend on the class."""
        steps = dict(zip(self.strides, self.steps, strict=True))
        finer = {s: cast(UpStep, steps[s]).narrow(skips[s]) for s in steps if s in skips}
        return SharedFeatures(self.deepest(deepest), finer)

    def apply_gate(self, shared: SharedFeatures, gate: Tensor) -> Evidence:
        features = torch.cat([shared.deepest * gate, gate], 1)
        for step, stride in zip(self.steps, self.strides, strict=True):
            features = cast(UpStep, step).forward_projected(
                features, shared.finer.get(stride), gate
            )
        if self.shape.gate == "everywhere":
            features = torch.cat([features, upsample_bilinear(gate, features.shape[2:])], 1)
        return compute_evidence(self.head(features))


def compute_evidence(channels: Tensor) -> Evidence:
    """Return two or four channels as evidence: of each pair the log-odds of the first."""
    logs = torch.log(channels.abs() + 1e-3)
    extent = logs[:, 0] - logs[:, 1]
    return Evidence(extent, logs[:, 2] - logs[:, 3] if logs.shape[1] > 2 else extent)


@torch.no_grad()
def initialise_as_gate(head: nn.Conv2d) -> None:
    """Set the head's weights so that the first masks are the gate, which is its last input.

    The first extent is where the gate has 0.4 of its peak, the first core where it has 0.65. A
    mask that starts from the class embedding is selective from the first step; one that starts
    blank tends to ignore the class. (Class activation maps localise best at 0.4 of their peak;
    crops at 0.6 to 0.7 of it are the most convincing to a classifier.)
    """
    head.weight.mul_(0.2)
    head.weight[:, -1, 0, 0] = torch.tensor([1.5, -0.95, 1.0, -1.42])
    cast(Tensor, head.bias).copy_(torch.tensor([0.02, 1.0, 0.02, 1.6]))


class UpStep(nn.Module):
    """One doubling of the resolution, with an optional skip connection.

    Args:
        inputs: channels of the coarser features.
        skip: channels of the skip connection; 0 without one.
        outputs: channels of the finer features.
        shape: size and kind of the blocks.
    """

    def __init__(self, inputs: int, skip: int, outputs: int, shape: DecoderShape) -> None:
        super().__init__()
        self.upsample = UPSAMPLINGS[shape.upsampling](inputs, outputs)
        compact = shape.residual == "compact"
        self.narrow = build_conv_block(skip, outputs, size=1) if compact and skip else nn.Identity()
        self.gated = shape.gate == "everywhere"
        joined = outputs + (outputs if compact and skip else skip) + self.gated
        make = build_compact if compact else build_bottleneck
        self.residual = nn.Sequential(
            make(joined, outputs), *(make(outputs, outputs) for _ in range(shape.blocks - 1))
        )

    def forward(self, features: Tensor, skip: Tensor | None, gate: Tensor | None) -> Tensor:
        """Return features at twice the resolution, joined with a skip connection."""
        return self.forward_projected(features, None if skip is None else self.narrow(skip), gate)

    def forward_projected(
        self, features: Tensor, skip: Tensor | None, gate: Tensor | None
    ) -> Tensor:
        """Return the same from a skip connection that `narrow` has already projected."""
        features = self.upsample(features)
        size = features.shape[2:] if skip is None else skip.shape[2:]
        if features.shape[2:] != size:
            features = F.interpolate(features, size, mode="bilinear", align_corners=False)
        joined = [features]
        if skip is not None:
            joined.append(skip)
        if self.gated and gate is not None:
            fine_gate = upsample_bilinear(gate, size)
            joined = [features, *(part * fine_gate for part in joined[1:]), fine_gate]
        elif skip is not None:
            joined[1] = joined[1].expand(features.shape[0], -1, -1, -1)
        return self.residual(torch.cat(joined, 1))


def upsample_bilinear(gate: Tensor, size: torch.Size) -> Tensor:
    """Return a map at the resolution of finer features, by bilinear interpolation."""
    return F.interpolate(gate, tuple(size), mode="bilinear", align_corners=False)
