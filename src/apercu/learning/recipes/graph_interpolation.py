"""A last layer without parameters: features are averaged over a graph, and class means decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from apercu.classifiers.reinitialise import NetworkSource
from apercu.errors import ClassifierError
from apercu.learning.recipes.base import Recipe, Task
from apercu.learning.recipes.described import (
    BUILDERS,
    DescribedHead,
    build_inner,
    check_numbers,
    describe_inner,
)
from apercu.types import Logits

Features = Float[Tensor, "images features"]
FACTORY = BUILDERS["graph_interpolation"]
"""What a card names as the source of a network with this last layer."""
SPREAD = 10.0
"""Mean difference of the logits of two classes at their own means, before calibration."""


@final
class GraphInterpolation(Recipe):
    """Interpolates features over a graph of similar images, without training (Hu et al. 2020).

    "Graph-based Interpolation of Feature Vectors for Accurate Few-Shot Classification" claims that
    a graph whose edges are cosines of features, with images to be classified among its nodes,
    makes few labels go further than a graph network, and has nothing to train. Each image's
    features are mixed with those of its nearest neighbours, so that labelled images move towards
    the middle of their group.

    Ours: unlabelled images are the other nodes, if there are any; they stay in the classifier, and
    each new image is mixed with its neighbours among them by itself, so that its class does not
    depend on what else is classified. The nearest class mean decides in the place of a logistic
    regression.

    Attributes:
        neighbours: number of neighbours of each image.
        own: weight of an image's own features in the mixture.
        rounds: number of times that the features of all nodes are mixed.
        nodes: largest number of unlabelled images in the graph.
    """

    name: ClassVar[str] = "graph_interpolation"
    neighbours: int = Field(10, ge=1)
    own: float = Field(0.5, ge=0, le=1)
    rounds: int = Field(1, ge=1, le=100)
    nodes: int = Field(4096, ge=0)

    def build_head(
        self,
        features: Features,
        targets: Float[Tensor, "images classes"],
        task: Task,
        unlabelled: Float[Tensor, "unlabelled features"] | None = None,
    ) -> nn.Module:
        bank = features
        if unlabelled is not None and self.nodes:
            generator = task.make_generator("graph interpolation")
            rows = torch.randperm(len(unlabelled), generator=generator)[: self.nodes]
            bank = torch.cat([features, unlabelled[rows]])
        centre = bank.mean(0)
        places = F.normalize(bank - centre, dim=1)
        values = places.clone()
        others = places @ places.T
        others.fill_diagonal_(-torch.inf)  # no image is its own neighbour
        count = max(1, min(self.neighbours, len(bank) - 1))
        for _ in range(self.rounds - 1):
            values = mix_neighbours(values, others, values, count, self.own)
        mixed = mix_neighbours(
            values[: len(features)], others[: len(features)], values, count, self.own
        )
        present = _average_classes(mixed, (targets == 1).float())
        lacking = (targets == 0).float()  # neither where nobody knows
        absent = _average_classes(mixed, lacking) if task.decision.is_multiple else None
        return InterpolatedMeans((centre, places, values), (present, absent), count, self.own)


@final
class InterpolatedMeans(DescribedHead):
    """Mixes features with those of their neighbours; the logits fall with distances to class means.

    Args:
        nodes: mean of all features, places of the nodes by which neighbours are found, and the
            values that are mixed.
        means: mean of each class, and of the images without each class; None where an image has
            one class.
        neighbours: number of neighbours.
        own: weight of the features themselves.
    """

    centre: Float[Tensor, " features"]
    places: Float[Tensor, "nodes features"]
    values: Float[Tensor, "nodes features"]
    present: Float[Tensor, "classes features"]
    absent: Float[Tensor, "classes features"]
    factor: Float[Tensor, ""]
    shift: Float[Tensor, " classes"]

    def __init__(
        self,
        nodes: tuple[Tensor, Tensor, Tensor],
        means: tuple[Tensor, Tensor | None],
        neighbours: int,
        own: float,
    ) -> None:
        super().__init__()
        for name, value in zip(("centre", "places", "values"), nodes, strict=True):
            self.register_buffer(name, value)
        present, absent = means
        self.register_buffer("present", present)
        self.register_buffer("absent", torch.zeros(0) if absent is None else absent)
        self.neighbours, self.own = neighbours, own
        other = torch.pdist(present) if absent is None else (present - absent).norm(dim=1)
        self.register_buffer("factor", SPREAD / other.square().mean().clamp(min=1e-6))
        self.register_buffer("shift", torch.zeros(len(present)))

    def describe_source(self, source: NetworkSource, name: str) -> NetworkSource | None:
        named = describe_inner(source)
        if named is None:
            return None
        nodes, features = self.places.shape
        options = named | {
            "head": name,
            "nodes": nodes,
            "features": features,
            "classes": len(self.present),
            "several": bool(self.absent.numel()),
            "neighbours": self.neighbours,
            "own": self.own,
        }
        return NetworkSource(FACTORY, options, source.input)

    def add_to_logits(self, summands: Float[Tensor, " classes"]) -> None:
        self.shift += summands

    def forward(self, features: Tensor) -> Logits:
        """Return logits of features, `batch × features`, or of maps of one position."""
        flat = features.mean((2, 3)) if features.ndim == 4 else features
        own = F.normalize(flat - self.centre, dim=1)
        cosines = own @ self.places.T
        mixed = mix_neighbours(own, cosines, self.values, self.neighbours, self.own)
        logits = -_square_distances(mixed, self.present)
        if self.absent.numel():
            logits = logits + _square_distances(mixed, self.absent)
        return self.factor * logits + self.shift


def build_graph_network(
    library: str,
    model: str,
    options: Mapping[str, Any],
    size: Sequence[int],
    head: str,
    nodes: int,
    features: int,
    classes: int,
    several: bool,
    neighbours: int,
    own: float,
) -> nn.Module:
    """Build a network whose last layer are interpolated means, as a card describes it.

    Args:
        library, model, options, size: the network that gets the layer; see `build_inner`.
        head: name of the last layer.
        nodes: number of nodes of the graph.
        features: number of features.
        classes: number of classes.
        several: whether an image may have several classes.
        neighbours: number of neighbours of each image.
        own: weight of an image's own features.

    Returns:
        The network, whose weights are those of nothing yet.

    Raises:
        ClassifierError: the library is unknown, has no such model, or refuses the options; or the
            graph has too few nodes.
    """
    counts = {
        "nodes": nodes,
        "features": features,
        "classes": classes,
        "neighbours": neighbours,
    }
    check_numbers(FACTORY, counts, {"own": own})
    if not (0 <= own <= 1 and 1 <= neighbours <= nodes):
        raise ClassifierError(
            f"classifier {FACTORY}: expected options.own from 0 to 1 and options.neighbours from 1 "
            f"to the {nodes} nodes, got {own} and {neighbours}"
        )
    network = build_inner(FACTORY, library, model, options, size)
    with torch.device("meta"):  # takes no memory before the numbers are counted
        places, means = torch.zeros(nodes, features), torch.zeros(classes, features)
        last = InterpolatedMeans(
            (torch.zeros(features), places, places.clone()),
            (means, means.clone() if several else None),
            neighbours,
            own,
        )
    last.to_empty(device="cpu")
    for values in last.buffers():
        values.zero_()
    parent, _, name = head.rpartition(".")
    setattr(network.get_submodule(parent), name, last)
    return network


def mix_neighbours(
    features: Features,
    cosines: Float[Tensor, "images nodes"],
    values: Tensor,
    count: int,
    own: float,
) -> Features:
    """Mix features with the mean of the values of the nearest nodes, weighted by cosines.

    Args:
        features: features of length 1.
        cosines: similarity with each node.
        values: features of the nodes.
        count: number of neighbours.
        own: weight of the features themselves.

    Returns:
        The mixtures, of length 1.
    """
    weights, nodes = cosines.topk(count, dim=1)
    weights = weights.clamp(min=1e-6)
    weights = weights / weights.sum(1, keepdim=True)
    means = torch.zeros_like(cosines).scatter(1, nodes, weights) @ values
    return F.normalize(own * features + (1 - own) * means, dim=1)


def _average_classes(
    features: Features, targets: Float[Tensor, "images classes"]
) -> Float[Tensor, "classes features"]:
    """Return the mean of the features of each class."""
    return targets.T @ features / targets.sum(0).clamp(min=1e-6)[:, None]


def _square_distances(features: Features, means: Tensor) -> Logits:
    """Return squared distances, up to a number that is the same for all means."""
    return means.square().sum(1) - 2 * features @ means.T
