"""A way up that all classes of an image share: each class chooses from features made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from apercu.networks.decoder import (
    Evidence,
    SharedFeatures,
    compute_evidence,
    compute_strides,
    initialise_as_gate,
    upsample_bilinear,
)
from apercu.networks.encoder import build_conv_block


@dataclass(frozen=True)
class SharedShape:
    """How large the shared decoder is.

    Args:
        width: channels of the shared features at the mask's resolution; coarser ones have twice
            as many.
        filters: features that each class makes of them.
        resolution: pixels of the image per cell of the mask.
        form: the kind.
    """

    width: Annotated[int, Field(ge=1)] = 16
    filters: Annotated[int, Field(ge=1)] = 8
    resolution: Annotated[int, Field(ge=1)] = 4
    form: Literal["shared"] = "shared"


class SharedDecoder(nn.Module):
    """Features to a feature pyramid (Lin et al. 2017), and from its finest map to evidence.

    What a class adds is little: the mean of the deepest features where its gate is open writes the
    weights of a 1 × 1 convolution (as each instance does in CondInst, Tian et al. 2020), whose
    answer, with the gate, gives the evidence. So a hundred classes of an image cost little more
    than one.

    Args:
        channels: channels of the encoder's feature maps, finest first.
        strides: their strides.
        shape: see there.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], shape: SharedShape) -> None:
        super().__init__()
        self.shape = shape
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
        self.filters = nn.Linear(2 * width, shape.filters * (shape.width + 2))
        self.head = nn.Conv2d(2 * shape.filters + 1, 4, 1)
        initialise_as_gate(self.head)

    def forward(self, skips: dict[int, Tensor], deepest: Tensor, gate: Tensor) -> Evidence:
        """Extent and core, at the mask's resolution, `batch × rows × columns`.

        Many gates may go with the features of one image.

        Args:
            skips: feature maps by stride, without the deepest.
            deepest: the deepest feature map.
            gate: the class gate on it, `batch × 1 × height × width`.
        """
        return self.apply_gate(self.compute_shared_features(skips, deepest), gate)

    def compute_shared_features(self, skips: dict[int, Tensor], deepest: Tensor) -> SharedFeatures:
        """Nearly all of the work: the keys, and the finest features."""
        features = keys = self.keys(deepest)
        for step, stride in zip(self.steps, self.strides, strict=True):
            features = step(features, skips.get(stride))
        return SharedFeatures(keys, {self.shape.resolution: features})

    def apply_gate(self, shared: SharedFeatures, gate: Tensor) -> Evidence:
        """What `forward` gives, for a gate on features that are prepared."""
        keys, features = shared.deepest, shared.finer[self.shape.resolution]
        opened = upsample_bilinear(gate, features.shape[2:])
        chosen = self._apply_class_filters(features, opened, self._pool_keys(keys, gate))
        return compute_evidence(self.head(torch.cat([chosen, chosen * opened, opened], 1)))

    def _pool_keys(self, keys: Tensor, gate: Tensor) -> Tensor:
        """What is seen where the gate is open, one row per gate."""
        share = gate.flatten(2) / gate.sum((2, 3))[:, None].clamp(min=1e-3)
        return (share @ keys.flatten(2).transpose(1, 2)).squeeze(1)

    def _apply_class_filters(self, features: Tensor, opened: Tensor, asked: Tensor) -> Tensor:
        """The 1 × 1 convolution that each class writes itself, of the features and its gate."""
        width, filters = self.shape.width, self.shape.filters
        written = self.filters(asked).reshape(-1, filters, width + 2) / width**0.5
        flat = written[:, :, :width] @ features.flatten(2)
        flat = flat + written[:, :, width, None] * opened.flatten(2) + written[:, :, width + 1 :]
        return F.relu(flat).reshape(-1, filters, *features.shape[2:])


class PyramidStep(nn.Module):
    """One doubling of the resolution: what comes from below plus the skip connection, smoothed."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.below = nn.Conv2d(inputs, outputs, 1)
        self.narrow = nn.Conv2d(skip, outputs, 1) if skip else None
        self.smooth = build_conv_block(outputs, outputs)

    def forward(self, features: Tensor, skip: Tensor | None) -> Tensor:
        features = self.below(features)
        if skip is None or self.narrow is None:
            size = torch.Size([2 * side for side in features.shape[2:]])
            return self.smooth(upsample_bilinear(features, size))
        return self.smooth(upsample_bilinear(features, skip.shape[2:]) + self.narrow(skip))
