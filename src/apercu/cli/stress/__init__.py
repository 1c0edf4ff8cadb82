"""`apercu stress`: how fast a classifier breaks, and whether a filter or a defence helps."""

from __future__ import annotations

import typer

from apercu.cli.stress.attack import stress
from apercu.cli.stress.backdoor import backdoor
from apercu.cli.stress.detect import detect, unknown
from apercu.cli.stress.filter import filter
from apercu.cli.stress.train import train

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")
app.callback()(stress)
app.command("train")(train)
app.command("detect")(detect)
app.command("unknown")(unknown)
app.command("backdoor")(backdoor)
app.command("filter")(filter)
