"""`apercu demo` and `apercu ready`: what can be tried without a classifier of one's own."""

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


def ready(debug: DebugOption = False) -> None:
    """List the ready-made explainers of this package, for `apercu explain`, `serve` and the others.

    Example: apercu ready
    """
    from apercu.explainers.ready import list_ready

    for explainer in list_ready():
        state = "installed" if explainer.is_installed else "pip install 'apercu[ready]'"
        say(f"{explainer.name}: {explainer.title} ({state}); card: {explainer.run / 'card.md'}")
