"""Uncertainty from passes with random dropout.

Gal and Ghahramani 2016 keep dropout on when a network is used: the passes are draws from an
approximate posterior, their mean is the prediction, and its entropy says how uncertain it is. They
report better uncertainty without a change of the network, provided that it was trained with
dropout.

Our choices: layers of dropout that the network has are used; if it has none, the input of its last
layer is dropped, for which it was not trained. All images share the masks, which depend on the seed
alone, so that an image has the same score in any batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.filters.checks import check_whole
from apercu.methods.layers import find_head, get_layer, get_open_module
from apercu.option_strings import MAX_SEED
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.unknown.base import (
    KnownImages,
    UnknownMethod,
    UnknownScorer,
    check_classes,
)
from apercu.robustness.unknown.max_softmax import compute_entropy
from apercu.types import Images, Scores

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@final
@dataclass(frozen=True)
class MonteCarloDropout(UnknownMethod):
    """The entropy of the mean probabilities of passes with dropout (Gal and Ghahramani 2016).

    Args:
        passes: number of passes.
        rate: fraction of features that is dropped before the last layer of a network without
            layers of dropout; others keep their own rates.
        seed: seed of the masks.
    """

    name = "monte_carlo_dropout"
    passes: int = 50
    rate: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("monte_carlo_dropout", 2, 1000, passes=self.passes)
        check_whole("monte_carlo_dropout", 0, MAX_SEED, seed=self.seed)
        if not 0 < self.rate < 1:
            raise ConfigError(
                f"monte_carlo_dropout: rate: expected a number between 0 and 1, got {self.rate:g}"
            )

    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        return self.restore(known.classifier, {})

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        check_classes(classifier, self.name)
        network = get_open_module(classifier)
        layers = tuple(
            layer for layer in network.modules() if isinstance(layer, DROPOUTS) and layer.p > 0
        )
        if layers:
            return MonteCarloDropoutScorer(self, classifier, layers, None)
        grey = torch.full((1, classifier.channels, *classifier.size), 0.5)
        head = get_layer(classifier, find_head(classifier, grey.to(classifier.device)))
        return MonteCarloDropoutScorer(self, classifier, layers, head)


@final
@dataclass(frozen=True, eq=False)
class MonteCarloDropoutScorer(UnknownScorer):
    """Passes of a classifier with random dropout.

    Args:
        method: the method.
        classifier: the classifier.
        layers: its layers of dropout.
        head: its last layer where it has no layers of dropout, else None.
    """

    method: MonteCarloDropout
    classifier: Classifier
    layers: tuple[nn.Module, ...]
    head: nn.Module | None

    def compute_scores(self, images: Images) -> Scores:
        probabilities = self.compute_probabilities(images)
        return compute_entropy(probabilities, is_multiple=self.classifier.decision.is_multiple)

    def compute_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Return the mean probabilities of all passes."""
        generator = Generator().manual_seed(self.method.seed)
        total = torch.zeros(())
        with self._drop(generator):
            for _ in range(self.method.passes):
                probabilities = self.classifier.predict_probabilities(images)
                total = total.to(probabilities) + probabilities / self.method.passes
        return total

    @contextmanager
    def _drop(self, generator: Generator) -> Iterator[None]:
        """Drop features at random within the `with` block."""

        def drop_output(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            spatial = not isinstance(layer, nn.Dropout)
            return drop_features(output, layer.p, generator, whole_channels=spatial)

        def drop_input(layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return drop_features(inputs[0], self.method.rate, generator), *inputs[1:]

        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.callback(layer.register_forward_hook(drop_output).remove)
            if self.head is not None:
                hooks.callback(self.head.register_forward_pre_hook(drop_input).remove)
            yield

    def pack_tensors(self) -> dict[str, Tensor]:
        return {}


def drop_features(
    features: Tensor, rate: float, generator: Generator, *, whole_channels: bool = False
) -> Tensor:
    """Set random features to 0, the same of all images, and enlarge the others.

    Args:
        features: features, `batch × channels × …`.
        rate: probability that a feature is dropped.
        generator: source of the random numbers.
        whole_channels: whether a channel is dropped at all positions together.

    Returns:
        Features of the same shape, with the same expected value.
    """
    shape = features.shape[1:]
    if whole_channels:
        shape = torch.Size([shape[0], *[1] * (len(shape) - 1)])
    kept = (torch.rand(shape, generator=generator) >= rate).to(features)
    return features * kept / (1 - rate)
