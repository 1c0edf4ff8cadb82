"""`apercu stress filter`: applies an input filter to a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apercu.cli.options import DebugOption
from apercu.cli.terminal import say


def filter(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A filter, such as floyd_steinberg:bits=2.")
    ],
    image: Annotated[Path, typer.Argument(metavar="IN", help="A picture.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The PNG file to write.")],
    debug: DebugOption = False,
) -> None:
    """Show one input filter on a picture.

    Example: apercu stress filter atkinson cat.jpg cat.png
    """
    from apercu import render
    from apercu.errors import ConfigError
    from apercu.filters import parse_filter
    from apercu.images import read_picture

    parsed = parse_filter(name)
    if parsed is None:
        raise ConfigError(
            "filters: expected a filter that changes the image, got none; name one, such as jpeg"
        )
    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: expected a name that ends in .png, which keeps every bit")
    picture = read_picture(image)
    render.save_image(out, render.to_image(parsed(picture[None])[0]))
    say(f"{parsed}: {out}")
