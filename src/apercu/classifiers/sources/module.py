"""Networks that are in memory already: an `nn.Module`, or a function from images to outputs.

A module may stand in `DataParallel`, be compiled, hold TorchScript, or have another precision.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from apercu.classifiers.card import ClassifierCard, InputSpec, validate
from apercu.classifiers.names import ClassNames, read_id2label
from apercu.classifiers.network import IN_MEMORY, BlackBox, ForwardFn, Network
from apercu.classifiers.outputs import OutputName, describe_words, suggest_word
from apercu.classifiers.probe import make_leaves
from apercu.errors import ClassifierError, first_line
from apercu.log import warn
from apercu.weights import digest_function, digest_module

PROBLEM_TYPES: dict[str, OutputName] = {
    "multi_label_classification": "sigmoid",
    "regression": "value",
}
"""The `problem_type` of a configuration of transformers, and what it means; others are logits."""
_INPUT_KEYS = ("channels", "size", "resize", "mean", "std")
"""Keys of the input that a caller may describe."""


_FUNCTION_INPUT = (
    "the function gets a float tensor on the CPU, batch × channels × height × width, of pixels in "
    "[0, 1] behind mean and std; images.numpy() is an array, images.permute(0, 2, 3, 1) has "
    "channels last"
)
"""What a function gets, for the error of one that expects something else."""


class ScriptedNetwork:
    """A TorchScript module: it gives gradients, but hooks cannot reach its layers.

    Args:
        module: the module; it is put into evaluation mode and its parameters are frozen.
    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        self.module = module.eval()
        make_leaves(module)
        for parameter in module.parameters():
            parameter.requires_grad_(False)

    def __call__(self, images: Tensor) -> Any:
        return self.module(images)

    def to(self, device: torch.device) -> None:
        """Move the module to a device."""
        self.module = self.module.to(device)


def open_module(
    forward: Callable[..., Any], card: ClassifierCard, names: ClassNames | None = None
) -> Network:
    """Describe a network in memory by a card.

    Args:
        forward: module from normalised images to the output that the card names, or a function,
            which gives no gradients.
        card: description of the network, with `input`; its `source` and `options` say how to build
            such a network again, and its `classes` are a list. The weights are the module's.
        names: class names; those of the card if None.

    Returns:
        The network.

    Raises:
        ClassifierError: the card has no `input`, or names a file of classes.
    """
    if card.input is None or isinstance(card.classes, str):
        raise ClassifierError(
            f"classifier {card.source}: a module in memory needs a card with `input`, and with "
            "`classes` as a list if it has names"
        )
    if names is None and card.classes is not None:
        names = ClassNames.of(card.classes)
    network: ForwardFn
    forward = unwrap_module(forward)
    if isinstance(forward, nn.Module):
        _check_weights(forward, card.source)
        _undo_compilation(forward)
        network, digest = forward, digest_module(forward, card.source, card.options)
        if isinstance(forward, torch.jit.ScriptModule):
            network = ScriptedNetwork(forward)
    else:
        network = BlackBox(forward, card.source, _FUNCTION_INPUT)
        digest = digest_function(forward, card.source, card.options)
    return Network(
        source=card.source,
        forward=network,
        digest=digest,
        input=card.input,
        names=names,
        options=card.options,
        differentiable=isinstance(forward, nn.Module),
    ).with_output_of(card)


def open_in_memory(
    forward: Callable[..., Any], description: Mapping[str, Any], *, make_copy: bool = True
) -> Network:
    """Describe a network in memory that no SPEC can build again.

    Args:
        forward: module from normalised images to outputs, or a function, which gives no gradients.
        description: the values that the caller gives, by the names of the parameters of
            `open_classifier`.
        make_copy: whether a copy of a module is used, in float32, or the module itself.

    Returns:
        The network.

    Raises:
        ClassifierError: there is no size, the values do not fit each other, or the module cannot
            be copied.
    """
    source = IN_MEMORY + _find_name(unwrap_module(forward))
    classes = description.get("classes")
    names = None
    if classes is None:
        names = read_classes_attribute(forward, source)
    elif isinstance(classes, str | Path):
        names, classes = ClassNames.read(classes), None
    elif isinstance(classes, Iterable):
        names, classes = ClassNames.collect(classes, f"classifier {source}: classes"), None
    content = {
        "source": source,
        "input": _find_input(forward, source, description),
        "classes": classes,
    }
    if "output" in description:
        content["output"] = description["output"]
    elif output := read_output_attribute(forward, source):
        content["output"] = output
    stated = ("output_name", "value_range", "temperature", "filter")
    content |= {k: description[k] for k in stated if k in description}
    card = validate(ClassifierCard, content, f"classifier {source}")
    forward = unwrap_module(forward)
    if isinstance(forward, nn.Module):
        _check_weights(forward, source)
    if make_copy and isinstance(forward, nn.Module):
        forward = _copy_module(forward, source)
    return open_module(forward, card, names)


def unwrap_module(forward: Any) -> Any:
    """Return the module inside `DataParallel` and `torch.compile`; anything else as it is.

    An exported program becomes a module, too.
    """
    if isinstance(forward, ExportedProgram):
        return forward.module(check_guards=False)
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(forward, nn.Module):
        if isinstance(forward, parallel):
            forward = forward.module
        elif _is_compiled(forward):
            forward = forward._orig_mod
        else:
            break
    return forward


def _check_weights(module: nn.Module, source: str) -> None:
    """Refuse a module whose weights are not there yet."""
    weights = (*module.parameters(), *module.buffers())
    if any(is_lazy(weight) for weight in weights):
        raise ClassifierError(
            f"classifier {source}: some of its layers are lazy and have no weights yet; call the "
            "module once, or load its weights"
        )
    if any(weight.is_meta for weight in weights):
        raise ClassifierError(
            f"classifier {source}: some of its weights are on the device meta, which holds no "
            "numbers; load its weights"
        )


def _is_compiled(module: nn.Module) -> bool:
    """Whether this is what `torch.compile` made of a module."""
    return isinstance(getattr(module, "_orig_mod", None), nn.Module)


def _undo_compilation(module: nn.Module) -> None:
    """Change compiled parts of a module back, because hooks on their layers would not be called."""
    for part in module.modules():
        if getattr(part, "_compiled_call_impl", None) is not None:
            part._compiled_call_impl = None
    for part in list(module.modules()):
        for name, child in part.named_children():
            if _is_compiled(child) and not _is_compiled(part):
                setattr(part, name, unwrap_module(child))


def read_input_attribute(forward: Any, source: str) -> InputSpec | None:
    """Return the attribute `input` of a network: an `InputSpec`, or a dictionary like a card's.

    Raises:
        ClassifierError: it has mistakes.
    """
    value = _read_attribute(forward, "input", InputSpec | Mapping)
    if value is None:
        return None
    return validate(InputSpec, value, f"classifier {source}: its attribute input")


def read_classes_attribute(forward: Any, source: str) -> ClassNames | None:
    """Return the names in the attribute `classes` of a network, or in the `config.id2label` of a
    model of transformers; None where there are none.

    Raises:
        ClassifierError: the attribute is a dictionary that says no order of the classes.
    """
    value = _read_attribute(forward, "classes", list | tuple | Mapping)
    if value:
        return ClassNames.collect(value, f"classifier {source}: its attribute classes")
    module = unwrap_module(forward)
    names = read_id2label(getattr(module, "config", None))
    if names is None or not isinstance(module, nn.Module):
        return None
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if layers and (count := layers[-1].out_features) not in (len(names.names), 1):
        warn(
            f"classifier {source}: its configuration names {len(names.names)} classes, and its "
            f"last layer has {count}; the names are not used, pass classes"
        )
        return None
    return names


def read_output_attribute(forward: Any, source: str) -> OutputName | None:
    """Return the attribute `output` of a network, or what the configuration of a model of
    transformers says; a word far from those of a card is no more than a warning.

    Raises:
        ClassifierError: the word is near to one of a card, or means the same.
    """
    value = _read_attribute(forward, "output", str)
    if value is not None and value not in get_args(OutputName):
        if hint := suggest_word(value):
            raise ClassifierError(
                f"classifier {source}: its attribute output is {value!r}, expected "
                f"{describe_words()}{hint}"
            )
        warn(
            f"classifier {source}: its attribute output is {value!r}, which is none of "
            f"{', '.join(get_args(OutputName))}; it is not used"
        )
        return None
    if value is None and isinstance(module := unwrap_module(forward), nn.Module):
        return read_problem_type(getattr(module, "config", None))
    return value


def read_problem_type(config: object) -> OutputName | None:
    """Return what the `problem_type` in a configuration of transformers means; None for logits."""
    return PROBLEM_TYPES.get(str(getattr(config, "problem_type", None)))


def _read_attribute(forward: Any, name: str, kinds: Any) -> Any:
    """Return an attribute that describes a network, or the module inside it.

    A layer of the same name is none, nor is a number where a list of names is expected.
    """
    for network in (forward, unwrap_module(forward)):
        try:
            value = getattr(network, name, None)
        except Exception:  # a property that is not ours may fail
            continue
        if isinstance(value, kinds):
            return value
    return None


def _find_name(forward: Any) -> str:
    """Return the name of a function, or of the class of an object."""
    return str(getattr(forward, "__name__", None) or type(forward).__name__)


def _find_input(forward: Any, source: str, description: Mapping[str, Any]) -> InputSpec:
    """Return the input that the caller describes, on top of what the network says of its own.

    A short side belongs to a size, and mean and std belong to the number of channels.
    """
    own = _find_own_input(forward, source, has_size="size" in description)
    values = {} if own is None else own.model_dump(exclude_none=True)
    given = {key: description[key] for key in _INPUT_KEYS if key in description}
    if "size" in given:
        values.pop("resize", None)
    if {"mean", "std"} & given.keys():
        values.pop("normalise", None)
    if own is not None and given.get("channels", own.channels) != own.channels:
        for key in {"mean", "std", "bands", "stretch"} & values.keys() - given.keys():
            del values[key]
            warn(
                f"classifier {source}: {key} of the network is for {own.channels} channels and is "
                f"not used; pass {key}"
            )
    values |= given
    values["size"] = _repeat(values["size"], 2)
    for key in ("mean", "std"):
        if key in values:
            values[key] = _repeat(values[key], values.get("channels", 3))
    return validate(InputSpec, values, f"classifier {source}")


def _find_own_input(forward: Any, source: str, *, has_size: bool) -> InputSpec | None:
    """Return the input in the attribute `input` of a network, or in the configuration of timm.

    Args:
        forward: the network.
        source: its name, for errors.
        has_size: whether the caller gives a size; a configuration that does not fit is then left
            out, with a warning.

    Returns:
        The input; None where there is none, and the caller gives a size.

    Raises:
        ClassifierError: there is no size, or what the network says has mistakes.
    """
    own = read_input_attribute(forward, source)
    config = _read_attribute(forward, "pretrained_cfg", Mapping)
    if own is None and config is not None and "input_size" in config:
        from apercu.classifiers.sources.timm import read_input

        try:
            own = read_input(config, source)
        except ClassifierError as error:
            if not has_size:
                raise
            warn(f"{error}; it is not used")
    if own is None and not has_size:
        raise ClassifierError(
            f"classifier {source}: the size of its images is missing; pass it in pixels, "
            "such as size=224"
        )
    return own


def _repeat(value: Any, count: Any) -> Any:
    """Return a number as often as it is needed, and anything else as it is."""
    return (value,) * count if isinstance(value, int | float) else value


def _copy_module(module: nn.Module, source: str) -> nn.Module:
    """Return a copy of a module in float32, without gradients."""
    try:
        copied = copy.deepcopy(module)
        make_leaves(copied)
        copied = copied.float()
        copied.zero_grad()
        return copied
    except Exception as error:
        reason = first_line(error)
        raise ClassifierError(
            f"classifier {source}: the module cannot be copied ({reason}); pass copy=False to "
            "use it itself, in evaluation mode and with frozen parameters"
        ) from error
