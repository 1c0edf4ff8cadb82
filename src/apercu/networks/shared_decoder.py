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
        coarse_filters: features that are computed for each class one step coarser, and smoothed
            there, so that a position knows its surroundings; 0 for none, as in older runs.
        resolution: pixels of the image per cell of the mask.
        form: kind of the decoder in settings files.
    """

    width: Annotated[int, Field(ge=1, le=4096)] = 16
    filters: Annotated[int, Field(ge=1, le=4096)] = 8
    coarse_filters: Annotated[int, Field(ge=0, le=4096)] = 0
    resolution: Annotated[int, Field(ge=1, le=1024)] = 4
    form: Literal["shared"] = "shared"


class SharedDecoder(EvidenceDecoder):
    """A feature pyramid (Lin et al. 2017), with evidence for each class from its finest map.

    The work per class is small: the mean of the deepest features where its gate is open gives the
    weights of a 1 × 1 convolution (as each instance does in CondInst, Tian et al. 2020), whose
    output, with the gate, gives the evidence. With `coarse_filters` another such convolution one
    step coarser, followed by one of 3 × 3, adds what surrounds a position. So a hundred classes of
    an image cost little more than one.

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
        widths = {strides[-1]: inputs}
        for stride in self.strides:
            outputs = width if stride > shape.resolution else shape.width
            self.steps.append(PyramidStep(inputs, skips.get(stride, 0), outputs))
            widths[stride] = inputs = outputs
        self.coarse_stride = sorted(widths)[:2][-1]  # the second finest, if there are two
        if not self.strides:  # features as fine as the mask
            self.steps.append(nn.Conv2d(inputs, shape.width, 1))
        self.filters = build_class_filters(2 * width, shape.width, shape.filters)
        self.coarse: CoarseFilters | None = None
        if shape.coarse_filters:
            features = widths[self.coarse_stride]
            self.coarse = CoarseFilters(
                2 * width, features, shape.coarse_filters, outputs=shape.filters
            )
        self.head = nn.Conv2d(2 * shape.filters + 1, 4, 1)
        initialise_as_gate(self.head)

    def compute_shared_features(self, skips: dict[int, Tensor], deepest: Tensor) -> SharedFeatures:
        """Return the keys and the finest features, which are nearly all of the work."""
        features = keys = self.keys(deepest)
        if not self.strides:
            features = self.steps[0](keys)
        finer = {}
        for step, stride in zip(self.steps, self.strides, strict=False):
            features = step(features, skips.get(stride))
            if stride == self.coarse_stride:
                finer[stride] = features
        return SharedFeatures(keys, finer | {self.shape.resolution: features})

    def apply_gate(self, shared: SharedFeatures, gate: Tensor) -> Evidence:
        features = shared.finer[self.shape.resolution]
        fine_gate = upsample_bilinear(gate, features.shape[2:])
        keys = self._pool_keys(shared.deepest, gate)
        filtered = apply_class_filters(self.filters(keys), features, fine_gate)
        if self.coarse is not None:
            is_step = self.coarse_stride in self.strides
            coarse = shared.finer[self.coarse_stride] if is_step else shared.deepest
            surroundings = self.coarse(coarse, upsample_bilinear(gate, coarse.shape[2:]), keys)
            filtered = filtered + upsample_bilinear(surroundings, features.shape[2:])
        filtered = F.relu(filtered)
        inputs = torch.cat([filtered, filtered * fine_gate, fine_gate], 1)
        return compute_evidence(self.head(inputs))

    def _pool_keys(self, keys: Tensor, gate: Tensor) -> Tensor:
        """Return the mean of the keys, weighted by the gate, one row per gate."""
        weights = gate.flatten(2) / gate.sum((2, 3))[:, None].clamp(min=1e-3)
        return (weights @ keys.flatten(2).transpose(1, 2)).squeeze(1)


def build_class_filters(keys: int, features: int, filters: int) -> nn.Linear:
    """Build the layer that computes from keys the weights of `apply_class_filters`."""
    return nn.Linear(keys, filters * (features + 2))


def apply_class_filters(weights: Tensor, features: Tensor, gate: Tensor) -> Tensor:
    """Apply to features and gate the 1 × 1 convolution of each class, with a bias.

    Args:
        weights: what the layer of `build_class_filters` gives, one row per class.
        features: features, `batch × channels × height × width`, one image for all classes or one
            for each.
        gate: gates of the classes in the same size, `classes × 1 × height × width`.

    Returns:
        The filtered features, `classes × filters × height × width`.
    """
    width = features.shape[1]
    weights = weights.reshape(weights.shape[0], -1, width + 2) / width**0.5
    flat = weights[:, :, :width] @ features.flatten(2)
    flat = flat + weights[:, :, width, None] * gate.flatten(2) + weights[:, :, width + 1 :]
    return flat.reshape(*flat.shape[:2], *features.shape[2:])


class CoarseFilters(nn.Module):
    """Class filters of coarser features, smoothed by a 3 × 3 convolution.

    Args:
        keys: number of keys.
        features: channels of the features.
        filters: channels that the class filters compute.
        outputs: channels of the result.
    """

    def __init__(self, keys: int, features: int, filters: int, outputs: int) -> None:
        super().__init__()
        self.filters = build_class_filters(keys, features, filters)
        self.smooth = build_conv_block(filters, filters)
        self.project = nn.Conv2d(filters, outputs, 1)

    def forward(self, features: Tensor, gate: Tensor, keys: Tensor) -> Tensor:
        """Return what surrounds each position, `classes × outputs × height × width`."""
        filtered = F.relu(apply_class_filters(self.filters(keys), features, gate))
        return self.project(filtered + self.smooth(filtered))


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
