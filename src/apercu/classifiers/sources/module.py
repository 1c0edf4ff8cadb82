"""Networks that are in memory already: an `nn.Module`, or a function from images to outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from torch import nn

from apercu.classifiers.card import ClassifierCard, InputSpec, describe_mistakes
from apercu.classifiers.fingerprint import digest_function, digest_module
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import IN_MEMORY, BlackBox, ForwardFn, Network
from apercu.errors import ClassifierError

M = TypeVar("M", bound=BaseModel)

_INPUT_KEYS = ("channels", "size", "resize", "mean", "std")
"""Keys of the input that a caller may describe."""


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
    if isinstance(forward, nn.Module):
        network, digest = forward, digest_module(forward, card.source, card.options)
    else:
        network, digest = BlackBox(forward), digest_function(forward, card.source, card.options)
    return Network(
        source=card.source,
        forward=network,
        digest=digest,
        input=card.input,
        output=card.output,
        names=names,
        options=card.options,
        differentiable=isinstance(forward, nn.Module),
    )


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
    if isinstance(forward, nn.Module):
        forward = getattr(forward, "_orig_mod", forward)  # torch.compile hides the module in there
    source = IN_MEMORY + _find_name(forward)
    classes = description.get("classes", _read_attribute(forward, "classes", list | tuple))
    names = ClassNames.read(classes) if isinstance(classes, str | Path) else None
    if names is not None:
        classes = None
    elif isinstance(classes, Iterable):
        classes = [str(name) for name in classes]
    content = {
        "source": source,
        "input": _find_input(forward, source, description),
        "output": description.get("output", _read_attribute(forward, "output", str) or "logits"),
        "classes": classes,
    }
    card = _validate(ClassifierCard, content, source)
    if make_copy and isinstance(forward, nn.Module):
        forward = _copy_module(forward, source)
    return open_module(forward, card, names)


def read_input_attribute(forward: Any, source: str) -> InputSpec | None:
    """Return the attribute `input` of a network: an `InputSpec`, or a dictionary like a card's.

    Raises:
        ClassifierError: it has mistakes.
    """
    value = _read_attribute(forward, "input", InputSpec | Mapping)
    return None if value is None else _validate(InputSpec, value, f"{source}: its attribute input")


def _read_attribute(forward: Any, name: str, kinds: Any) -> Any:
    """Return an attribute that describes a network; a layer of the same name is none."""
    value = getattr(forward, name, None)
    return value if isinstance(value, kinds) else None


def _find_name(forward: Any) -> str:
    """Return the name of a function, or of the class of an object."""
    return str(getattr(forward, "__name__", None) or type(forward).__name__)


def _find_input(forward: Any, source: str, description: Mapping[str, Any]) -> InputSpec:
    """Return the input that the caller describes; without a size, on top of the network's own."""
    values: dict[str, Any] = {}
    if "size" not in description:
        own = read_input_attribute(forward, source)
        config = _read_attribute(forward, "pretrained_cfg", Mapping)
        if own is None and config is not None and "input_size" in config:
            from apercu.classifiers.sources.timm import read_input

            own = read_input(config)
        if own is None:
            raise ClassifierError(
                f"classifier {source}: the size of its images is missing; pass it in pixels, "
                "such as size=224"
            )
        values = own.model_dump(exclude_none=True)
    values |= {key: description[key] for key in _INPUT_KEYS if key in description}
    values["size"] = _repeat(values["size"], 2)
    for key in ("mean", "std"):
        if key in values:
            values[key] = _repeat(values[key], values.get("channels", 3))
    return _validate(InputSpec, values, source)


def _repeat(value: Any, count: Any) -> Any:
    """Return a number as often as it is needed, and anything else as it is."""
    return (value,) * count if isinstance(value, int | float) else value


def _validate(model: type[M], content: Any, subject: str) -> M:
    """Return a validated record; a mistake becomes one line about the subject."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        mistakes = "; ".join(describe_mistakes(error, model))
        raise ClassifierError(f"classifier {subject}: {mistakes}") from None


def _copy_module(module: nn.Module, source: str) -> nn.Module:
    """Return a copy of a module in float32, without gradients."""
    try:
        copied = copy.deepcopy(module).float()
        copied.zero_grad()
        return copied
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClassifierError(
            f"classifier {source}: the module cannot be copied ({reason}); pass copy=False to "
            "use it itself, in evaluation mode and with frozen parameters"
        ) from error
