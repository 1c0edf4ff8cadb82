"""The network that is trained: a classifier's network with a new last layer, and what is added."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from apercu.classifiers import Classifier, Network
from apercu.classifiers.decisions import Decision
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import IN_MEMORY
from apercu.classifiers.outputs import Output, OutputName
from apercu.classifiers.reinitialise import NetworkSource, copy_trainable
from apercu.classifiers.sources.timm import TIMM_PREFIX
from apercu.errors import ClassifierError
from apercu.learning.recipes.described import (
    BUILDERS,
    DescribedFront,
    DescribedHead,
    FrontedNetwork,
    find_inner,
    find_source_with_classes,
)
from apercu.methods.hooks import attach_hook
from apercu.methods.layers import SCORING_LAYERS, find_head, find_target_layers
from apercu.pretraining.heads.fine_tuning import replace_head
from apercu.types import Images, Logits
from apercu.weights import digest_module


@dataclass(frozen=True, eq=False)
class NetworkOutputs:
    """What a network computes of a batch.

    Args:
        logits: logits, `batch × classes`.
        features: input of the last layer, averaged over positions, `batch × features`.
        maps: last feature map, `batch × channels × rows × columns`; tokens for a transformer,
            `batch × tokens × features`.
    """

    logits: Logits
    features: Float[Tensor, "batch features"]
    maps: Tensor


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Layers that learn at the same rate.

    Args:
        name: name of the group.
        parameters: parameters of the layers.
        norms: batch norms among the layers.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    norms: tuple[_BatchNorm, ...]


class LearningNetwork(nn.Module):
    """A network with a new last layer, and the layers and parts that recipes add.

    Args:
        body: network from normalised images to logits.
        start: the classifier that it was made of.
        head: name of the last layer in the body.
        maps: name of the layer in the body that gives the last feature map.

    Attributes:
        front: layer before the body: normalised images → normalised images.
        tail: layer behind the body: logits → logits.
        parts: parts that help in the training, and are not kept.
        source: how a card builds the body; None where no SPEC can build such a body.
    """

    def __init__(self, body: nn.Module, start: Classifier, head: str, maps: str) -> None:
        super().__init__()
        self.front: nn.Module = nn.Identity()
        self.body = body
        self.tail: nn.Module = nn.Identity()
        self.parts = nn.ModuleDict()
        self.head_name, self.maps_name = head, maps
        self.source: NetworkSource | None = None
        self._start = [start.network]  # in a list, as it is no part of the network

    def forward(self, images: Images) -> Logits:
        """Return the logits of normalised images, `batch × classes`."""
        raw = self.body(self.front(images))
        if self.training and not isinstance(raw, Tensor) and self._start[0].resolved_tensor == "":
            raise ClassifierError(
                f"network: {self._start[0].source}: in training it returns "
                f"{type(raw).__name__} and not logits alone, as it has auxiliary layers; write a "
                "card whose options leave them out (aux_logits: false)"
            )
        logits: Tensor = self.tail(self._start[0].pick_tensor(raw).flatten(1))
        return logits

    def compute_outputs(self, images: Images) -> NetworkOutputs:
        """Return logits, features and feature maps of normalised images, all with gradients."""
        kept: dict[str, Tensor] = {}

        def keep_maps(layer: nn.Module, inputs: Any, output: Any) -> Any:
            kept["maps"] = output
            return output.clone()  # the next operation may be in place

        def keep_features(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            kept["features"] = inputs[0]

        maps_layer = self.body.get_submodule(self.maps_name)
        with attach_hook(maps_layer, keep_maps), attach_hook(self.head, keep_features):
            logits = self(images)
        features = kept["features"]
        features = features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)
        return NetworkOutputs(logits, features, kept["maps"])

    @property
    def head(self) -> nn.Module:
        """The last layer of the body: features → logits."""
        return self.body.get_submodule(self.head_name)

    def set_head(self, head: nn.Module) -> None:
        """Put another last layer into the body; no SPEC builds one that nothing describes."""
        if isinstance(head, DescribedHead):
            source = self.source
            self.source = source and head.describe_source(source, self.head_name)
        elif not isinstance(head, nn.Linear | nn.Conv2d):
            self.source = None
        parent, _, last = self.head_name.rpartition(".")
        setattr(self.body.get_submodule(parent), last, head)

    @torch.no_grad()
    def add_to_logits(self, summands: Float[Tensor, " classes"]) -> None:
        """Add a number to the logit of each class, in the last layer where it has a bias."""
        head = self.head
        is_last = isinstance(self.tail, nn.Identity)
        if is_last and isinstance(head, SCORING_LAYERS) and isinstance(head.bias, Tensor):
            head.bias += summands
        elif is_last and isinstance(head, DescribedHead):
            head.add_to_logits(summands)
        else:
            self.tail = nn.Sequential(self.tail, LogitShift(summands))

    @property
    def kept_source(self) -> NetworkSource | None:
        """How a card builds front, body and tail; None where no SPEC can build them."""
        if self.source is None or not isinstance(self.tail, nn.Identity):
            return None
        if isinstance(self.front, DescribedFront):
            return self.front.describe_source(self.source, "")
        return self.source if isinstance(self.front, nn.Identity) else None

    def list_groups(self) -> list[ParameterGroup]:
        """Return all layers in groups, from the input to the last layer.

        The last group holds the last layer of the body, the tail and the parts.
        """
        front = [name for name, _ in self.front.named_parameters(prefix="front")]
        head = {f"{self.head_name}.{name}" for name, _ in self.head.named_parameters()}
        groups = [("front", front)]
        for name, members in _group_body(self.body):
            groups.append((name, [f"body.{each}" for each in members if each not in head]))
        used = {each for _, members in groups for each in members}
        rest = [name for name, _ in self.named_parameters() if name not in used]
        groups.append(("head", rest))
        groups = [(name, members) for name, members in groups if members]
        norms = self._assign_norms([members for _, members in groups])
        return [
            ParameterGroup(name, tuple(map(self.get_parameter, members)), tuple(own))
            for (name, members), own in zip(groups, norms, strict=True)
        ]

    def _assign_norms(self, groups: Sequence[Sequence[str]]) -> list[list[_BatchNorm]]:
        """Return the batch norms of each group of parameters.

        Batch norms without parameters belong to the group of the layers before them.
        """
        group_of = {
            member.rpartition(".")[0]: index
            for index, members in enumerate(groups)
            for member in members
        }
        norms: list[list[_BatchNorm]] = [[] for _ in groups]
        current = 0
        for name, layer in self.named_modules():
            current = group_of.get(name, current)
            if isinstance(layer, _BatchNorm):
                norms[current].append(layer)
        return norms

    def to_classifier(
        self, classes: Sequence[str], decision: Decision, temperature: float | None = None
    ) -> Classifier:
        """Return the network as a classifier, which shares its weights.

        Args:
            classes: names of the classes.
            decision: how logits become probabilities.
            temperature: number by which logits are divided; None for none.

        Returns:
            The classifier, which `save_classifier` can write.
        """
        source, options, digest = f"{IN_MEMORY}LearningNetwork", dict[str, Any](), ""
        kept, front = self.kept_source, self.front
        forward: nn.Module = Folded(self)
        if kept is not None:
            forward = front.join(self.body) if isinstance(front, DescribedFront) else self.body
            source, options = kept.source, dict(kept.options)
            digest = kept.digest(forward)
        output: OutputName = "sigmoid" if decision.is_multiple else "logits"
        opened = Network(
            source=source,
            forward=forward,
            digest=digest or digest_module(forward, source, options),
            input=self._start[0].input,
            output=output,
            output_is_stated=decision.is_multiple,
            resolved_output=Output(name=output, columns=len(classes), temperature=temperature),
            names=ClassNames.of(classes),
            options=options,
            temperature=temperature,
            filter=self._start[0].filter,
        )
        return Classifier(opened)


class LogitShift(nn.Module):
    """Adds a number to the logit of each class.

    Args:
        summands: one number per class.
    """

    summands: Tensor

    def __init__(self, summands: Float[Tensor, " classes"]) -> None:
        super().__init__()
        self.register_buffer("summands", summands.clone())

    def forward(self, logits: Logits) -> Logits:
        """Return the shifted logits, `batch × classes`."""
        return logits + self.summands


class Folded(nn.Module):
    """The layers of a trained network that are kept: normalised images → logits.

    Args:
        network: the trained network.
    """

    def __init__(self, network: LearningNetwork) -> None:
        super().__init__()
        self.front, self.body, self.tail = network.front, network.body, network.tail
        self._start = network._start

    def forward(self, images: Images) -> Logits:
        """Return the logits of normalised images, `batch × classes`."""
        raw = self.body(self.front(images))
        logits: Tensor = self.tail(self._start[0].pick_tensor(raw).flatten(1))
        return logits


def make_network(start: Classifier, classes: int, seed: int, *, scratch: bool) -> LearningNetwork:
    """Copy a classifier's network, and give it a new last layer.

    Args:
        start: the classifier, or a network whose output is features; it does not change.
        classes: number of classes.
        seed: seed of new weights.
        scratch: whether all weights are new.

    Returns:
        The network.

    Raises:
        ClassifierError: the network cannot be trained, or its last layer cannot be replaced.
    """
    front, start = _take_off_front(start)
    start = _restore_plain_head(start, seed)
    grey = torch.full((start.channels, *start.size), 0.5)
    source = find_source_with_classes(start.network, classes)
    if start.network.source.startswith(TIMM_PREFIX):
        body: Any = copy_trainable(start, reinitialise=scratch, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body.reset_classifier(classes)
    elif not scratch:
        body = _replace_last_layer(start, grey, classes, seed)
        if source is not None and not source.matches(body):
            source = None
    elif source is not None:
        body = source.build(seed).to(start.device).eval()
    else:
        raise ClassifierError(
            f"network: {start.spec}: only networks of timm, torchvision and transformers can begin "
            "with new weights here"
        )
    probe = Classifier(
        replace(
            start.network,
            forward=body,
            output="logits",
            names=None,
            resolved_output=None,
            temperature=None,
        ),
        spec=start.spec,
    )
    try:
        layers = find_target_layers(probe, grey[None].to(start.device))
    except ClassifierError as error:
        raise _no_features_error(start) from error
    head = find_head(probe, grey[None].to(start.device))
    network = LearningNetwork(body.requires_grad_(True), probe, head, layers.features)
    network.source = source
    if front is not None:
        network.front = (type(front)() if scratch else front).requires_grad_(True)
    return network


def _take_off_front(start: Classifier) -> tuple[DescribedFront | None, Classifier]:
    """Return a copy of the layer in front of a network, and the classifier without it."""
    module = start.module
    if not (isinstance(module, FrontedNetwork) and start.network.source in BUILDERS.values()):
        return None, start
    inner = find_inner(start.network)
    network = replace(
        start.network,
        source=inner.source,
        options=dict(inner.options),
        forward=module.network,
    )
    return copy.deepcopy(module.front), Classifier(network, spec=start.spec)


def _restore_plain_head(start: Classifier, seed: int) -> Classifier:
    """Return a classifier with a new linear layer where its last one is a described one."""
    module = start.module
    layers = [] if module is None else list(module.named_modules())
    heads = [name for name, layer in layers if isinstance(layer, DescribedHead)]
    if module is None or not heads or start.network.source not in BUILDERS.values():
        return start
    source = find_inner(start.network)
    body, weights = source.build(seed), module.state_dict()
    kept = {key: value for key, value in weights.items() if not key.startswith(f"{heads[0]}.")}
    body.load_state_dict(body.state_dict() | kept)
    network = replace(
        start.network,
        source=source.source,
        options=dict(source.options),
        forward=body.to(start.device).eval(),
    )
    return _restore_plain_head(Classifier(network, spec=start.spec), seed)  # one may hold another


def _replace_last_layer(start: Classifier, image: Tensor, classes: int, seed: int) -> nn.Module:
    """Copy a network and replace its last layer; raises ClassifierError where it has none."""
    if start.network.output != "features" and start.exposes_layers:
        try:
            find_target_layers(start, image[None].to(start.device))
        except ClassifierError as error:
            raise _no_features_error(start) from error
    return replace_head(start, image, classes, seed)


def _no_features_error(start: Classifier) -> ClassifierError:
    return ClassifierError(
        f"network: {start.spec}: has no feature map or tokens before its last layer; name a "
        "network that has, such as timm/resnet18"
    )


def _group_body(body: nn.Module) -> list[tuple[str, list[str]]]:
    """Return names of the body's parameters in groups, from the input to the output."""
    matcher = getattr(body, "group_matcher", None)
    if callable(matcher):
        from timm.models import group_parameters

        groups: dict[Any, list[str]] = group_parameters(body, matcher(coarse=True))
        return [(f"group {number}", names) for number, names in enumerate(groups.values())]
    groups = {}
    for name, _ in body.named_parameters():
        groups.setdefault(name.partition(".")[0], []).append(name)
    return list(groups.items())
