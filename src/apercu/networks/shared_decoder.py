"""A decoder that computes most features once per image, and little for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from apercu.networks.blocks import build_conv_block
from apercu.networks.decoder import (
    Evidence,
    EvidenceDecoder,
    SharedFeatures,
    compute_evidence,
    compute_strides,
    initialise_as_gate,
    upsample_bilinear,
)


@dataclass(frozen=True)
class SharedShape:
    """The size of the shared decoder.

    Args:
        width: channels of the shared features at the mask's resolution; coarser ones have twice
            as many.
        filters: features that are computed of them for each class.
        resolution: pixels of the image per cell of the mask.
        form: kind of the decoder in settings files.
    """

    width: Annotated[int, Field(ge=1, le=4096)] = 16
    filters: Annotated[int, Field(ge=1, le=4096)] = 8
    resolution: Annotated[int, Field(ge=1, le=1024)] = 4
    form: Literal["shared"] = "shared"


class SharedDecoder(EvidenceDecoder):
    """A feature pyramid (Lin et al. 2017), with evidence for each class from its finest map.

    The work per class is small: the mean of the deepest features where its gate is open gives the
    weights of a 1 × 1 convolution (as each instance does in CondInst, Tian et al. 2020), whose
    output, with the gate, gives the evidence. So a hundred classes of an image cost little more
    than one.

    Args:
        channels: channels of the encoder's feature maps, finest first.
        strides: strides of the encoder's feature maps, finest first.
        shape: size of the decoder.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], shape: SharedShape) -> None:
        super().__init__()
        self.shape, self.resolution = shape, shape.resolution
        skips = dict(zip(strides[:-1], channels[:-1], strict=True))
        width = 2 * shape.width
        self.keys = build_conv_block(channels[-1], 2 * width, size=1)
        self.steps = nn.ModuleList()
        self.strides = compute_strides(strides[-1], shape.resolution)
        inputs = 2 * width
        for stride in self.strides:
            outputs = width if stride > shape.resolution else shape.width
            self.steps.append(PyramidStep(inputs, skips.get(stride, 0), outputs))
            inputs = outputs
        if not self.strides:  # features as fine as the mask
            self.steps.append(nn.Conv2d(inputs, shape.width, 1))
        self.filters = nn.Linear(2 * width, shape.filters * (shape.width + 2))
        self.head = nn.Conv2d(2 * shape.filters + 1, 4, 1)
        initialise_as_gate(self.head)

    def compute_shared_features(self, skips: dict[int, Tensor], deepest: Tensor) -> SharedFeatures:
        """Return the keys and the finest features, which are nearly all of the work."""
        features = keys = self.keys(deepest)
        if not self.strides:
            features = self.steps[0](keys)
        for step, stride in zip(self.steps, self.strides, strict=False):
            features = step(features, skips.get(stride))
        return SharedFeatures(keys, {self.shape.resolution: features})

    def apply_gate(self, shared: SharedFeatures, gate: Tensor) -> Evidence:
        keys, features = shared.deepest, shared.finer[self.shape.resolution]
        fine_gate = upsample_bilinear(gate, features.shape[2:])
        filtered = self._apply_class_filters(features, fine_gate, self._pool_keys(keys, gate))
        inputs = torch.cat([filtered, filtered * fine_gate, fine_gate], 1)
        return compute_evidence(self.head(inputs))

    def _pool_keys(self, keys: Tensor, gate: Tensor) -> Tensor:
        """Return the mean of the keys, weighted by the gate, one row per gate."""
        weights = gate.flatten(2) / gate.sum((2, 3))[:, None].clamp(min=1e-3)
        return (weights @ keys.flatten(2).transpose(1, 2)).squeeze(1)

    def _apply_class_filters(self, features: Tensor, gate: Tensor, keys: Tensor) -> Tensor:
        """Apply to features and gate the 1 × 1 convolution whose weights come from the keys."""
        width, filters = self.shape.width, self.shape.filters
        weights = self.filters(keys).reshape(-1, filters, width + 2) / width**0.5
        flat = weights[:, :, :width] @ features.flatten(2)
        flat = flat + weights[:, :, width, None] * gate.flatten(2) + weights[:, :, width + 1 :]
        return F.relu(flat).reshape(-1, filters, *features.shape[2:])


class PyramidStep(nn.Module):
    """One doubling of the resolution: coarser features plus a skip connection, smoothed.

    Args:
        inputs: channels of the coarser features.
        skip: channels of the skip connection; 0 without one.
        outputs: channels of the finer features.
    """

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.below = nn.Conv2d(inputs, outputs, 1)
        self.narrow = nn.Conv2d(skip, outputs, 1) if skip else None
        self.smooth = build_conv_block(outputs, outputs)

    def forward(self, features: Tensor, skip: Tensor | None) -> Tensor:
        """Return features at twice the resolution, joined with a skip connection."""
        features = self.below(features)
        if skip is None or self.narrow is None:
            size = torch.Size([2 * side for side in features.shape[2:]])
            return self.smooth(upsample_bilinear(features, size))
        return self.smooth(upsample_bilinear(features, skip.shape[2:]) + self.narrow(skip))
