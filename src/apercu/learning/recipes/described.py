"""Layers that recipes leave in a network, and how a card builds a network that has them.

A network with such a layer has a function of this package as its source. Its options name the
network that the layer was added to, which may have such a layer of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Network
from apercu.classifiers.card import InputSpec
from apercu.classifiers.reinitialise import NetworkSource, find_source
from apercu.errors import ClassifierError, shorten

LIBRARIES = ("timm", "torchvision")
"""Libraries whose networks get such layers; a configuration of transformers may name files."""
OWN_LIBRARY = "apercu"
"""Stands for the library where the network already has such a layer."""
BUILDERS = {
    name: f"apercu.learning.recipes.{name}:{builder}"
    for name, builder in {
        "auxiliary_targets": "build_grouped_network",
        "colouring": "build_coloured_network",
        "graph_interpolation": "build_graph_network",
        "spatial_attention": "build_attended_network",
    }.items()
}
"""Functions that build networks with such layers, by the name of the recipe."""


class DescribedLayer(nn.Module, ABC):
    """A layer that a function of this package puts into a network of a library."""

    @abstractmethod
    def describe_source(self, source: NetworkSource, name: str) -> NetworkSource | None:
        """Return how a card builds the network with this layer.

        Args:
            source: how it builds the network without it.
            name: name of the layer in the network; empty for a layer in front of it.

        Returns:
            The function of this package, with its options; None where it builds no such network.
        """


class DescribedHead(DescribedLayer):
    """A last layer that is not linear."""

    @abstractmethod
    def add_to_logits(self, summands: Float[Tensor, " classes"]) -> None:
        """Add a number to the logit of each class."""


class DescribedFront(DescribedLayer):
    """A layer in front of a network: normalised images → normalised images."""

    @abstractmethod
    def join(self, network: nn.Module) -> FrontedNetwork:
        """Return the layer and the network as one network, which shares their weights."""


class FrontedNetwork(nn.Module):
    """A network with a layer in front of it.

    Args:
        front: the layer: normalised images → normalised images.
        network: network from normalised images to logits.
    """

    def __init__(self, front: DescribedFront, network: nn.Module) -> None:
        super().__init__()
        self.front, self.network = front, network

    def forward(self, images: Tensor) -> Any:
        """Return the output of the network, `batch × classes`, of normalised images."""
        return self.network(self.front(images))


def describe_inner(source: NetworkSource) -> dict[str, Any] | None:
    """Return the options that name the network that a layer is added to.

    Args:
        source: how a card builds that network.

    Returns:
        `library`, `model`, `options` and `size`; None for a network of another library.
    """
    library, _, model = source.source.partition("/")
    for name, builder in BUILDERS.items():
        if source.source == builder:
            library, model = OWN_LIBRARY, name
    if library not in (*LIBRARIES, OWN_LIBRARY):
        return None
    options, size = dict(source.options), list(source.input.size)
    return {"library": library, "model": model, "options": options, "size": size}


def find_inner(source: NetworkSource | Network) -> NetworkSource:
    """Return how a card builds the network that a layer was added to.

    Args:
        source: how it builds the network with the layer; its options name the other one.

    Returns:
        The name of the library, or the function of this package, with its options.
    """
    named = source.options
    if named["library"] == OWN_LIBRARY:
        name = BUILDERS[named["model"]]
    else:
        name = f"{named['library']}/{named['model']}"
    return NetworkSource(name, named["options"], source.input)


def build_inner(
    factory: str, library: str, model: str, options: Mapping[str, Any], size: Sequence[int]
) -> nn.Module:
    """Build the network that a layer is added to, as a card describes it.

    Args:
        factory: the function that adds the layer, for the errors.
        library: `timm` or `torchvision`; `apercu` for a network that has such a layer already.
        model: name of the model in the library; for `apercu` that of the recipe.
        options: options of the model.
        size: height and width of the images.

    Returns:
        The network, whose weights are those of nothing yet.

    Raises:
        ClassifierError: the library is unknown, has no such model, or refuses the options.
    """
    if library not in (*LIBRARIES, OWN_LIBRARY):
        raise ClassifierError(
            f"classifier {factory}: expected a library out of {', '.join(LIBRARIES)}, got {library}"
        )
    if library == OWN_LIBRARY and model not in BUILDERS:
        raise ClassifierError(
            f"classifier {factory}: expected a model out of {', '.join(BUILDERS)}, got {model}"
        )
    height, width = size
    channels = options.get("in_chans", 3)
    source = BUILDERS[model] if library == OWN_LIBRARY else f"{library}/{model}"
    return NetworkSource(source, options, InputSpec(channels=channels, size=(height, width))).build(
        0
    )


def check_numbers(
    factory: str, counts: Mapping[str, object], numbers: Mapping[str, object]
) -> None:
    """Check that options of a card are numbers, before anything is built of them.

    Args:
        factory: the function that adds the layer, for the error.
        counts: options that are whole numbers from 0 on, by name.
        numbers: options that are numbers, by name.

    Raises:
        ClassifierError: some are not.
    """
    wrong = {key: value for key, value in counts.items() if type(value) is not int or value < 0}
    wrong |= {key: value for key, value in numbers.items() if type(value) not in (int, float)}
    if wrong:
        shown = ", ".join(f"options.{key} {shorten(value)}" for key, value in wrong.items())
        raise ClassifierError(f"classifier {factory}: expected numbers, got {shown}")


def find_source_with_classes(network: Network, classes: int) -> NetworkSource | None:
    """Find how the source of a network builds it with another number of classes.

    Args:
        network: the network, whose last layer is linear.
        classes: number of classes.

    Returns:
        The source with its options; None where nothing describes the network.
    """
    if network.source not in BUILDERS.values():
        return find_source(network, classes)
    inner = find_inner(network)
    within = replace(network, source=inner.source, options=dict(inner.options))
    changed = find_source_with_classes(within, classes)
    named = None if changed is None else describe_inner(changed)
    if named is None:
        return None
    return NetworkSource(network.source, {**network.options, **named}, network.input)
