"""What a card, a file of settings or a run folder may ask for, since it may come from anybody.

A `package.module:factory` that is named there is not called. It is called when a person typed it,
on the command line or in Python, or trusts the file (`--trust`, `trust=True`); so are the factories
of this package. Options cannot lead to files or addresses, and a network cannot be larger than its
weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from apercu.errors import ClassifierError, UntrustedError
from apercu.io import is_file
from apercu.weights import CHECKPOINT_ENDINGS, FORMER_FACTORIES

OWN_FACTORIES = frozenset(
    {
        *FORMER_FACTORIES,
        *FORMER_FACTORIES.values(),
        "apercu.classifiers.colour:Coloured",
        "apercu.learning.recipes.auxiliary_targets:build_grouped_network",
        "apercu.learning.recipes.colouring:build_coloured_network",
        "apercu.learning.recipes.graph_interpolation:build_graph_network",
        "apercu.learning.recipes.spatial_attention:build_attended_network",
    }
)
"""Factories of this package, which every card may name."""

MAX_WEIGHTS = 2_000_000_000
"""Numbers of a network whose card is not trusted and names no weights."""
MAX_MODULES = 30_000
"""Layers that a network may have whose card is not trusted."""
SPARE_NUMBERS = 16_000_000
"""Numbers that a network may hold besides its weights, such as tables that are computed."""

_WORD = re.compile(r"[\w.,+ -]{0,100}")
"""Texts among the options of a network: a word, but no path and no address."""
_REFUSED_OPTIONS = frozenset(
    {"pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only"}
    | {"feature_cfg", "weights_backbone", "trust_remote_code", "code_revision"}
)
"""Options of builders that load other files, run code, or build no classifier."""
_REFUSED_KEYS = frozenset(
    {"checkpoint_path", "cache_dir", "custom_load", "trust_remote_code", "code_revision"}
)
"""Keys of a configuration that load other files, or run code."""
FACTORY = re.compile(
    r"(?!ready:)(?:[A-Za-z_][\w.]*|(?!(?:timm|torchvision|hf|clip)/)[^:?]+\.py):[A-Za-z_]\w*"
)
"""SPECs that run code: `package.module:factory`, or `FILE.py:factory`."""
_TRUSTING: ContextVar[bool] = ContextVar("trusting", default=False)
_TYPED: set[str] = set()
"""Factories that were typed in this process; their code has run already."""


@contextmanager
def trust_files(trust: bool = True) -> Iterator[None]:
    """Let files name functions that are called, and hold programs of any kind, within a block.

    Args:
        trust: whether the files are trusted; False changes nothing.

    Example:
        >>> with trust_files():
        ...     is_trusting()
        True
    """
    token = _TRUSTING.set(trust or _TRUSTING.get())
    try:
        yield
    finally:
        _TRUSTING.reset(token)


def is_trusting() -> bool:
    """Return whether the files that are opened now are trusted."""
    return _TRUSTING.get()


def remember_typed(spec: str) -> str:
    """Remember that a person typed a SPEC; cards may name it from then on, without options.

    Returns:
        The SPEC.
    """
    _TYPED.add(spec)
    return spec


def check_factory(source: str, options: Mapping[str, Any]) -> None:
    """Check that a factory may be called.

    Args:
        source: `package.module:factory`.
        options: arguments of the factory, as a card gives them.

    Raises:
        UntrustedError: neither is it typed or one of this package, nor is the file trusted.
        ClassifierError: an option for a factory of this package names a file or an address.
    """
    if source in OWN_FACTORIES and not is_trusting():
        check_options(source, options)
    is_typed = source in _TYPED and not options
    if not (is_typed or source in OWN_FACTORIES or is_trusting()):
        hint = "" if options else f"type it yourself (--classifier {source}), or "
        raise UntrustedError(
            f"refused, because it would call {source}, which is code that runs; "
            f"{hint}add --trust (in Python trust=True) if you trust this file"
        )


def check_spec_of_file(spec: str, origin: str) -> None:
    """Check a SPEC that stands in a file and was not typed.

    Args:
        spec: SPEC of a classifier.
        origin: the file or the setting, for the error.

    Raises:
        UntrustedError: it is a factory that may not be called.
    """
    if FACTORY.fullmatch(spec):
        try:
            check_factory(spec, {})
        except UntrustedError as error:
            raise UntrustedError(f"{origin}: {error}") from None


def check_options(source: str, options: Mapping[str, Any]) -> None:
    """Check the options with which a library builds one of its networks.

    Args:
        source: the network, such as `timm/NAME`, for the error.
        options: the options, as a card gives them.

    Raises:
        ClassifierError: an option names a file or an address, or makes no classifier.
    """
    for name, value in options.items():
        if name in _REFUSED_OPTIONS or not _is_plain(value):
            raise ClassifierError(
                f"classifier {source}: options.{name} is refused, as options may not name files, "
                "addresses or code; name a safetensors file as `weights`"
            )


def check_config(source: str, content: Any) -> None:
    """Check the configuration of a model of transformers, which may hold texts of any kind.

    Args:
        source: the model, for the error.
        content: the configuration, as JSON gives it.

    Raises:
        UntrustedError: it names code, or files that are loaded, and is not trusted.
    """
    if is_trusting() or not isinstance(content, Mapping | list):
        return
    if isinstance(content, list):
        for part in content:
            check_config(source, part)
        return
    for name, value in content.items():
        is_kernel = "attn_implementation" in str(name) and "/" in str(value)
        is_argument = name == "model_args" and not _is_plain(value)
        if name in _REFUSED_KEYS or is_kernel or is_argument:
            raise UntrustedError(
                f"classifier {source}: refused, its configuration has {name}, which loads other "
                "files or code; add --trust (in Python trust=True) if you trust this file"
            )
        check_config(source, value)


def _is_plain(value: Any) -> bool:
    """Whether an option is a number, a word, or a list or dictionary of such."""
    if isinstance(value, str):
        return bool(_WORD.fullmatch(value)) and ".." not in value
    if isinstance(value, Mapping):
        return all(name not in _REFUSED_OPTIONS and _is_plain(v) for name, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float)


def measure_weights(path: str | None) -> int:
    """Return the size in bytes of a file of weights whose card is not trusted.

    Args:
        path: the file; None where the card names none.

    Returns:
        The size, which the numbers of the network cannot exceed; `MAX_WEIGHTS` without a file.

    Raises:
        UntrustedError: it is a file of `torch.save`, which is a pickle.
    """
    if path is None:
        return MAX_WEIGHTS
    file = Path(path)
    if file.suffix.lower() in CHECKPOINT_ENDINGS:
        raise UntrustedError(
            f"weights {path}: refused, as a file of torch.save is a pickle; save the state_dict "
            "with safetensors.torch.save_file, or add --trust (in Python trust=True)"
        )
    return file.stat().st_size if is_file(file) else MAX_WEIGHTS


@contextmanager
def limit_network(subject: str, numbers: int, known: nn.Module | None = None) -> Iterator[None]:
    """Stop the building of a network that grows too large, before its memory is used.

    Args:
        subject: what is built, for the error.
        numbers: how many numbers its weights may have.
        known: a network that is open already; its layers do not count where they are used again.

    Raises:
        ClassifierError: the network has more numbers, or more layers than `MAX_MODULES`.
    """
    left = {"numbers": numbers + SPARE_NUMBERS, "layers": MAX_MODULES}
    parts = () if known is None else (*known.modules(), *known.parameters(), *known.buffers())
    is_known = {id(part) for part in parts}.__contains__

    def count(kind: str, amount: int) -> None:
        left[kind] -= amount
        if left[kind] < 0:
            raise ClassifierError(
                f"{subject}: describes a network with more {kind} than its file of weights can "
                "hold; check its settings and options"
            )

    def count_tensor(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        count("numbers", 0 if tensor is None or is_known(id(tensor)) else tensor.numel())

    def count_module(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        count("layers", 0 if is_known(id(submodule)) else 1)

    handles = [
        hooks.register_module_parameter_registration_hook(count_tensor),
        hooks.register_module_buffer_registration_hook(count_tensor),
        hooks.register_module_module_registration_hook(count_module),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
