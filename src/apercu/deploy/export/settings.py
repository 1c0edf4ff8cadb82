"""What an export is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar, get_args

from apercu.errors import ConfigError, suggest_nearest

Format: TypeAlias = Literal["onnx", "torch", "triton", "kserve"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8", "int8-static"]
FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

W = TypeVar("W", bound=str)


@dataclass(frozen=True)
class ExportSettings:
    """Typed settings, checked when they are made.

    `onnx` is always written; `kserve` needs `triton`, which is then written too. `precision` is
    that of the ONNX graphs. `combined` None writes the graph with the prediction where that is
    possible, True insists on it.

    Raises:
        ConfigError: a format or precision is unknown.
    """

    formats: tuple[Format, ...] = ("onnx",)
    precision: Precision = "fp32"
    combined: bool | None = None
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for word in self.formats:
            check_known(word, FORMATS, "format")
        check_known(self.precision, PRECISIONS, "precision")
        if self.limit is not None and self.limit < 2:
            raise ConfigError(f"limit: expected at least 2 images, got {self.limit}")

    @property
    def triton(self) -> bool:
        """Whether a Triton model repository is written."""
        return bool({"triton", "kserve"} & set(self.formats))


def check_known(word: str, known: Sequence[W], what: str) -> W:
    """The word as one of the known ones.

    Raises:
        ConfigError: it is none of them.
    """
    for one in known:
        if word == one:
            return one
    raise ConfigError(
        f"{what}: expected one of {', '.join(known)}, got {word}{suggest_nearest(word, known)}"
    )
