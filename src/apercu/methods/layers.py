"""The layers of an open classifier: the last feature map, and the layer that gives the logits."""

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
from apercu.methods.tokens import find_feature_layouts, find_last_spatial_layer
from apercu.types import Images, Targets

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@dataclass(frozen=True)
class _LayerCall:
    """One call of a layer: its name, the layer, and the shape of its output."""

    name: str
    layer: nn.Module
    shape: torch.Size


@dataclass(frozen=True)
class TargetLayers:
    """The names of two layers of a classifier's network."""

    features: str
    """The layer that gives the last feature map, or the last tokens whose positions matter."""
    head: str
    """The linear or convolutional layer that turns features into logits."""


SCORING_LAYERS = (nn.Linear, nn.Conv2d)

_target_layers: WeakKeyDictionary[nn.Module, TargetLayers] = WeakKeyDictionary()


def find_target_layers(classifier: Classifier, images: Images) -> TargetLayers:
    """Find both layers by tracing one image; the result is kept for each network.

    Raises:
        ClassifierError: no feature map comes before the logits.
    """
    module = get_open_module(classifier)
    if module not in _target_layers:
        _target_layers[module] = _trace_layers(classifier, images[:1])
    return _target_layers[module]


def get_open_module(classifier: Classifier) -> nn.Module:
    """Return the network of a classifier whose layers are open.

    Raises:
        ClassifierError: the classifier does not expose its layers.
    """
    if classifier.module is None or not classifier.exposes_layers:
        raise ClassifierError(
            f"layers: {classifier.spec} exposes no layers; choose a method that only queries, "
            "such as occlusion, or a trained explainer"
        )
    return classifier.module


def get_layer(classifier: Classifier, name: str) -> nn.Module:
    """Return one layer by its name.

    Raises:
        ClassifierError: there is no such layer; the message suggests the nearest name.
    """
    layers = dict(get_open_module(classifier).named_modules())
    if name not in layers:
        raise ClassifierError(
            f"layer: {classifier.spec} has no layer {name!r}"
            f"{suggest_nearest(name, filter(None, layers))}"
        )
    return layers[name]


@contextmanager
def attach_hook(module: nn.Module, hook: Hook) -> Iterator[None]:
    """Call a hook with (module, inputs, output) of a layer within the `with` block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def compute_deep_features(
    classifier: Classifier, images: Images
) -> Float[Tensor, "batch features"]:
    """Return the input of the layer that gives the logits, averaged over positions.

    A network whose output is features has no such layer; its output is returned.

    Raises:
        ClassifierError: the classifier does not expose its layers.
    """
    if classifier.network.output == "features":
        return classifier(images)
    head_inputs: list[Tensor] = []
    head = get_layer(classifier, find_target_layers(classifier, images).head)
    with attach_hook(head, lambda _module, inputs, _output: head_inputs.append(inputs[0])):
        classifier(images)
    features = head_inputs[0]
    return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)


@dataclass(frozen=True)
class LayerGradients:
    """A layer, its feature map, and the gradients of the target's logit by the features."""

    layer: nn.Module
    features: Float[Tensor, "batch channels rows columns"]
    gradients: Float[Tensor, "batch channels rows columns"]


def layer_gradients(
    classifier: Classifier, layers: Sequence[nn.Module], images: Images, targets: Targets
) -> list[LayerGradients]:
    """Return the features and gradients of these layers in one pass, in the order of their calls.

    A layer that is called twice appears twice; outputs without positions are left out.

    Args:
        classifier: an open, differentiable classifier.
        layers: layers of its network.
        images: images in [0, 1], `batch × channels × height × width`.
        targets: one class index per image.

    Returns:
        The feature maps and their gradients, at least one.

    Raises:
        ClassifierError: no layer gives a feature map that the target's logit depends on.
    """
    module = get_open_module(classifier)
    layouts = find_feature_layouts(classifier, module)
    names = {layer: name for name, layer in module.named_modules()}
    outputs: list[tuple[nn.Module, Tensor]] = []

    def keep(layer: nn.Module, inputs: object, output: object) -> Tensor | None:
        maps = layouts.read(names[layer], output) if isinstance(output, Tensor) else None
        if maps is None or len(maps) != len(images) or not isinstance(output, Tensor):
            return None  # an output of patches is no feature map of the images
        if not output.requires_grad:  # the graph begins here, so nothing before it is stored
            output = output.detach().requires_grad_()
        outputs.append((layer, output))
        return output.clone()  # the next operation may be in place

    with ExitStack() as hooks, torch.enable_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(keep).remove)
        logits = classifier(images.detach())
        score = logits.gather(1, targets[:, None]).sum()
        inputs = [output for _, output in outputs]
        gradients = torch.autograd.grad(score, inputs, allow_unused=True) if inputs else ()
    results = []
    for (layer, output), gradient in zip(outputs, gradients, strict=True):
        if gradient is None:
            continue
        features = layouts.read(names[layer], output.detach())
        feature_gradients = layouts.read(names[layer], gradient)
        if features is not None and feature_gradients is not None:
            results.append(LayerGradients(layer, features, feature_gradients))
    if not results:
        raise ClassifierError(
            f"layer: {classifier.spec} gives no feature map there that its logits depend on; "
            "name an earlier layer"
        )
    return results


def _trace_layers(classifier: Classifier, image: Images) -> TargetLayers:
    """Return the last classification layer, and the last feature map before it."""
    calls: list[_LayerCall] = []
    handles = []

    def make_hook(name: str) -> Hook:
        def hook(layer: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                calls.append(_LayerCall(name, layer, output.shape))

        return hook

    try:
        for name, layer in get_open_module(classifier).named_modules():
            if name:
                handles.append(layer.register_forward_hook(make_hook(name)))
        with torch.no_grad():
            classifier(image)
    finally:
        for handle in handles:
            handle.remove()
    return _choose_layers(classifier, image, calls)


def _choose_layers(classifier: Classifier, image: Images, calls: list[_LayerCall]) -> TargetLayers:
    """Return the two layers, given all layers in the order in which they finished."""
    scoring = [i for i, call in enumerate(calls) if isinstance(call.layer, SCORING_LAYERS)]
    last = scoring[-1] if scoring else 0
    head = calls[last]
    maps = [i for i in range(last) if is_feature_map(calls[i].shape) and calls[i].shape[0] == 1]
    features = calls[maps[-1]].name if maps else None
    channels = head.layer.in_features if isinstance(head.layer, nn.Linear) else None
    module = get_open_module(classifier)
    has_tokens = any(len(call.shape) == 3 for call in calls[:last]) and (
        find_feature_layouts(classifier, module).get_tokens() is not None
    )
    if channels is not None and (has_tokens or _has_other_ending(calls, maps, channels)):
        features = find_last_spatial_layer(classifier, module, image, channels)
    if features is None:
        raise ClassifierError(
            f"layers: {classifier.spec} has no feature map or tokens before its "
            "logits; choose a method that needs none, such as gradient or occlusion"
        )
    return TargetLayers(features, head=head.name)


def _has_other_ending(calls: list[_LayerCall], maps: list[int], channels: int) -> bool:
    """Return whether no output has the shape of a map, or the last has its channels last."""
    shape = calls[maps[-1]].shape if maps else None
    return shape is None or shape[3] == channels != shape[1]


def is_feature_map(shape: torch.Size) -> bool:
    """Return whether a shape is batch, channels, height, width, with more than one position."""
    return len(shape) == 4 and shape[2] * shape[3] > 1
