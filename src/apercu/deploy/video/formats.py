"""Which kinds of files are written, known by the ending of their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av

from apercu.errors import ConfigError, OutputError, suggest_nearest


@dataclass(frozen=True)
class OutputFormat:
    """A kind of file.

    Attributes:
        container: as FFmpeg calls it.
        encoder: of its pictures.
        options: of that encoder, from a file and from what is live.
    """

    container: str
    encoder: str
    options: tuple[tuple[str, str], ...]
    live: tuple[tuple[str, str], ...]


_H264 = ("libx264", (("preset", "veryfast"), ("crf", "21")), (("tune", "zerolatency"),))
_VP9 = (
    "libvpx-vp9",
    (("deadline", "realtime"), ("cpu-used", "8"), ("row-mt", "1"), ("crf", "32"), ("b", "0")),
    (("lag-in-frames", "0"),),
)
FORMATS = {
    ".mp4": OutputFormat("mp4", *_H264),
    ".mov": OutputFormat("mov", *_H264),
    ".mkv": OutputFormat("matroska", *_H264),
    ".webm": OutputFormat("webm", *_VP9),
}


def find_format(out: Path) -> OutputFormat:
    """The format of a file to be written, which must not be there yet.

    Raises:
        OutputError: its name has no ending that is known, or the file exists.
        ConfigError: this PyAV cannot encode for it.
    """
    found = FORMATS.get(out.suffix.lower())
    if found is None:
        *others, last = FORMATS
        raise OutputError(
            f"{out}: expected a name that ends in {', '.join(others)} or {last}"
            f"{suggest_nearest(out.suffix, FORMATS) if out.suffix else ''}"
        )
    if out.exists():
        raise OutputError(f"{out}: exists already; remove it, or choose another name")
    if found.encoder not in av.codecs_available:
        raise ConfigError(
            f"video: this PyAV was built without {found.encoder}; pip install 'apercu[video]' "
            "brings one that has it"
        )
    return found
