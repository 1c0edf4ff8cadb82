"""Looking inside an open classifier: the last feature map and the layer that scores it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, nearest
from apercu.types import Images

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@dataclass(frozen=True)
class Anatomy:
    """Names of two layers of a classifier's network."""

    features: str
    """The layer that gives the last map of features: 4-D, larger than 1 × 1."""
    head: str
    """The linear or convolutional layer that turns features into scores of classes."""


SCORING = (nn.Linear, nn.Conv2d)

_known: WeakKeyDictionary[nn.Module, Anatomy] = WeakKeyDictionary()


def anatomy(classifier: Classifier, images: Images) -> Anatomy:
    """Find both layers by watching one image pass, once for each network.

    Raises:
        ClassifierError: no convolutional map of features comes before the scores.
    """
    module = open_module(classifier)
    if module not in _known:
        _known[module] = _watch(classifier, images[:1])
    return _known[module]


def open_module(classifier: Classifier) -> nn.Module:
    """The network of a classifier whose layers are open, or a `ClassifierError`."""
    if classifier.module is None or not classifier.exposes_layers:
        raise ClassifierError(
            f"layers: {classifier.spec} shows its answers only; choose a method that asks, "
            "such as occlusion, or a trained explainer"
        )
    return classifier.module


def layer_named(classifier: Classifier, name: str) -> nn.Module:
    """One layer by its name, or a `ClassifierError` that suggests the nearest."""
    layers = dict(open_module(classifier).named_modules())
    if name not in layers:
        raise ClassifierError(
            f"layer: {classifier.spec} has no layer {name!r}{nearest(name, filter(None, layers))}"
        )
    return layers[name]


@contextmanager
def hooked(module: nn.Module, hook: Hook) -> Iterator[None]:
    """See (module, inputs, output) of a layer; the hook ends with the block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _watch(classifier: Classifier, image: Images) -> Anatomy:
    """The last scoring layer, and the last map of features that was complete before it."""
    passed: list[tuple[str, nn.Module, torch.Size]] = []
    handles = []

    def note(name: str) -> Hook:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor):
                passed.append((name, layer, output.shape))

        return hook

    try:
        for name, layer in open_module(classifier).named_modules():
            if name:
                handles.append(layer.register_forward_hook(note(name)))
        with torch.no_grad():
            classifier(image)
    finally:
        for handle in handles:
            handle.remove()
    return _read(classifier.spec, passed)


def _read(spec: str, passed: list[tuple[str, nn.Module, torch.Size]]) -> Anatomy:
    """The two layers among those that passed, in the order of their completion."""
    scoring = [i for i, (_, layer, _) in enumerate(passed) if isinstance(layer, SCORING)]
    head = scoring[-1] if scoring else 0
    maps = [i for i in range(head) if is_map(passed[i][2])]
    tokens = [i for i in range(head) if len(passed[i][2]) == 3]
    if not maps or (tokens and tokens[-1] > maps[-1]):
        raise ClassifierError(
            f"layers: {spec} has no convolutional map of features before its scores; "
            "choose a method that needs none, such as gradient or occlusion"
        )
    features, _, shape = passed[maps[-1]]
    name, layer, _ = passed[head]
    if isinstance(layer, nn.Linear) and shape[3] == layer.in_features != shape[1]:
        raise ClassifierError(
            f"layers: {spec} keeps the channels of its features last, which is not known here; "
            "choose a method that needs no layers, such as gradient or occlusion"
        )
    return Anatomy(features, head=name)


def is_map(shape: torch.Size) -> bool:
    """Batch, channels, height, width, and more than one place."""
    return len(shape) == 4 and shape[2] * shape[3] > 1
