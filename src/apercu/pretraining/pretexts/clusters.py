"""Clusters: each image is drawn to one of a few points, and which one follows from the images."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, TypeAlias, cast, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import Field
from torch import Generator, Tensor, nn

from apercu import render
from apercu.errors import ConfigError
from apercu.pretraining.pretexts.base import (
    Features,
    Pretext,
    PretextBatch,
    PretextNetwork,
    PretextSample,
)
from apercu.pretraining.pretexts.contrastive import ViewPair
from apercu.types import Images, Scores

Centres: TypeAlias = Float[Tensor, "clusters features"]
ROUNDS = 50
"""Largest number of steps of k-means."""


@final
class Clusters(Pretext):
    """Aligns embeddings with points of a Gaussian mixture (MMDC, Shiran and Weinshall 2020).

    Claim of the paper: 82 % of CIFAR-10 are in the right one of ten clusters, without any label.
    Every image has a point. In each step the images of a batch exchange their points, so that the
    sum of the distances to the embeddings of the plain images is smallest; then the embedding of
    another view of each image is drawn to its point. As each point keeps its number of images,
    there cannot be one cluster for all. Towards the end, all images get the point of their cluster
    by k-means; clusters keep their points as far as possible. The network also learns by how many
    right angles images are turned.

    Ours: embeddings have length 1; at the start, each component has equally many images; k-means
    runs over the last embedding that each image had, not over a further pass of the network.

    Attributes:
        clusters: number of components of the mixture, whose means are orthogonal.
        spread: standard deviation of the points of a component around its mean.
        rotation: weight of the prediction of right angles; 0 where images have no upper side.
        refine_from: fraction of the training after which k-means gives the points.
        every: number of steps between two runs of k-means.
        views: random draw of the view that is embedded.
    """

    keeps_state: ClassVar[bool] = True
    form: Literal["clusters"] = "clusters"
    clusters: int = Field(10, ge=2, le=4096)
    spread: float = Field(0.0, ge=0)
    rotation: float = Field(1.0, ge=0)
    refine_from: float = Field(0.75, ge=0, le=1)
    every: int = Field(50, ge=1)
    views: ViewPair = ViewPair()

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = {
            "embedding": nn.Linear(sample.features, self.clusters),
            "points": MixturePoints(sample.count, self.clusters, self.spread),
        }
        if self.rotation:
            parts["turns"] = nn.Linear(sample.features, 4)
        return parts

    def compute_losses(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        points = cast(MixturePoints, network.parts["points"])
        indices = _require_numbers(batch.targets)
        views = self.views.draw_view(batch.images, batch.generator)
        angles = torch.randint(4, (len(views),), generator=batch.generator)
        if network.training:
            self._give_points(network, points, batch, indices)
        images = torch.cat([views, turn(views, angles)]) if self.rotation else views
        features = network(images)
        embedded = F.normalize(network.parts["embedding"](features[: len(views)]), dim=1)
        terms = {"point": (embedded - points.of_images[indices]).square().sum(1)}
        if self.rotation:
            logits = network.parts["turns"](features[len(views) :])
            losses = F.cross_entropy(logits, angles.to(logits.device), reduction="none")
            terms["turn"] = self.rotation * losses
        return terms

    def measure_errors(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        """Measure how often another view is in another cluster, and the largest cluster's size."""
        clusters = self.find_clusters(network, batch.images)
        views = self.views.draw_view(batch.images, batch.generator)
        moved = self.find_clusters(network, views) != clusters
        largest = clusters.bincount().max() / len(clusters)
        errors = {"other_cluster": moved.float(), "largest_cluster": largest.expand(len(clusters))}
        if self.rotation:
            angles = torch.randint(4, (len(views),), generator=batch.generator)
            predicted = network.parts["turns"](network(turn(views, angles))).argmax(1)
            errors["wrong_turn"] = (predicted != angles.to(predicted.device)).float()
        return errors

    def sample_tiles(self, network: PretextNetwork, batch: PretextBatch) -> list[render.Tile]:
        cluster = int(self.find_clusters(network, batch.images[:1])[0])
        return [render.Tile(render.to_image(batch.images[0].cpu()), f"cluster {cluster + 1}")]

    def find_clusters(self, network: PretextNetwork, images: Images) -> Int[Tensor, " batch"]:
        """Return the component whose mean is nearest, from 0, for each image."""
        embedded: Tensor = network.parts["embedding"](network(images))
        return embedded.argmax(1)

    def _give_points(
        self,
        network: PretextNetwork,
        points: MixturePoints,
        batch: PretextBatch,
        indices: Int[Tensor, " batch"],
    ) -> None:
        """Give images their points, as their plain embeddings are now."""
        network.eval()
        with torch.no_grad():
            embedded = F.normalize(network.parts["embedding"](network(batch.images)), dim=1)
        network.train()
        points.embedded[indices] = embedded
        if batch.progress < self.refine_from:
            points.exchange(indices, embedded)
        else:
            if int(points.refined) % self.every == 0:
                points.regroup(batch.generator)
            points.refined += 1


class MixturePoints(nn.Module):
    """The points of a Gaussian mixture that images are drawn to; checkpoints hold them.

    Args:
        images: number of images.
        clusters: number of components.
        spread: standard deviation of the points of a component around its mean.

    Attributes:
        of_images: point of each image, `images × clusters`, of length 1.
        embedded: last embedding of each image; 0 for an image that was not in a batch yet.
        refined: number of steps since k-means gives the points.
    """

    of_images: Float[Tensor, "images clusters"]
    embedded: Float[Tensor, "images clusters"]
    refined: Int[Tensor, ""]

    def __init__(self, images: int, clusters: int, spread: float) -> None:
        super().__init__()
        components = torch.arange(images).remainder(clusters)[torch.randperm(images)]
        means = F.one_hot(components, clusters).float()
        points = F.normalize(means + spread * torch.randn(images, clusters), dim=1)
        self.register_buffer("of_images", points)
        self.register_buffer("embedded", torch.zeros(images, clusters))
        self.register_buffer("refined", torch.zeros((), dtype=torch.long))

    def exchange(self, indices: Int[Tensor, " batch"], embedded: Features) -> None:
        """Let the images of a batch exchange their points, so that all are nearest."""
        points = self.of_images[indices]
        matched = match_pairs(torch.cdist(embedded, points).cpu().double().numpy())
        self.of_images[indices] = points[torch.from_numpy(matched).to(points.device)]

    def regroup(self, generator: Generator) -> None:
        """Give each image that was embedded the point of its cluster by k-means."""
        rows = torch.where(self.embedded.square().sum(1) > 0)[0]
        clusters = self.of_images.shape[1]
        if len(rows) < clusters:
            return
        before = self.of_images[rows].argmax(1)
        groups = cluster_features(self.embedded[rows], clusters, generator).groups
        overlap = torch.zeros(clusters, clusters, dtype=torch.long, device=rows.device)
        overlap.index_put_((groups, before), torch.ones_like(groups), accumulate=True)
        names = torch.from_numpy(match_pairs(-overlap.cpu().double().numpy())).to(rows.device)
        self.of_images[rows] = F.one_hot(names[groups], clusters).to(self.of_images)


def _require_numbers(targets: Tensor | None) -> Int[Tensor, " batch"]:
    if targets is None:
        raise ConfigError("clusters: expected the numbers of the images, got none")
    return targets[:, 0].long()


def turn(images: Images, angles: Int[Tensor, " batch"]) -> Images:
    """Turn each image by its number of right angles, counter-clockwise."""
    turned = [image.rot90(int(angle), (1, 2)) for image, angle in zip(images, angles, strict=True)]
    if images.shape[2] != images.shape[3]:
        turned = [F.interpolate(one[None], images.shape[2:])[0] for one in turned]
    return torch.stack(turned)


class FeatureClusters(NamedTuple):
    """Holds the clusters that k-means finds in features.

    Attributes:
        groups: cluster of each row, from 0.
        centres: mean of each cluster, `clusters × features`.
    """

    groups: Int[Tensor, " rows"]
    centres: Centres


@torch.no_grad()
def cluster_features(
    features: Features, clusters: int, generator: Generator, restarts: int = 3
) -> FeatureClusters:
    """Cluster features by k-means, from centres drawn far apart (k-means++).

    Args:
        features: features, at least as many rows as clusters.
        clusters: number of clusters.
        generator: generator of the draws.
        restarts: number of draws of the first centres; the clusters with the smallest sum of
            squared distances are kept.

    Returns:
        The clusters.

    >>> features = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0]])
    >>> sorted(cluster_features(features, 3, Generator().manual_seed(0)).groups.bincount().tolist())
    [1, 2, 2]
    """
    best: FeatureClusters | None = None
    smallest = float("inf")
    for _ in range(restarts):
        centres = _draw_centres(features, clusters, generator)
        groups = torch.cdist(features, centres).argmin(1)
        for _ in range(ROUNDS):
            sums = torch.zeros_like(centres).index_add_(0, groups, features)
            counts = groups.bincount(minlength=clusters)[:, None]
            centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
            before, groups = groups, torch.cdist(features, centres).argmin(1)
            if torch.equal(before, groups):
                break
        total = float((features - centres[groups]).square().sum())
        if best is None or total < smallest:
            best, smallest = FeatureClusters(groups, centres), total
    if best is None:
        raise ValueError("restarts: expected at least 1")
    return best


def _draw_centres(features: Features, clusters: int, generator: Generator) -> Centres:
    """Draw rows, each with a probability that rises as the squared distance from those before."""
    rows = [int(torch.randint(len(features), (1,), generator=generator))]
    distances = torch.full((len(features),), torch.inf)
    for _ in range(clusters - 1):
        nearest = (features - features[rows[-1]]).square().sum(1).cpu()
        distances = torch.minimum(distances, nearest)
        weights = distances if distances.sum() > 0 else torch.ones_like(distances)
        rows.append(int(torch.multinomial(weights, 1, generator=generator)))
    return features[rows]


def match_pairs(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Match every row with a column of its own, so that the sum of the costs is smallest.

    This is the Hungarian algorithm with shortest augmenting paths.

    Args:
        costs: finite costs, `rows × columns`, at least as many columns as rows.

    Returns:
        The column of each row.

    >>> match_pairs(np.array([[1.0, 2.0, 9.0], [1.0, 5.0, 9.0]])).tolist()
    [1, 0]
    """
    rows, columns = costs.shape
    padded = np.zeros((rows + 1, columns + 1))
    padded[1:, 1:] = costs
    row_prices, column_prices = np.zeros(rows + 1), np.zeros(columns + 1)
    row_of = np.zeros(columns + 1, dtype=np.int64)
    """The row of each column, from 1; 0 for a column that is free."""
    for row in range(1, rows + 1):
        row_of[0], column = row, 0
        shortest = np.full(columns + 1, np.inf)
        before = np.zeros(columns + 1, dtype=np.int64)
        done = np.zeros(columns + 1, dtype=bool)
        while row_of[column]:
            done[column] = True
            current = row_of[column]
            path = padded[current] - row_prices[current] - column_prices
            nearer = ~done & (path < shortest)
            shortest[nearer], before[nearer] = path[nearer], column
            following = int(np.where(done, np.inf, shortest).argmin())
            step = shortest[following]
            row_prices[row_of[done]] += step
            column_prices[done] -= step
            shortest[~done] -= step
            column = following
        while column:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    matched = np.zeros(rows, dtype=np.int64)
    matched[row_of[1:][row_of[1:] > 0] - 1] = np.flatnonzero(row_of[1:])
    return matched
