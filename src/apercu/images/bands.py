"""Which plane of a file is which channel: by the names of its bands, or as they lie there."""

from __future__ import annotations

from apercu.errors import ConfigError, ImageError, suggest_nearest


def check_bands(bands: tuple[str, ...] | None, channels: int) -> None:
    """Raises ConfigError for names that cannot be the channels: another number, empty, twice."""
    if bands is None:
        return
    if len(bands) != channels:
        raise ConfigError(
            f"bands: expected {channels} names, one per channel, got {len(bands)} "
            f"({', '.join(bands)})"
        )
    if not is_unambiguous(bands):
        raise ConfigError(f"bands: expected each name once, got {', '.join(bands)}")


def is_unambiguous(names: tuple[str, ...]) -> bool:
    """Whether the names tell every band from the others.

    >>> are_clear(("g", "r")), are_clear(("g", "g")), are_clear(("g", ""))
    (True, False, False)
    """
    return all(names) and len(set(names)) == len(names) > 0


def order_bands(
    names: tuple[str, ...], bands: tuple[str, ...] | None, channels: int | None, file: str
) -> list[int]:
    """Indices of the bands in the order of the channels; as they lie where no names are wanted.

    Raises ImageError for a file that lacks a wanted band, names it twice or leaves a band without
    a name, and for another number of bands than channels.

    >>> ordered(("r", "g", "i"), ("g", "r"), 2, "a.fits")
    [1, 0]
    """
    shown = ", ".join(name or "unnamed" for name in names)
    picks = list(range(len(names)))
    if bands is not None:
        if not all(names):
            raise ImageError(f"{file}: expected bands {', '.join(bands)}, got {shown}; name them")
        picks = [_find_band(names, band, file) for band in bands]
    if channels not in (None, len(picks)):
        raise ImageError(
            f"{file}: expected {channels} bands, one per channel, got {len(picks)} ({shown}); "
            "bands are not converted"
        )
    return picks


def _find_band(names: tuple[str, ...], band: str, file: str) -> int:
    if band not in names:
        raise ImageError(
            f"{file}: lacks band {band}, has {', '.join(names)}{suggest_nearest(band, names)}"
        )
    if names.count(band) > 1:
        raise ImageError(f"{file}: names {names.count(band)} bands {band}, expected one")
    return names.index(band)
