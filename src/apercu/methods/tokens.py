"""Which layers of an open network give maps of the image, and how their outputs are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.classifiers.positions import MAX_PATCH_ASPECT, MapLayout, find_layout, make_probes
from apercu.log import warn
from apercu.methods.hooks import attach_hook, watch_linear_inputs, watch_outputs
from apercu.types import Images

_LayoutKey: TypeAlias = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class FeatureLayouts:
    """How the outputs of a network's layers are read as maps, learnt from probe images.

    Attributes:
        size: height and width of the images.
        layouts: the layouts by the name of the layer and the shape of its output for one image, in
            the order of the calls.
        batch_second: layers that return `tokens × batch × channels`.
    """

    size: tuple[int, int]
    layouts: Mapping[_LayoutKey, MapLayout] = field(repr=False)
    batch_second: frozenset[str] = frozenset()

    def read(
        self, name: str, output: Tensor
    ) -> Float[Tensor, "batch channels rows columns"] | None:
        """Return the output of a layer, or its gradient, as a map; None if it is no map.

        Sequences of tokens are read as the first of the same length. In a network without tokens,
        every output with four axes is a map unless its sides are out of proportion: deep features
        can depend on the whole image.

        Args:
            name: the name of the layer.
            output: its output, or the gradient of it.

        Returns:
            The map, `batch × channels × rows × columns`, or None.
        """
        if name in self.batch_second and output.ndim == 3:
            output = output.transpose(0, 1)
        if output.ndim == 3:
            layout = self.get_tokens(output.shape[1])
        else:
            layout = self.layouts.get((name, tuple(output.shape[1:])))
        if layout is not None:
            return layout.read(output)
        if output.ndim != 4 or self.get_tokens() or output.shape[2] * output.shape[3] < 2:
            return None
        rows, columns = output.shape[2] / self.size[0], output.shape[3] / self.size[1]
        return output if max(rows / columns, columns / rows) <= MAX_PATCH_ASPECT else None

    def get_tokens(self, count: int | None = None) -> MapLayout | None:
        """Return the first layout of a sequence of tokens, or of this many; None without any."""
        return next(
            (
                layout
                for (_, shape), layout in self.layouts.items()
                if layout.form == "tokens" and count in (None, shape[0])
            ),
            None,
        )


_checked: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()
"""The layers of each network whose other paths were looked for."""
_layouts: WeakKeyDictionary[nn.Module, dict[tuple[int, int], FeatureLayouts]] = WeakKeyDictionary()


def find_feature_layouts(classifier: Classifier, module: nn.Module) -> FeatureLayouts:
    """Return how the outputs of all layers are read as maps; the result is kept for each network.

    Args:
        classifier: an open classifier.
        module: the network of the classifier.

    Returns:
        The layouts of the layers' outputs.
    """
    by_size = _layouts.setdefault(module, {})
    if classifier.size not in by_size:
        by_size[classifier.size] = _probe_layers(classifier, module)
    return by_size[classifier.size]


@torch.no_grad()
def _probe_layers(classifier: Classifier, module: nn.Module) -> FeatureLayouts:
    layouts: dict[_LayoutKey, MapLayout] = {}
    batch_second: set[str] = set()
    probes = make_probes(classifier.channels, classifier.size).to(classifier.device)

    def keep(name: str, output: Tensor) -> None:
        count = len(probes)
        if output.ndim == 3 and output.shape[1] == count and len(output) != count:
            batch_second.add(name)
            output = output.transpose(0, 1)
        key = name, tuple(output.shape[1:])
        layout = None if key in layouts else find_layout(output, classifier.size)
        if layout is not None:
            layouts[key] = layout

    with watch_outputs(module, keep):
        module(classifier.normalise(probes))
    return FeatureLayouts(classifier.size, layouts, frozenset(batch_second))


def find_last_spatial_layer(
    classifier: Classifier,
    module: nn.Module,
    image: Images,
    channels: int | None,
    *,
    every_position: bool = True,
    before: str | None = None,
) -> str | None:
    """Return the last layer of which every position influences the logits, or None.

    After the last attention of a vision transformer only its class token has an influence, so the
    layer before the attention is chosen. Linear layers beside each other, as queries, keys and
    values are, are a part of the attention.

    Args:
        classifier: an open, differentiable classifier.
        module: the network of the classifier.
        image: a batch of one image.
        channels: the number of channels that the classification layer takes; a layer with as many
            is preferred. None for any number.
        every_position: whether every position has an influence, and not only some of them, as
            before a maximum over positions.
        before: a layer that comes after the one that is looked for; None for none.

    Returns:
        The name of the layer, or None.
    """
    layouts = find_feature_layouts(classifier, module)
    outputs: list[tuple[str, Tensor]] = []
    linear_inputs: list[tuple[str, Tensor]] = []

    def keep(name: str, output: Tensor) -> None:
        if output.requires_grad:
            outputs.append((name, output))

    def keep_input(name: str, given: Tensor) -> None:
        linear_inputs.append((name, given))

    with torch.enable_grad():
        with watch_outputs(module, keep), watch_linear_inputs(module, keep_input):
            score = classifier(image.detach().requires_grad_()).amax()
        if before is not None:
            last = max((i for i, (name, _) in enumerate(outputs) if name == before), default=0)
            outputs = [(name, output) for name, output in outputs[:last] if name != before]
        tensors = [output for _, output in outputs]
        gradients = torch.autograd.grad(score, tensors, allow_unused=True)
    beside_others = {
        name
        for name, given in linear_inputs
        if any(given is other and name != neighbour for neighbour, other in linear_inputs)
    }
    of_other_width = None
    for (name, _), gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        if gradient is None or name in beside_others:
            continue
        maps = layouts.read(name, gradient)
        if maps is None or len(maps) != len(image):
            continue
        has_influence = maps.any(dim=1)
        if not (has_influence.all() if every_position else has_influence.any()):
            continue
        if channels in (None, maps.shape[1]):
            return name
        of_other_width = of_other_width or name
    return of_other_width


def pools_class_maps(classifier: Classifier, module: nn.Module, image: Images, name: str) -> bool:
    """Return whether every logit is pooled from the scores of its own class in a layer's output.

    An example is a layer that scores all classes at each position, before a maximum, a weighted
    mean, or the choice of one token. A softmax may follow, too: with more than two classes, the
    differences between logits are compared.

    Args:
        classifier: an open, differentiable classifier.
        module: the network of the classifier.
        image: a batch of one image.
        name: a linear or convolutional layer.

    Returns:
        Whether no logit depends on the scores of other classes.
    """
    layer, columns = module.get_submodule(name), classifier.output.columns
    axis = -1 if isinstance(layer, nn.Linear) else 1
    outputs: list[Tensor] = []
    pooled: set[int] = set()
    with (
        attach_hook(layer, lambda _layer, _inputs, output: outputs.append(output)),
        torch.enable_grad(),
    ):
        logits = classifier(image.detach().requires_grad_())[0]
        if outputs[-1].shape[axis] != columns:
            return False
        for index in range(min(columns, 3)):
            pair = [index, (index + 1) % columns] if columns > 2 else [index]
            value = logits[index] - logits[pair[1]] if columns > 2 else logits[index]
            (gradient,) = torch.autograd.grad(
                value, outputs[-1], retain_graph=True, allow_unused=True
            )
            if gradient is None:
                return False
            used = gradient.movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
            if not set(used) <= set(pair):
                return False
            pooled.update(used)
    return bool(pooled)


def warn_of_other_paths(classifier: Classifier, module: nn.Module, name: str) -> None:
    """Warn once where the logits depend on the image on a path past a layer, too.

    This happens where `forward` joins branches, or adds something, behind the layer: a map of the
    layer then shows only a part of what the logits depend on. There is no warning for transformers,
    whose class token passes all layers.

    Args:
        classifier: an open, differentiable classifier.
        module: the network of the classifier.
        name: the layer.
    """
    checked = _checked.setdefault(module, set())
    if name in checked:
        return
    checked.add(name)
    if find_feature_layouts(classifier, module).get_tokens() is not None:
        return
    image = make_probes(classifier.channels, classifier.size)[:1].to(classifier.device)

    def cut(layer: nn.Module, inputs: object, output: object) -> Tensor | None:
        return output.detach().clone() if isinstance(output, Tensor) else None

    gradient = None
    with attach_hook(module.get_submodule(name), cut), torch.enable_grad():
        logits = classifier.compute_logits_at_any_size(image.requires_grad_())
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(logits.abs().sum(), image, allow_unused=True)
    if gradient is not None and gradient.any():
        warn(
            f"layers: the logits of {classifier.spec} depend on the image past its last feature "
            f"map ({name}), too, as where branches are joined in forward; the map shows a part. "
            "Join them in a layer, name another layer, or choose a method without layers"
        )
