"""The layers of an open classifier: the last feature map, and the layer that gives the logits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, suggest_nearest
from apercu.methods.hooks import attach_hook, watch_outputs
from apercu.methods.tokens import (
    find_feature_layouts,
    find_last_spatial_layer,
    pools_class_maps,
    warn_of_other_paths,
)
from apercu.types import Images, Logits, Targets


@dataclass(frozen=True)
class _LayerCall:
    """One call of a layer: name, layer, shape of its output, and what a scoring layer gives."""

    name: str
    layer: nn.Module
    shape: torch.Size
    scores: Tensor | None = None


@dataclass(frozen=True)
class TargetLayers:
    """The names of two layers of a classifier's network."""

    features: str
    """The layer that gives the last feature map, or the last tokens whose positions matter."""
    head: str | None
    """The linear or convolutional layer that turns features into logits; None where no such layer
    does, as with a matrix product in `forward`."""
    gives_logits: bool = True
    """Whether the logits are those of the head alone, and not, say, the mean of two layers."""


SCORING_LAYERS = (nn.Linear, nn.Conv2d)

_target_layers: WeakKeyDictionary[nn.Module, dict[str, TargetLayers]] = WeakKeyDictionary()
"""The layers of each network, for each of its outputs that may hold the logits."""


def find_target_layers(classifier: Classifier, images: Images) -> TargetLayers:
    """Find both layers by tracing one image; the result is kept for each network.

    Raises:
        ClassifierError: no feature map comes before the logits.
    """
    kept = _target_layers.setdefault(get_open_module(classifier), {})
    tensor = classifier.network.resolved_tensor
    if tensor not in kept:
        kept[tensor] = _trace_layers(classifier, images[:1])
    return kept[tensor]


def find_last_map(classifier: Classifier, images: Images) -> str:
    """Return the name of the layer that gives the last feature map, or the last tokens.

    A warning says once where the logits depend on the image past this layer, too.

    Raises:
        ClassifierError: no feature map comes before the logits.
    """
    name = find_target_layers(classifier, images).features
    warn_of_other_paths(classifier, get_open_module(classifier), name)
    return name


def find_head(classifier: Classifier, images: Images) -> str:
    """Return the name of the linear or convolutional layer that turns features into logits.

    Raises:
        ClassifierError: no feature map comes before the logits, or no layer gives them.
    """
    head = find_target_layers(classifier, images).head
    if head is None:
        raise ClassifierError(
            f"layers: the logits of {classifier.spec} come from no nn.Linear or nn.Conv2d at its "
            "end, but from a function such as a matrix product; let it end in such a layer"
        )
    return head


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


@torch.no_grad()
def compute_deep_features(
    classifier: Classifier, images: Images
) -> Float[Tensor, "batch features"]:
    """Return the input of the layer that gives the logits, averaged over positions.

    A network whose output is features has no such layer; its output is returned. Where the logits
    are computed without a layer, as by a matrix product, it is the mean of the last feature map.

    Raises:
        ClassifierError: the classifier does not expose its layers.
    """
    if classifier.network.output == "features":
        return classifier(images)
    head_inputs: list[Tensor] = []
    layers = find_target_layers(classifier, images)
    if layers.head is None:
        return _average_last_maps(classifier, layers.features, images)
    head = get_layer(classifier, layers.head)
    with attach_hook(head, lambda _module, inputs, _output: head_inputs.append(inputs[0])):
        classifier(images)
    features = head_inputs[0]
    if isinstance(head, nn.Linear) and features.ndim > 2:
        return features.flatten(1, -2).mean(1)
    return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)


def _average_last_maps(
    classifier: Classifier, name: str, images: Images
) -> Float[Tensor, "batch features"]:
    """Return the last feature map, averaged over positions."""
    outputs: list[Tensor] = []
    module = get_open_module(classifier)
    with attach_hook(get_layer(classifier, name), lambda _m, _i, output: outputs.append(output)):
        classifier(images)
    maps = find_feature_layouts(classifier, module).read(name, outputs[-1])
    if maps is None:
        raise ClassifierError(
            f"layer: {name} of {classifier.spec} gives no feature map for these images"
        )
    return maps.mean((2, 3))


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
    columns, module = classifier.output.columns, get_open_module(classifier)
    layers = dict(module.named_modules())

    def keep(name: str, output: Tensor) -> None:
        if not name:  # the network itself
            return
        gives_scores = isinstance(layers[name], SCORING_LAYERS) and columns in output.shape[1:]
        scores = output.detach().clone() if gives_scores else None
        calls.append(_LayerCall(name, layers[name], output.shape, scores))

    with torch.no_grad(), watch_outputs(module, keep):
        logits = classifier(image)
    return _choose_layers(classifier, image, calls, logits)


def _choose_layers(
    classifier: Classifier, image: Images, calls: list[_LayerCall], logits: Logits
) -> TargetLayers:
    """Return the two layers, given all layers in the order in which they finished.

    Of several layers that could be the head, such as those of a network with several outputs, it is
    the last one that gives the logits. Where none does by itself, it is the last one behind the
    last feature map that the logits depend on, if there is one.
    """
    scoring = [i for i, call in enumerate(calls) if isinstance(call.layer, SCORING_LAYERS)]
    giving = [
        i
        for i in scoring
        if (scores := calls[i].scores) is not None and gives_logits(scores, logits, classifier)
    ]
    module = get_open_module(classifier)
    if not giving and classifier.differentiable:
        return _choose_without_head(classifier, image, calls)
    if not scoring:
        raise _no_map_error(classifier)
    last = (giving or scoring)[-1]
    head = calls[last]
    maps = [i for i in range(last) if is_feature_map(calls[i].shape) and calls[i].shape[0] == 1]
    features = calls[maps[-1]].name if maps else None
    channels = head.layer.in_features if isinstance(head.layer, nn.Linear) else None
    has_tokens = any(len(call.shape) == 3 for call in calls[:last]) and (
        find_feature_layouts(classifier, module).get_tokens() is not None
    )
    if channels is not None and (has_tokens or _has_other_ending(calls, maps, channels)):
        features = find_last_spatial_layer(classifier, module, image, channels)
    if features is None:
        raise _no_map_error(classifier)
    return TargetLayers(features, head=head.name, gives_logits=bool(giving))


def _choose_without_head(
    classifier: Classifier, image: Images, calls: list[_LayerCall]
) -> TargetLayers:
    """Return the two layers of a network none of whose layers gives the logits by itself.

    Its last layer that has weights may be far from the logits: behind it may come activations, a
    product with the directions of the classes, or a mean of several layers. A last layer that
    scores the classes at each position is the head, however its scores are pooled.
    """
    module = get_open_module(classifier)
    scoring = [call for call in calls if isinstance(call.layer, SCORING_LAYERS)]
    heads = {call.name: call.layer for call in scoring if call.shape[2:].numel() == 1}
    has_tokens = find_feature_layouts(classifier, module).get_tokens() is not None
    pooled = _find_pooled_head(classifier, image, scoring)
    head = heads[list(heads)[-1]] if heads and has_tokens else None
    head = pooled.layer if pooled else head
    features = find_last_spatial_layer(
        classifier,
        module,
        image,
        head.in_features if isinstance(head, nn.Linear) else None,
        every_position=has_tokens,
        before=pooled.name if pooled else None,
    )
    if features is None:
        raise _no_map_error(classifier)
    if pooled:
        return TargetLayers(features, head=pooled.name, gives_logits=False)
    names = [call.name for call in calls]
    end = len(names) - names[::-1].index(features)
    behind = [name for name in names[end:] if name in heads]
    return TargetLayers(features, head=behind[-1] if behind else None, gives_logits=False)


def _find_pooled_head(
    classifier: Classifier, image: Images, scoring: list[_LayerCall]
) -> _LayerCall | None:
    """Return the last layer if it scores the classes at each position, and logits pool these."""
    if not scoring or scoring[-1].scores is None or scoring[-1].shape[1:-1].numel() == 1:
        return None
    module, last = get_open_module(classifier), scoring[-1]
    return last if pools_class_maps(classifier, module, image, last.name) else None


def _no_map_error(classifier: Classifier) -> ClassifierError:
    return ClassifierError(
        f"layers: {classifier.spec} has no feature map or tokens before its "
        "logits; choose a method that needs none, such as gradient or occlusion"
    )


def gives_logits(scores: Tensor, logits: Logits, classifier: Classifier) -> bool:
    """Whether the scores of one layer are what a classifier's logits are made of.

    A softmax or a sigmoid may follow, and before it a mean over all positions, with or without a
    ReLU. Where one class is true, all logits of an image may be shifted.

    Args:
        scores: output of the layer, `batch × columns`, or `batch × columns × rows × columns`.
        logits: logits of the same images.
        classifier: the classifier.

    Returns:
        Whether the two agree, within the rounding of the network.
    """
    output, decision = classifier.output, classifier.decision
    rounding = max(1e-4, 8 * torch.finfo(scores.dtype).eps)
    maps = scores.detach().float().flatten(2) if scores.ndim > 2 else scores.float()[..., None]
    if maps.ndim != 3 or maps.shape[:2] != (len(logits), output.columns):
        return False
    expected = decision.probabilities(logits.float())
    for columns in (maps.mean(2), maps.relu().mean(2)):
        if output.holds_probabilities:  # of very small ones no logit is left
            numbers = columns.softmax(1) if output.name == "probabilities" else columns.sigmoid()
            own = decision.probabilities(output.convert_to_logits(numbers))
            is_same = torch.allclose(own, expected, rtol=0, atol=rounding)
        else:
            own = output.convert_to_logits(columns)
            shift = 0.0 if decision.is_multiple else (own - logits).mean(1, keepdim=True)
            limit = rounding * float(logits.abs().max())
            is_same = bool(((own - logits - shift).abs() <= limit).all())
        if is_same:
            return True
    return False


def _has_other_ending(calls: list[_LayerCall], maps: list[int], channels: int) -> bool:
    """Return whether no output has the shape of a map, or the last has its channels last."""
    if not maps:
        return True
    shape = calls[maps[-1]].shape
    return shape[3] == channels and shape[1] != channels


def is_feature_map(shape: torch.Size) -> bool:
    """Return whether a shape is batch, channels, height, width, with more than one position."""
    return len(shape) == 4 and shape[2] * shape[3] > 1
