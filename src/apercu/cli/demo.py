"""`apercu demo`: from a classifier to its compared explainer, on planted images."""

from __future__ import annotations

from pathlib import Path

from apercu.cli.exit_codes import on_interrupt
from apercu.cli.options import DebugOption, Device, DeviceOption, OutOption, SeedOption
from apercu.cli.terminal import say, show_ranking
from apercu.progress import show_progress


def demo(
    out: OutOption = Path("demo"),
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """See all steps in about ten minutes, without any download.

    On generated images whose true evidence is known: trains a classifier and a mask explainer,
    compares it with the classic methods, and writes report.html. Finished stages are reused.

    Example: apercu demo --out demo
    """
    from apercu.evaluation.demo import Demo

    consequence = f"{out} keeps what was finished; the same command continues"
    with on_interrupt(consequence), show_progress() as report:
        results = Demo(out, seed, device.resolve(), report, say).run()
    show_ranking(results.comparison)
    say(f"report: {results.report}")
