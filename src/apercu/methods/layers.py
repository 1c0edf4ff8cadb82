"""Looking inside an open classifier: the last feature map and the layer that scores it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, suggest_nearest
from apercu.methods.tokens import convert_to_map, find_last_spatial_layer
from apercu.types import Images, Targets

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@dataclass(frozen=True)
class TargetLayers:
    """Names of two layers of a classifier's network."""

    features: str
    """The layer that gives the last map of features, or the last tokens whose places count."""
    head: str
    """The linear or convolutional layer that turns features into scores of classes."""


SCORING_LAYERS = (nn.Linear, nn.Conv2d)

_target_layers: WeakKeyDictionary[nn.Module, TargetLayers] = WeakKeyDictionary()


def find_target_layers(classifier: Classifier, images: Images) -> TargetLayers:
    """Find both layers by watching one image pass, once for each network.

    Raises:
        ClassifierError: no convolutional map of features comes before the scores.
    """
    module = get_open_module(classifier)
    if module not in _target_layers:
        _target_layers[module] = _trace_layers(classifier, images[:1])
    return _target_layers[module]


def get_open_module(classifier: Classifier) -> nn.Module:
    """The network of a classifier whose layers are open, or a `ClassifierError`."""
    if classifier.module is None or not classifier.exposes_layers:
        raise ClassifierError(
            f"layers: {classifier.spec} shows its answers only; choose a method that asks, "
            "such as occlusion, or a trained explainer"
        )
    return classifier.module


def get_layer(classifier: Classifier, name: str) -> nn.Module:
    """One layer by its name, or a `ClassifierError` that suggests the nearest."""
    layers = dict(get_open_module(classifier).named_modules())
    if name not in layers:
        raise ClassifierError(
            f"layer: {classifier.spec} has no layer {name!r}"
            f"{suggest_nearest(name, filter(None, layers))}"
        )
    return layers[name]


@contextmanager
def attach_hook(module: nn.Module, hook: Hook) -> Iterator[None]:
    """See (module, inputs, output) of a layer; the hook ends with the block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def compute_deep_features(
    classifier: Classifier, images: Images
) -> Float[Tensor, "batch features"]:
    """What the layer that scores classes receives, averaged over places where it has any.

    A network that answers features has no such layer; they are its answer.

    Raises:
        ClassifierError: the classifier does not show its layers.
    """
    if classifier.network.output == "features":
        return classifier(images)
    kept: list[Tensor] = []
    head = get_layer(classifier, find_target_layers(classifier, images).head)
    with attach_hook(head, lambda _module, inputs, _output: kept.append(inputs[0])):
        classifier(images)
    features = kept[0]
    return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)


@dataclass(frozen=True)
class LayerGradients:
    """A layer, the map of features it gave, and the slopes of the target's logit by them."""

    layer: nn.Module
    features: Float[Tensor, "batch channels rows columns"]
    gradients: Float[Tensor, "batch channels rows columns"]


def layer_gradients(
    classifier: Classifier, layers: Sequence[nn.Module], images: Images, targets: Targets
) -> list[LayerGradients]:
    """What one pass gave at each of these layers, in the order of their completion.

    A layer that is called twice is there twice; outputs without places are left out.

    Raises:
        ClassifierError: no layer gave a map of features that the target's logit depends on.
    """
    size = (images.shape[2], images.shape[3])
    kept: list[tuple[nn.Module, Tensor]] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or len(output) != len(images):
            return None  # patches of images are no maps of them
        if convert_to_map(output, size) is None:
            return None
        if not output.requires_grad:  # the graph begins here: nothing before it is remembered
            output = output.detach().requires_grad_()
        kept.append((layer, output))
        return output.clone()  # what comes next may write into it

    with ExitStack() as hooks, torch.enable_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(keep).remove)
        logits = classifier(images.detach())
        score = logits.gather(1, targets[:, None]).sum()
        outputs = [output for _, output in kept]
        slopes = torch.autograd.grad(score, outputs, allow_unused=True) if outputs else ()
    found = []
    for (layer, output), slope in zip(kept, slopes, strict=True):
        if slope is None:
            continue
        features, weights = convert_to_map(output.detach(), size), convert_to_map(slope, size)
        if features is not None and weights is not None:
            found.append(LayerGradients(layer, features, weights))
    if not found:
        raise ClassifierError(
            f"layer: {classifier.spec} gives no map of features there that its scores depend on; "
            "name an earlier layer"
        )
    return found


def _trace_layers(classifier: Classifier, image: Images) -> TargetLayers:
    """The last scoring layer, and the last map of features that was complete before it."""
    passed: list[tuple[str, nn.Module, torch.Size]] = []
    handles = []

    def note(name: str) -> Hook:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor):
                passed.append((name, layer, output.shape))

        return hook

    try:
        for name, layer in get_open_module(classifier).named_modules():
            if name:
                handles.append(layer.register_forward_hook(note(name)))
        with torch.no_grad():
            classifier(image)
    finally:
        for handle in handles:
            handle.remove()
    return _choose_layers(classifier, image, passed)


def _choose_layers(
    classifier: Classifier, image: Images, passed: list[tuple[str, nn.Module, torch.Size]]
) -> TargetLayers:
    """The two layers among those that passed, in the order of their completion."""
    scoring = [i for i, (_, layer, _) in enumerate(passed) if isinstance(layer, SCORING_LAYERS)]
    head = scoring[-1] if scoring else 0
    name, layer, _ = passed[head]
    maps = [i for i in range(head) if is_feature_map(passed[i][2])]
    features = passed[maps[-1]][0] if maps else None
    if isinstance(layer, nn.Linear) and _has_token_ending(passed[:head], maps, layer.in_features):
        features = find_last_spatial_layer(
            classifier, get_open_module(classifier), image, layer.in_features
        )
    if features is None:
        raise ClassifierError(
            f"layers: {classifier.spec} has no map of features or tokens of places before its "
            "scores; choose a method that needs none, such as gradient or occlusion"
        )
    return TargetLayers(features, head=name)


def _has_token_ending(
    passed: list[tuple[str, nn.Module, torch.Size]], maps: list[int], channels: int
) -> bool:
    """Whether the last places come as tokens, or as maps whose channels are last."""
    if not maps:
        return True
    shape = passed[maps[-1]][2]
    tokens_follow = any(len(later) == 3 for _, _, later in passed[maps[-1] :])
    return tokens_follow or shape[3] == channels != shape[1]


def is_feature_map(shape: torch.Size) -> bool:
    """Batch, channels, height, width, and more than one place."""
    return len(shape) == 4 and shape[2] * shape[3] > 1
