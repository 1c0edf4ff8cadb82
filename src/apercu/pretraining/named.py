"""Heads, shares, networks, pretexts and catalogues by the words that people type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from apercu.errors import ConfigError, suggest_nearest
from apercu.images import ImageSource
from apercu.images.catalogue import label_images, match_by_id, read_catalogue
from apercu.option_strings import parse_named, parse_value, split_names
from apercu.pretraining.heads import HEADS, Learner
from apercu.pretraining.inputs import CatalogueJoin
from apercu.pretraining.settings import PRETEXTS, PretrainSettings
from apercu.training.config import ConfigPresets


def parse_heads(text: str) -> dict[str, Learner]:
    """Heads by their names with settings; raises ConfigError."""
    return {name: parse_named(name, HEADS, "heads") for name in split_names(text, "heads", HEADS)}


def parse_fractions(text: str) -> tuple[float, ...]:
    """Shares such as `0.01,1/20`; raises ConfigError."""
    found = []
    for word in split_names(text, "fractions", ()):
        try:
            found.append(float(parse_value(float, word)))  # type: ignore[arg-type]
        except ValueError:
            raise ConfigError(f"fractions: expected numbers such as 0.05, got {word!r}") from None
    return tuple(found)


def parse_networks(texts: Sequence[str]) -> dict[str, str]:
    """SPECs by name, from `NAME=SPEC`; raises ConfigError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not (name and equals and spec):
            raise ConfigError(f"network: expected NAME=SPEC, got {text!r}")
        if name in found:
            raise ConfigError(f"network: expected each name once, got {name} twice")
        found[name] = spec
    return found


def find_pretext_settings(name: str) -> ConfigPresets[PretrainSettings]:
    """The settings of one pretext; raises ConfigError."""
    if name not in PRETEXTS.presets:
        known = ", ".join(PRETEXTS.presets)
        raise ConfigError(
            f"pretext: expected one of {known}, got {name}{suggest_nearest(name, PRETEXTS.presets)}"
        )
    return ConfigPresets(PretrainSettings, {name: PRETEXTS.presets[name]})


def parse_join(
    catalogue: Path | None, target: str | None, id: str | None, radius: float
) -> CatalogueJoin | None:
    """What a catalogue says of images; raises ConfigError for half of what is needed."""
    if catalogue is None:
        if target is not None or id is not None:
            raise ConfigError("catalogue: --target and --id name its columns; say --catalogue")
        return None
    if target is None:
        raise ConfigError("target: expected columns of magnitudes, such as --target magr,magi")
    columns = tuple(word.strip() for word in target.split(",") if word.strip())
    if not columns:
        raise ConfigError(f"target: expected columns of magnitudes, got {target!r}")
    return CatalogueJoin(catalogue, columns, id, radius)


def parse_labels(
    catalogue: Path | None, column: str | None, id: str | None
) -> Callable[[ImageSource], ImageSource]:
    """How images get their classes: they have them, or a catalogue does; raises ConfigError."""
    if catalogue is None:
        if column is not None or id is not None:
            raise ConfigError("catalogue: --label and --id name its columns; say --catalogue")
        return lambda source: source
    if column is None or id is None:
        raise ConfigError("catalogue: expected --label and --id, columns of it")
    known = read_catalogue(catalogue)
    return lambda source: label_images(
        source, match_by_id(source.names, known, id).rows, known, column
    )
