"""The class gate: where in the deepest features the target class could be.

Also the random walk that spreads its maps over what looks alike, and the part around a peak.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from apercu.networks.blocks import FeatureAdapter
from apercu.networks.encoder import Encoder
from apercu.types import Images, Logits, Targets

GateKind: TypeAlias = Literal["relative", "published"]
Z_SHARPNESS = 6.0
"""Slope with which the gate closes around the threshold of the z-score."""
ALWAYS_OPEN = -1e6
"""Threshold of the z-score that no class is below."""
DIFFUSION_STEPS = 3
"""Steps of the random walk of `diffuse`."""
MIN_ROWS = 14
"""Smallest number of rows of the feature map on which the walk is done."""
FINE_ROWS = 28
"""Number of rows, or not many more, of the grid of `diffuse_finely`."""


class ClassGate(nn.Module):
    """The activation of the target class at each position, and the gate that it opens.

    Dabkowski & Gal 2017, section 4.1: the activation is X_ij · C_s with a learned embedding C. Here
    it has a bias as well, and estimates the logit of the class in standard units of all logits
    (`mean`, `deviation`).

    The `published` gate is σ(activation), which saturates over most of an image that shows the
    class. The `relative` gate is the activation divided by its peak, times σ(peak − threshold): it
    keeps the order of the positions, and stays closed for a class that has no peak.

    With `closes_absent` both are also closed for a class that is unlikely in the image, times
    σ(`Z_SHARPNESS` × (z − `z_threshold`)). Its z-score z is the estimated logit, less the mean over
    all classes, in standard deviations over them. The threshold is chosen after the training; until
    then the gate is open. Peaks of absent classes can be as high as those of present ones, where
    z-scores are not (see docs/experiments.md).

    Args:
        classes: number of classes.
        channels: channels of the deepest feature map.
        kind: kind of the gate, `relative` or `published`.
        closes_absent: whether the gate depends on the z-score of the class, too.
    """

    mean: Tensor
    deviation: Tensor
    z_threshold: Tensor

    def __init__(
        self,
        classes: int,
        channels: int,
        kind: GateKind = "relative",
        *,
        closes_absent: bool = False,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Parameter(torch.randn(classes, channels) / channels**0.5)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        self.threshold = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(1.0))
        self.closes_absent = closes_absent
        if closes_absent:
            self.register_buffer("z_threshold", torch.tensor(ALWAYS_OPEN))

    def compute_activation(self, features: Tensor, targets: Targets) -> Tensor:
        """Return the activation of the target class per position, `batch × 1 × height × width`.

        The features of one image may have many targets.
        """
        maps = self.embedding[targets][:, None] @ features.flatten(2)
        maps = maps + self.bias[targets][:, None, None]
        return maps.reshape(maps.shape[0], 1, *features.shape[2:])

    def forward(self, features: Tensor, targets: Targets) -> Tensor:
        """Return the gate in [0, 1], `batch × 1 × height × width`."""
        gate = self._open_at_positions(features, targets)
        if not self.closes_absent:
            return gate
        present = Z_SHARPNESS * (self.compute_z_scores(features, targets) - self.z_threshold)
        return gate * torch.sigmoid(present)[:, None, None, None]

    def _open_at_positions(self, features: Tensor, targets: Targets) -> Tensor:
        """Return the gate in [0, 1] by the activations of the class alone."""
        activation = self.compute_activation(features, targets)
        if self.kind == "published":
            return torch.sigmoid(self.sharpness * (activation - self.threshold))
        peak = activation.amax((2, 3), keepdim=True)
        present = torch.sigmoid(self.sharpness * (peak - self.threshold))
        return present * F.relu(activation) / peak.clamp(min=1e-3)

    def compute_z_scores(self, features: Tensor, targets: Targets) -> Float[Tensor, " targets"]:
        """Return the z-score of each target among the estimated logits of all classes.

        The features of one image may have many targets.
        """
        pooled, logits = features.mean((2, 3)), self.predict_logits(features)
        mean = logits.mean(1)
        variance = (logits - mean[:, None]).square().mean(1)
        estimates = (self.embedding[targets] * pooled).sum(1) + self.bias[targets]
        return (estimates - mean) / variance.clamp(min=1e-12).sqrt()  # gradients stay finite

    def predict_logits(self, features: Tensor) -> Logits:
        """Return the embedding's estimate of the standardised logits of the classifier."""
        return features.mean((2, 3)) @ self.embedding.T + self.bias

    def standardise(self, logits: Logits) -> Logits:
        """Return logits of the classifier in the units of the activations."""
        return (logits - self.mean) / self.deviation

    def restore_units(self, logits: Logits) -> Logits:
        """Return standardised logits in the units of the classifier."""
        return logits * self.deviation + self.mean

    @torch.no_grad()
    def set_logit_units(self, mean: float, deviation: float) -> None:
        """Set the mean and the standard deviation of all logits, over images and classes."""
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)

    @torch.no_grad()
    def set_threshold(self, present: float, absent: float) -> None:
        """Set the threshold a sixth of the way from the peak of absent classes to that of present.

        It is so low because the image may show a class that the classifier does not predict.

        Args:
            present: typical peak of the activation of a class that is in the image.
            absent: typical peak of the activation of a class that is not.
        """
        distance = max(present - absent, 1e-3)
        self.threshold.fill_(absent + distance / 6)
        self.sharpness.fill_(12 / distance)


class GatedNetwork(nn.Module, ABC):
    """An encoder and a class gate; subclasses add a decoder that makes explanations of them.

    A frozen encoder can have an adapter of its deepest features. Gate and decoder then take these
    as the adapter returns them.

    Args:
        encoder: encoder of the images.
        classes: number of classes of the gate.
        gate_kind: kind of the gate, `relative` or `published`.
        frozen: whether the encoder is frozen from the start (in evaluation mode, without
            gradients); else from the call of `freeze_encoder`.
        adapter_width: channels inside the adapter; 0 for none.
        encoder_side: shorter side in pixels to which images are enlarged for the encoder; None
            leaves them as they are.
        closes_absent: whether the gate depends on the z-score of the class, too.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        gate_kind: GateKind,
        *,
        frozen: bool,
        adapter_width: int = 0,
        encoder_side: int | None = None,
        closes_absent: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder_side = encoder_side
        channels = encoder.channels[-1]
        self.adapter = FeatureAdapter(channels, adapter_width) if adapter_width else None
        self.frozen = frozen
        self.encoder_frozen = frozen
        self.classes_frozen = False
        self.gate = ClassGate(classes, encoder.channels[-1], gate_kind, closes_absent=closes_absent)
        if frozen:
            encoder.requires_grad_(False)

    def state_without_frozen_encoder(self) -> dict[str, Tensor]:
        """Return the weights, without those of an encoder that is frozen from the start."""
        return {
            name: tensor.contiguous().cpu()
            for name, tensor in self.state_dict().items()
            if not (self.frozen and name.startswith("encoder."))
        }

    def freeze_encoder(self) -> None:
        """End the training of the encoder, its adapter and the class embedding.

        Training masks makes them forget the classes; see docs/experiments.md.
        """
        self.encoder_frozen = self.classes_frozen = True
        for part in (self.encoder, self.adapter, self.gate.embedding, self.gate.bias):
            if part is not None:
                part.requires_grad_(False)

    def train(self, mode: bool = True) -> GatedNetwork:
        """Set training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
            if self.adapter is not None and self.classes_frozen:
                self.adapter.eval()
        return self

    def encode(self, images: Images) -> list[Tensor]:
        """Return feature maps, finest first; one call is enough for any number of classes.

        A frozen encoder computes gradients only for images that require them.
        """
        needs_gradients = not self.encoder_frozen or images.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and needs_gradients):
            maps = self.encoder(self.enlarge_images(images))
        return self.adapt(maps)

    def enlarge_images(self, images: Images) -> Float[Tensor, "batch channels rows columns"]:
        """Return images at the size at which the encoder takes them."""
        rows, columns = images.shape[2:]
        if self.encoder_side is None or min(rows, columns) == self.encoder_side:
            return images
        scale = self.encoder_side / min(rows, columns)
        size = (round(rows * scale), round(columns * scale))
        return F.interpolate(images, size, mode="bilinear", align_corners=False)

    def adapt(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the feature maps of the encoder as gate and decoder take them."""
        return maps if self.adapter is None else [*maps[:-1], self.adapter(maps[-1])]


def diffuse(maps: Tensor, features: Tensor) -> Tensor:
    """Return the mean of the maps and the same maps after a random walk among similar positions.

    A class activation is high where a class differs from others: on the head of a bird more than
    on its wings. The features show what else belongs to the bird. Each step of the walk replaces
    the value at a position by the mean over all positions, weighted by the cosine of their centred
    features (negative ones count as 0). TokenCut (Wang et al. 2022) cuts the same affinity, and
    deep descriptor transforming (Wei et al. 2017) takes its first component. The result is
    rescaled to the range of the maps.

    Args:
        maps: non-negative maps, any number per image, `batch × maps × rows × columns`.
        features: features that say which positions are similar, `batch × channels × height ×
            width`, with at most a few hundred positions.

    Returns:
        Diffused maps, as large as the finer of the two, `batch × maps × rows × columns`.
    """
    return _walk(maps, features, _compute_affinity(_compute_directions(features)))


def diffuse_finely(
    maps: Tensor, features: Sequence[Tensor]
) -> Float[Tensor, "batch maps rows columns"]:
    """Return what `diffuse` returns, with a walk on a finer grid and by several feature maps.

    The two coarsest feature maps with at least `MIN_ROWS` rows say together which positions are
    similar. The finer one keeps apart what is near, so that the walk does not connect objects
    that are side by side; see docs/experiments.md.

    Args:
        maps: non-negative maps, any number per image, `batch × maps × rows × columns`.
        features: feature maps of an encoder, finest first.

    Returns:
        Diffused maps, as large as the finer of maps and grid, `batch × maps × rows × columns`.
    """
    chosen = [each for each in features if min(each.shape[2:]) >= MIN_ROWS][-2:] or [features[0]]
    grid = _average_to_rows(chosen[0], FINE_ROWS)
    if (rows := min(grid.shape[2:])) > 1.2 * FINE_ROWS:
        size = [round(length * FINE_ROWS / rows) for length in grid.shape[2:]]
        grid = F.interpolate(grid, size, mode="bilinear", align_corners=False)
    parts = [_compute_directions(_resize_like(each, grid)) for each in chosen]
    return _walk(maps, grid, _compute_affinity(torch.cat(parts, 2) / len(parts) ** 0.5))


def _walk(maps: Tensor, grid: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of the maps and the same maps after the walk on a grid of positions."""
    coarse = _resize_like(maps, grid)
    values = coarse.flatten(2).transpose(1, 2)
    for _ in range(DIFFUSION_STEPS):
        values = weights @ values
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    diffused = (values - low) / (high - low).clamp(min=1e-6) * coarse.amax((2, 3))[:, None]
    diffused = diffused.transpose(1, 2).reshape(coarse.shape)
    if maps.shape[2] < grid.shape[2]:
        return (coarse + diffused) / 2
    return (maps + _resize_like(diffused, maps)) / 2


def affinity_features(features: Sequence[Tensor]) -> Tensor:
    """Return the feature map for the diffusion: the coarsest with at least `MIN_ROWS` rows.

    If it has more than one and a half times as many rows, it is averaged down, so that the walk is
    cheap. If even the finest map has fewer rows, it is returned.

    Args:
        features: feature maps of an encoder, finest first.

    Returns:
        One feature map, `batch × channels × height × width`.
    """
    candidates = [map for map in features if min(map.shape[2:]) >= MIN_ROWS] or [features[0]]
    return _average_to_rows(candidates[-1], MIN_ROWS)


def connect_to_peak(
    maps: Float[Tensor, "batch maps rows columns"], order: Float[Tensor, "batch maps rows columns"]
) -> Float[Tensor, "batch maps rows columns"]:
    """Return for each position the highest level at which it is connected with the peak.

    The region of the result at a level is that part of the maps' region that holds the peak. Parts
    are connected along rows, columns and diagonals. A path may have as many steps as the longer
    side has positions; what is further away along every path counts as unconnected, and gets 0.

    Args:
        maps: non-negative maps.
        order: maps of the same shape, whose highest position is the peak.

    Returns:
        Maps of the same shape, nowhere above the given ones.
    """
    batch, count, rows, columns = maps.shape
    flat = order.reshape(batch, count, rows * columns)
    positions = torch.arange(rows * columns, device=maps.device)
    is_peak = (flat.argmax(2, keepdim=True) == positions).view(batch, count, rows, columns)
    level = torch.where(is_peak, maps, 0)
    for _ in range(max(rows, columns)):
        level = torch.minimum(maps, F.max_pool2d(level, 3, stride=1, padding=1))
    return level


def _average_to_rows(features: Tensor, rows: int) -> Tensor:
    """Average a feature map in cells, so that it has not many more rows than these."""
    factor = max(1, round(min(features.shape[2:]) / rows))
    return F.avg_pool2d(features, factor) if factor > 1 else features


def _compute_directions(features: Tensor) -> Tensor:
    """Return centred features of length 1, `batch × positions × channels`."""
    centred = features - features.mean((2, 3), keepdim=True)
    return F.normalize(centred.flatten(2).transpose(1, 2), dim=2)


def _compute_affinity(directions: Tensor) -> Tensor:
    """Return how similar two positions are, rows that sum to 1, `batch × positions × positions`."""
    cosines = (directions @ directions.transpose(1, 2)).clamp(min=0)
    return cosines / cosines.sum(2, keepdim=True).clamp(min=1e-6)


def _resize_like(maps: Tensor, like: Tensor) -> Tensor:
    """Resize maps to the size of another tensor: means of cells if smaller, bilinear if larger."""
    size = (like.shape[2], like.shape[3])
    if maps.shape[2] > size[0]:
        return F.interpolate(maps, size, mode="area")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
