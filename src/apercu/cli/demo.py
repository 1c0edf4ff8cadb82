"""`apercu demo`: the whole story on the planted set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apercu.cli.exit_codes import on_interrupt
from apercu.cli.options import DebugOption, Device, DeviceOption, SeedOption
from apercu.cli.terminal import say, show_progress, show_ranking


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything that is written.")] = (
        Path("demo")
    ),
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """See the whole story in a few minutes, without any download.

    On generated images whose true evidence is known: trains a classifier and a mask explainer,
    compares it with the classic methods, and writes report.html. Finished stages are reused.

    Example: apercu demo --out demo
    """
    from apercu.evaluation.demo import Demo

    place = device.resolve()
    kept = f"{out} keeps what was finished; the same command makes the rest"
    with on_interrupt(kept), show_progress() as report:
        results = Demo(out, seed, place, report, say).run()
    show_ranking(results.comparison)
    say(f"report: {results.report}")
