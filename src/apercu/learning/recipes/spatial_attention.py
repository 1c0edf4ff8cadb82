"""Positions count by how sure a pretrained classifier is there."""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.learning.network import LearningNetwork
from apercu.learning.recipes.base import Recipe, Task
from apercu.methods.layers import SCORING_LAYERS, find_head, get_layer

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
        layer = network.body.get_submodule(network.maps_name)
        network.body.set_submodule(network.maps_name, AttendedMaps(layer, weight, bias, self.power))
        network.source = None  # no SPEC builds such a body


class AttendedMaps(nn.Module):
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
