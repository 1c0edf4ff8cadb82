"""The command `apercu` with all its verbs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated

import typer
from typer.models import CommandInfo, TyperInfo

import apercu
from apercu.cli import (
    batch,
    card,
    compare,
    cutouts,
    demo,
    evaluate_features,
    explain,
    export,
    guard,
    label,
    pretrain,
    serve,
    similar,
    stress,
    train,
    video,
)
from apercu.cli.exit_codes import read_arguments, run_command

app = typer.Typer(
    name="apercu",
    help="See what an image classifier looks at, in one forward pass.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("demo")(demo.demo)
app.add_typer(train.app, name="train")
app.command("explain")(explain.explain)
app.command("compare")(compare.compare)
app.command("card")(card.card)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.command("ready")(demo.ready)
app.command("video")(video.video)
app.command("batch")(batch.batch)
app.add_typer(stress.app, name="stress")
app.command("pretrain")(pretrain.pretrain)
app.command("cutouts")(cutouts.cutouts)
app.command("evaluate-features")(evaluate_features.evaluate_features)
app.add_typer(guard.app, name="guard")
app.command("similar")(similar.similar)
app.command("label")(label.label)


def _join_lines(typed: typer.Typer) -> None:
    """Make one line of each paragraph of the help of all verbs, which terminals wrap again."""
    described: list[CommandInfo | TyperInfo] = list(typed.registered_commands)
    if typed.registered_callback is not None and typed is not app:
        described.append(typed.registered_callback)
    for command in described:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(each.split()) for each in paragraphs)
    for group in typed.registered_groups:
        if group.typer_instance is not None:
            _join_lines(group.typer_instance)


_join_lines(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, and exit with its code.

    Args:
        arguments: the arguments; None for those of the process.
    """
    words = read_arguments() if arguments is None else list(arguments)
    raise SystemExit(
        run_command(
            lambda: _build_commands()(words, prog_name="apercu", standalone_mode=False),
            debug="--debug" in words,
        )
    )


@cache
def _build_commands() -> Callable[..., object]:
    """Build all verbs from their functions, once in a process."""
    return typer.main.get_command(app)


def _show_version(requested: bool) -> bool:
    if requested:
        typer.echo(f"apercu {apercu.__version__}")
        raise typer.Exit
    return requested


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """See what an image classifier looks at, in one forward pass."""
