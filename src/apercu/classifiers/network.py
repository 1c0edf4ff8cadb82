"""Networks behind a classifier: what their source says of them, and their logits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from apercu.classifiers.card import ClassifierCard, InputSpec
from apercu.classifiers.names import ClassNames
from apercu.classifiers.outputs import (
    Output,
    OutputName,
    check_finite_rows,
    check_numbers,
)
from apercu.errors import ApercuError, ClassifierError, FunctionError, first_line
from apercu.filters import parse_filter
from apercu.filters.base import format_cache_key
from apercu.types import Logits

IN_MEMORY = "memory/"
"""Beginning of the source of networks that no SPEC can build again."""
_OPTIONAL_KEYS = ("bands", "stretch")
"""Keys of the input that a fingerprint leaves out where they have no value, as older ones do."""


@runtime_checkable
class ForwardFn(Protocol):
    """Normalised images → the raw output of a network; an `nn.Module` is one."""

    def __call__(self, images: Tensor, /) -> Any: ...

    def to(self, device: torch.device, /) -> Any: ...


@dataclass(frozen=True)
class Network:
    """A network, with all that a `Classifier` must know about it.

    Args:
        source: source of the network, as in a card.
        forward: function from normalised images to raw outputs; if it is an `nn.Module`, methods
            may look at its layers.
        digest: identity of its weights and structure, from `digest_module` or `digest_file`.
        input: what it expects of its images.
        output: what its numbers mean.
        output_is_stated: whether somebody said so; else `logits` is an assumption.
        output_name: which of several tensors that it returns holds the numbers, if that was said.
        value_range: a low and a high value of a regression, if they were said.
        temperature: number by which its logits are divided, if one was said.
        filter: name of the filter in front of it, with settings, if one was said.
        guard: folder of its guard, which says whether predictions may be believed, if it has one.
        resolved_output: what the numbers turned out to mean; None before `resolve_output`.
        resolved_tensor: the tensor that holds the numbers, as `list_tensors` names it.
        names: class names; None where it has none.
        options: options with which the source built it.
        differentiable: whether gradients reach the images.
    """

    source: str
    forward: ForwardFn
    digest: str
    input: InputSpec
    output: OutputName = "logits"
    output_is_stated: bool = False
    output_name: str | None = None
    value_range: tuple[float, float] | None = None
    temperature: float | None = None
    filter: str | None = None
    guard: str | None = None
    resolved_output: Output | None = None
    resolved_tensor: str = ""
    names: ClassNames | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    differentiable: bool = True

    @property
    def is_in_memory(self) -> bool:
        """Whether no SPEC can build the network again."""
        return self.source.startswith(IN_MEMORY)

    @property
    def meaning(self) -> Output:
        """What the numbers mean, and how they become logits."""
        if self.resolved_output is not None:
            return self.resolved_output
        return Output(name=self.output, value_range=self.value_range, temperature=self.temperature)

    def compute_fingerprint(self) -> str:
        """Return the SHA-256 of the digest, the preprocessing, the output and the filter.

        The output must be resolved: the same weights and meaning have the same fingerprint.
        """
        pixels = {
            name: value
            for name, value in self.input.model_dump(mode="json").items()
            if value or name not in _OPTIONAL_KEYS
        }
        parts: list[Any] = [self.digest, pixels, self.meaning.name]
        parts += [part for part in (self.output_name, self.value_range) if part is not None]
        if self.temperature is not None:
            parts.append({"temperature": self.temperature})
        if self.filter is not None:
            parts.append({"filter": format_cache_key(parse_filter(self.filter))})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def pick_tensor(self, raw: object) -> Tensor:
        """Return the tensor that holds the numbers, from all that the network returned.

        Raises:
            ClassifierError: there is no such tensor.
        """
        tensors = {"": raw} if isinstance(raw, Tensor) else list_tensors(raw)
        if self.resolved_tensor not in tensors:
            raise ClassifierError(
                f"classifier {self.source}: expected a tensor {self.resolved_tensor} as its "
                f"output, got {type(raw).__name__}"
            )
        return tensors[self.resolved_tensor]

    def read_logits(self, raw: object, count: int) -> Logits:
        """Return logits of all that the network returned for a number of images, checked.

        Raises:
            NotFiniteError: numbers are NaN or infinite.
            ClassifierError: the numbers have another form, or are no probabilities where they
                should be.
        """
        numbers = check_numbers(self.pick_tensor(raw), self.meaning, count, self.source)
        check_logits(f"classifier {self.source}: its output", numbers.detach())
        return self.meaning.convert_to_logits(numbers)

    def read_logits_unchecked(self, raw: object) -> Logits:
        """Return the same logits without a check of the numbers, so that it can be traced."""
        return self.meaning.convert_to_logits(self.pick_tensor(raw))

    def with_output_of(self, card: ClassifierCard) -> Network:
        """Return the same network with what a card says of its output, if it says anything."""
        changes: dict[str, Any] = {
            "output_name": card.output_name or self.output_name,
            "value_range": card.value_range or self.value_range,
            "temperature": card.temperature or self.temperature,
            "filter": card.filter or self.filter,
            "guard": card.guard or self.guard,
        }
        if "output" in card.model_fields_set:
            changes |= {"output": card.output, "output_is_stated": True}
        return replace(self, **changes)

    def without_temperature(self) -> Network:
        """Return the same network without its temperature, which calibrates these weights alone."""
        output = self.resolved_output
        if output is not None:
            output = output.model_copy(update={"temperature": None})
        return replace(self, temperature=None, resolved_output=output)

    def with_names(self, names: ClassNames) -> Network:
        """Return the same network with these class names."""
        return replace(self, names=names)


@dataclass(frozen=True)
class BlackBox:
    """A function on the CPU that gives no gradients.

    Args:
        function: images on the CPU → raw outputs on the CPU: tensors, arrays or nested lists,
            alone or in a tuple or dictionary.
        source: source of the classifier, for the error where the function fails.
        takes: what the function gets and how to convert it, for the error of one that expects
            something else.
    """

    function: Callable[[Tensor], Any]
    source: str = "in memory"
    takes: str = ""

    def __call__(self, images: Tensor) -> Any:
        try:
            raw = self.function(images.detach().cpu())
        except ApercuError:
            raise
        except Exception as error:
            kind, text = type(error).__name__, first_line(error)
            reason = kind if text == kind else f"{kind}: {text}"
            raise FunctionError(
                f"classifier {self.source}: its function failed ({reason})"
            ) from error
        tensors = {name: values.to(images.device) for name, values in list_tensors(raw).items()}
        return tensors[""] if list(tensors) == [""] else tensors or raw

    def to(self, device: torch.device) -> BlackBox:
        """Return itself: it stays on the CPU; its outputs follow the images."""
        return self


def check_logits(subject: str, logits: Logits) -> None:
    """Check that the logits of every image give probabilities.

    Some logits of an image may be minus infinity, which is a probability of 0, but not all.

    Args:
        subject: what the numbers are, for the error.
        logits: logits, `batch × classes`.

    Raises:
        NotFiniteError: some are NaN or infinite; it knows of which images.
    """
    zero = logits.isneginf()
    check_finite_rows(subject, logits.masked_fill(zero & ~zero.all(1, keepdim=True), 0))


def list_tensors(raw: object, prefix: str = "") -> dict[str, Tensor]:
    """Return all tensors that a network returns, by their names: keys, fields or positions.

    Args:
        raw: output of a network: a tensor, an array of NumPy or of a library that converts to it,
            a tuple, list, dictionary, dataclass or `ModelOutput` of them, or another object that
            holds tensors.
        prefix: beginning of their names.

    Returns:
        The tensors; one tensor without a name is called "".
    """
    if isinstance(raw, Tensor):
        return {prefix: raw}
    if hasattr(raw, "__array__"):
        array = np.asarray(raw)
        kind = np.float64 if array.dtype == object else array.dtype.newbyteorder("=")
        return {prefix: torch.from_numpy(array.astype(kind, order="C"))}
    tensors: dict[str, Tensor] = {}
    for key, value in _list_parts(raw).items():
        tensors |= list_tensors(value, f"{prefix}.{key}" if prefix else key)
    return tensors


def _list_parts(raw: object) -> dict[str, Any]:
    """Return the parts of a container by key, field or position; empty for anything else."""
    if isinstance(raw, Mapping):
        return {str(key): value for key, value in raw.items()}
    if isinstance(raw, tuple) and hasattr(raw, "_asdict"):
        return dict(raw._asdict())
    if isinstance(raw, tuple | list):
        if raw and all(_is_numbers(row) for row in raw):
            return {"": torch.tensor(raw)}
        return {str(position): value for position, value in enumerate(raw)}
    if is_dataclass(raw) and not isinstance(raw, type):
        return {field.name: getattr(raw, field.name) for field in fields(raw)}
    slots = getattr(type(raw), "__slots__", ())
    attributes = dict(getattr(raw, "__dict__", {}))
    attributes |= {name: getattr(raw, name, None) for name in slots if isinstance(name, str)}
    return {name: value for name, value in attributes.items() if isinstance(value, Tensor)}


def _is_numbers(row: object) -> bool:
    """Return whether this is a number, or a list of numbers."""
    return isinstance(row, int | float) or (
        isinstance(row, list | tuple) and all(isinstance(value, int | float) for value in row)
    )
