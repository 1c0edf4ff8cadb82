"""Unknown images by the Mahalanobis distance of the features of several layers, with a map.

Rippel et al. 2020 (arXiv 2005.14140) describe normal images by one Gaussian for each layer of a
pretrained network: the features are averaged over all positions, the covariance is shrunk after
Ledoit and Wolf, and the score is the sum of the distances over the layers. They report that the
principal components of *low* variance suffice (NPCA), and take a quantile of the chi-square
distribution as threshold.

Our choices where the paper is silent: the layers are the last ones of each stride; the components
are counted by the variance of the shrunk covariance; the threshold of the sum is the sum of the
thresholds of the layers; the map has further Gaussians of the features at single positions, whose
distances are enlarged to the image and added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.networks.feature_maps import FeatureMaps
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.unknown.base import (
    AnomalyMapScorer,
    KnownImages,
    UnknownMethod,
    check_finite,
    open_layers,
)
from apercu.statistics import (
    Components,
    WhitenedGaussian,
    build_gaussian,
    shrink_covariance,
)
from apercu.types import Images, Maps, Scores

TITLE = "features of known images"


class Moments(NamedTuple):
    """The mean and the shrunk covariance of the features of one layer.

    Attributes:
        mean: mean of each channel.
        covariance: covariance of the channels, `channels × channels`.
    """

    mean: Float[Tensor, " channels"]
    covariance: Float[Tensor, "channels channels"]


@final
@dataclass(frozen=True)
class LayerMahalanobis(UnknownMethod):
    """The sum of Mahalanobis distances of the features of several layers (Rippel et al. 2020).

    Args:
        components: principal components of each layer that are kept: `all`, those of `high`
            variance, or those of `low` variance, which the paper calls NPCA.
        variance: fraction of the variance that the components of high variance explain.
        maps: whether Gaussians of single positions are fitted, too, for maps of the unknown.
    """

    name = "mahalanobis"
    components: Components = "all"
    variance: float = 0.99
    maps: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.variance < 1:
            raise ConfigError(
                f"mahalanobis: variance: expected a number between 0 and 1, got {self.variance:g}"
            )

    def fit(
        self, known: KnownImages, report: ProgressCallback = ignore_progress
    ) -> LayerMahalanobisScorer:
        maps = open_layers(known.classifier, self.name)
        moments = fit_layers(known, maps, report)
        positions = None
        if self.maps:
            means = [layer.mean for layer in moments]
            positions = self._build_gaussians(fit_positions(known, maps, means, report))
        layers = self._build_gaussians(moments)
        return LayerMahalanobisScorer(self, known.classifier, maps, layers, positions)

    def restore(
        self, classifier: Classifier, tensors: Mapping[str, Tensor]
    ) -> LayerMahalanobisScorer:
        maps = open_layers(classifier, self.name)
        layers = _unpack_gaussians(tensors, "layer", len(maps.strides))
        positions = None
        if self.maps:
            positions = _unpack_gaussians(tensors, "position", len(maps.strides))
        return LayerMahalanobisScorer(self, classifier, maps, layers, positions)

    def _build_gaussians(self, moments: Sequence[Moments]) -> LayerGaussians:
        return LayerGaussians(
            [build_gaussian(*layer, self.components, self.variance) for layer in moments]
        )


class LayerGaussians(nn.Module):
    """One Gaussian for each layer, as buffers, so that it moves and exports with a network.

    Args:
        gaussians: a Gaussian for each feature map, finest first.
    """

    def __init__(self, gaussians: Sequence[WhitenedGaussian]) -> None:
        super().__init__()
        self.count = len(gaussians)
        for index, gaussian in enumerate(gaussians):
            self.register_buffer(f"mean_{index}", gaussian.mean.float())
            self.register_buffer(f"whitening_{index}", gaussian.whitening.float())

    def get_gaussian(self, index: int) -> WhitenedGaussian:
        """Return the Gaussian of one layer."""
        return WhitenedGaussian(getattr(self, f"mean_{index}"), getattr(self, f"whitening_{index}"))

    def forward(self, maps: Sequence[Tensor]) -> Scores:
        """Return the score of each image: the sum of the distances of all layers.

        Args:
            maps: feature maps of the layers, `batch × channels × rows × columns` each.

        Returns:
            One number per image; higher is more unknown.
        """
        return self.measure_layers(maps).sum(1)

    def measure_layers(self, maps: Sequence[Tensor]) -> Float[Tensor, "batch layers"]:
        """Return the distance of each image in each layer, from features averaged over positions.

        Args:
            maps: feature maps of the layers, `batch × channels × rows × columns` each.

        Returns:
            The distances, `batch × layers`.
        """
        distances = []
        for index, features in enumerate(maps):
            mean, whitening = self.get_gaussian(index)
            distances.append(((features.mean((2, 3)) - mean) @ whitening.T).norm(dim=1))
        return torch.stack(distances, 1)

    def measure_positions(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Maps:
        """Return the distances of the features at each position, enlarged and added.

        Args:
            maps: feature maps of the layers, `batch × channels × rows × columns` each.
            size: height and width of the result in pixels.

        Returns:
            One map per image, `batch × height × width`.
        """
        total = torch.zeros(())
        for index, features in enumerate(maps):
            mean, whitening = self.get_gaussian(index)
            centred = features - mean[:, None, None]
            distances = F.conv2d(centred, whitening[:, :, None, None]).norm(dim=1, keepdim=True)
            enlarged = F.interpolate(distances, size, mode="bilinear", align_corners=False)
            total = total.to(enlarged) + enlarged[:, 0]
        return total


@final
@dataclass(frozen=True, eq=False)
class LayerMahalanobisScorer(AnomalyMapScorer):
    """Gaussians of the features of known images.

    Args:
        method: the method.
        classifier: the classifier.
        feature_maps: the feature maps of its network.
        layers: Gaussians of the features averaged over positions.
        positions: Gaussians of the features at single positions; None without maps.
    """

    method: LayerMahalanobis
    classifier: Classifier
    feature_maps: FeatureMaps
    layers: LayerGaussians
    positions: LayerGaussians | None

    def compute_scores(self, images: Images) -> Scores:
        maps = read_maps(self.classifier, self.feature_maps, images)
        scores: Scores = self.layers.to(images.device)(maps)
        return scores

    @property
    def has_maps(self) -> bool:
        return self.positions is not None

    def compute_maps(self, images: Images) -> Maps:
        if self.positions is None:
            raise ConfigError(
                "mahalanobis: was fitted without maps; fit it with mahalanobis:maps=true"
            )
        maps = read_maps(self.classifier, self.feature_maps, images)
        size = (images.shape[2], images.shape[3])
        return self.positions.to(images.device).measure_positions(maps, size)

    def find_threshold(self, probability: float = 0.9973) -> float:
        """Return the score that a known image exceeds with a small probability, if Gaussian.

        Args:
            probability: probability that a layer of a known image stays below its threshold;
                0.9973 is three standard deviations of a normal distribution.

        Returns:
            The sum over the layers of the roots of the quantiles of chi-square distributions.
        """
        counts = [len(self.layers.get_gaussian(i).whitening) for i in range(self.layers.count)]
        return sum(find_chi_square_quantile(probability, count) ** 0.5 for count in counts)

    def pack_tensors(self) -> dict[str, Tensor]:
        tensors = {f"layer.{name}": value for name, value in self.layers.state_dict().items()}
        if self.positions is not None:
            own = self.positions.state_dict()
            tensors |= {f"position.{name}": value for name, value in own.items()}
        return tensors


def read_maps(classifier: Classifier, feature_maps: FeatureMaps, images: Images) -> list[Tensor]:
    """Return the feature maps of images in [0, 1], in single precision."""
    maps: list[Tensor] = feature_maps(classifier.normalise(images))
    return [features.float() for features in maps]


@torch.no_grad()
def fit_layers(known: KnownImages, maps: FeatureMaps, report: ProgressCallback) -> list[Moments]:
    """Return mean and shrunk covariance of the features of each layer, averaged over positions."""
    parts: list[list[Tensor]] = [[] for _ in maps.strides]
    done = 0
    for images in known.read_batches():
        for part, features in zip(parts, read_maps(known.classifier, maps, images), strict=True):
            part.append(features.mean((2, 3)).double().cpu())
        done += len(images)
        report(TITLE, done, len(known.images))
    moments = []
    for part in parts:
        features = check_finite(torch.cat(part), LayerMahalanobis.name, known.classifier)
        mean = features.mean(0)
        centred = features - mean
        fourth = float(centred.square().sum(1).square().sum())
        covariance = centred.T @ centred / len(centred)
        moments.append(Moments(mean, shrink_covariance(covariance, fourth, len(centred))))
    return moments


@torch.no_grad()
def fit_positions(
    known: KnownImages, maps: FeatureMaps, means: Sequence[Tensor], report: ProgressCallback
) -> list[Moments]:
    """Return mean and shrunk covariance of the features of each layer at single positions.

    Args:
        known: a classifier and known images.
        maps: the feature maps of its network.
        means: mean of the features of each layer, which is that of all positions, too.
        report: receives how far the work is.

    Returns:
        Mean and covariance of each layer.
    """
    products = [torch.zeros(len(mean), len(mean), dtype=torch.double) for mean in means]
    fourths, counts, done = [0.0] * len(means), [0] * len(means), 0
    for images in known.read_batches():
        for index, features in enumerate(read_maps(known.classifier, maps, images)):
            rows = features.movedim(1, 3).flatten(0, 2).double().cpu() - means[index]
            products[index] += rows.T @ rows
            fourths[index] += float(rows.square().sum(1).square().sum())
            counts[index] += len(rows)
        done += len(images)
        report(f"{TITLE}, by position", done, len(known.images))
    return [
        Moments(mean, shrink_covariance(product / count, fourth, count))
        for mean, product, fourth, count in zip(means, products, fourths, counts, strict=True)
    ]


def find_chi_square_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of a chi-square distribution, by bisection.

    Args:
        probability: probability of a smaller value.
        freedom: number of degrees of freedom.

    Returns:
        The quantile.
    """
    half = torch.tensor(freedom / 2, dtype=torch.double)
    low, high = 0.0, freedom + 40 * freedom**0.5 + 40
    for _ in range(100):
        middle = (low + high) / 2
        at_most = float(torch.special.gammainc(half, torch.tensor(middle / 2, dtype=torch.double)))
        low, high = (middle, high) if at_most < probability else (low, middle)
    return (low + high) / 2


def _unpack_gaussians(tensors: Mapping[str, Tensor], part: str, count: int) -> LayerGaussians:
    """Return the Gaussians of all layers from tensors by name."""
    return LayerGaussians(
        [
            WhitenedGaussian(tensors[f"{part}.mean_{index}"], tensors[f"{part}.whitening_{index}"])
            for index in range(count)
        ]
    )
