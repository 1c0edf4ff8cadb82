"""Positions count by how sure a pretrained classifier is there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.reinitialise import NetworkSource
from apercu.errors import ClassifierError, ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Recipe, Task
from apercu.learning.recipes.described import (
    BUILDERS,
    DescribedLayer,
    build_inner,
    check_numbers,
    describe_inner,
)
from apercu.methods.layers import SCORING_LAYERS, find_head, get_layer

FACTORY = BUILDERS["spatial_attention"]
"""What a card names as the source of a network with such weights."""
SMALLEST_WEIGHT = 1e-3


@final
class SpatialAttention(Recipe):
    """Weighs positions by the class scores of the pretrained classifier (Lifchitz et al. 2020).

    "Few-Shot Few-Shot Learning and the role of Spatial Attention" claims that, where labels are
    few, a network cannot learn where to look, but a classifier of other classes knows: positions
    at which its scores are certain show an object, others show background. Its last layer scores
    every position of the last feature map; the weight of a position is one minus the entropy of
    these scores as a fraction of the largest, and features are means with these weights.

    Ours: the weights are also used while all layers are trained, computed from the present map with
    the last layer as it was, and without gradients of their own.

    Attributes:
        power: power of the weights; 0 is the plain mean.
    """

    name: ClassVar[str] = "spatial_attention"
    power: float = Field(1.0, ge=0, le=16)

    def check_task(self, task: Task) -> None:
        if task.pretrained is None or task.pretrained.network.output == "features":
            raise ConfigError(
                "recipe: spatial_attention: expected a classifier with classes of its own as "
                "--network, got a network of features"
            )
        _read_last_layer(task.pretrained, task.images[0][None])

    def change_network(self, network: LearningNetwork, task: Task) -> None:
        if task.pretrained is None:
            raise ConfigError("recipe: spatial_attention: expected a pretrained classifier")
        weight, bias = _read_last_layer(task.pretrained, task.images[0][None])
        training = network.training
        with torch.no_grad():
            images = task.start.normalise(task.images[0][None].to(task.device))
            outputs = network.to(task.device).eval().compute_outputs(images)
        network.train(training)
        maps = outputs.maps
        pooled = maps.mean((2, 3)) if maps.ndim == 4 else None
        if (
            pooled is None
            or pooled.shape[1] != weight.shape[1]
            or not torch.allclose(pooled, outputs.features, rtol=1e-3, atol=1e-4)
        ):
            raise ClassifierError(
                "recipe: spatial_attention: expected a network whose last layer takes the mean of "
                "its last feature map"
            )
        attended = attend_layer(network.body, network.maps_name, weight, bias, self.power)
        source = network.source
        network.source = source and attended.describe_source(source, network.maps_name)


@final
class AttendedMaps(DescribedLayer):
    """A layer whose feature map is weighted by how certain the scores of its positions are.

    Args:
        layer: layer that gives the feature map.
        weight: weights of a last layer, `classes × channels`.
        bias: bias of that layer, one number per class.
        power: power of the weights.
    """

    weight: Float[Tensor, "classes channels"]
    bias: Float[Tensor, " classes"]

    def __init__(self, layer: nn.Module, weight: Tensor, bias: Tensor, power: float) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.power = power

    def describe_source(self, source: NetworkSource, name: str) -> NetworkSource | None:
        named = describe_inner(source)
        if named is None:
            return None
        scored, channels = self.weight.shape
        options = named | {
            "layer": name,
            "scored": scored,
            "channels": channels,
            "power": self.power,
        }
        return NetworkSource(FACTORY, options, source.input)

    def forward(self, inputs: Tensor) -> Float[Tensor, "batch channels rows columns"]:
        """Return the weighted map; the mean of the weights of an image is 1."""
        maps: Tensor = self.layer(inputs)
        return maps * self.weigh_positions(maps.detach())

    def weigh_positions(
        self, maps: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch 1 rows columns"]:
        """Return one weight per position."""
        scores = F.conv2d(maps, self.weight[:, :, None, None], self.bias)
        logarithms = scores.log_softmax(1)
        entropy = -(logarithms.exp() * logarithms).sum(1, keepdim=True)
        certain = (1 - entropy / math.log(len(self.bias))).clamp(min=SMALLEST_WEIGHT)
        weights = certain**self.power
        return weights / weights.mean((2, 3), keepdim=True)


def attend_layer(
    network: nn.Module, name: str, weight: Tensor, bias: Tensor, power: float
) -> AttendedMaps:
    """Put `AttendedMaps` in the place of a layer of a network, which it changes.

    Args:
        network: the network.
        name: name of the layer that gives the feature map.
        weight: weights of a last layer, `classes × channels`.
        bias: bias of that layer, one number per class.
        power: power of the weights.

    Returns:
        The new layer, which holds the old one.
    """
    attended = AttendedMaps(network.get_submodule(name), weight, bias, power)
    network.set_submodule(name, attended)
    return attended


def build_attended_network(
    library: str,
    model: str,
    options: Mapping[str, Any],
    size: Sequence[int],
    layer: str,
    scored: int,
    channels: int,
    power: float,
) -> nn.Module:
    """Build a network whose feature map is weighted by the scores of its positions.

    Args:
        library, model, options, size: the network that gets the layer; see `build_inner`.
        layer: name of the layer that gives the feature map.
        scored: number of classes whose scores give the weights.
        channels: number of channels of the feature map.
        power: power of the weights.

    Returns:
        The network, whose weights are those of nothing yet.

    Raises:
        ClassifierError: the library is unknown, has no such model, or refuses the options; or the
            network has no such layer.
    """
    check_numbers(FACTORY, {"scored": scored, "channels": channels}, {"power": power})
    network = build_inner(FACTORY, library, model, options, size)
    with torch.device("meta"):  # takes no memory before the numbers are counted
        weight, bias = torch.zeros(scored, channels), torch.zeros(scored)
    try:
        attended = attend_layer(network, layer, weight, bias, power)
    except AttributeError:
        raise ClassifierError(
            f"classifier {FACTORY}: {library}/{model} has no layer {layer}"
        ) from None
    attended.weight, attended.bias = torch.zeros(scored, channels), torch.zeros(scored)
    return network


def _read_last_layer(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return copies of the weights, `classes × channels`, and the bias of the last layer.

    Raises:
        ClassifierError: the last layer is none that scores features.
    """
    images = images.to(classifier.device)
    layer = get_layer(classifier, find_head(classifier, images))
    if not isinstance(layer, SCORING_LAYERS) or len(layer.weight) < 2:
        raise ClassifierError(
            f"recipe: spatial_attention: {classifier.spec} has no last layer with two classes or "
            "more"
        )
    weight = layer.weight.detach().flatten(1).clone()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()
    return weight, bias
