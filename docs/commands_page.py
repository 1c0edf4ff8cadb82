"""The page of the reference that lists every command with its arguments and options."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from inspect import cleandoc
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
from markdown_table import escape_text, render_table

OPENING = (
    "Every command with every option, as `apercu VERB --help` prints them. An option without a "
    "default can be left out, unless it is *required*. Errors are one line on the standard "
    "error stream; the exit code is 0 after success, 2 for input that cannot be right, and 1 "
    "for anything else."
)


def make_commands_page() -> str:
    """Return the page of all commands, with every argument and option."""
    from apercu.cli.root import app

    lines = ["# Commands", "", OPENING]
    for names, command in walk_commands(typer.main.get_command(app)):
        lines += ["", f"## `{' '.join(names)}`", "", _tidy_help(command.help or ""), ""]
        is_root = bool(getattr(command, "commands", None)) and len(names) == 1
        lines += _render_shared_options(command) if is_root else _render_command(names, command)
    return "\n".join(lines) + "\n"


def walk_commands(command: Any, names: tuple[str, ...] = ("apercu",)) -> Iterator[Any]:
    """Yield the names of each command that can be called, and the command."""
    children = getattr(command, "commands", None)
    if not children or len(names) == 1 or getattr(command, "invoke_without_command", False):
        yield names, command
    for name, child in (children or {}).items():
        yield from walk_commands(child, (*names, name))


def _list_options(command: Any) -> list[Any]:
    """Return the options of a command that its help shows."""
    return [p for p in command.params if p.param_type_name == "option" and not p.hidden]


def _render_shared_options(command: Any) -> list[str]:
    """Return the table of the options that stand before a verb."""
    rows = [(f"`{' '.join(p.opts)}`", escape_text(p.help or "")) for p in _list_options(command)]
    rows += [("`--help`, `-h`", "Show the help of a verb.")]
    return render_table(("option", "meaning"), rows)


def _render_command(names: tuple[str, ...], command: Any) -> list[str]:
    """Return how a command is called, and the tables of its arguments and options."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = _list_options(command)
    words = [*names, *(_describe_argument(p) for p in arguments)]
    words += [f"{p.opts[0]} {_describe_value(p)}".strip() for p in options if p.required]
    lines = ["```text", f"{' '.join(words)}{' [OPTIONS]' if options else ''}", "```", ""]
    if arguments:
        rows = [(f"`{p.metavar or p.name.upper()}`", escape_text(p.help or "")) for p in arguments]
        lines += [*render_table(("argument", "meaning"), rows), ""]
    if options:
        titles = ("option", "value", "default", "meaning")
        lines += render_table(titles, map(_make_option_row, options))
    return lines


def _make_option_row(option: Any) -> tuple[str, str, str, str]:
    """Return the cells of an option: its names, its value, its default and its meaning."""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = f"`{_describe_value(option)}`" if not option.is_flag else ""
    return names, value, _describe_default(option), escape_text(option.help or "")


def _describe_argument(argument: Any) -> str:
    """Return the name of an argument, with an ellipsis where it takes several values."""
    name = argument.metavar or argument.name.upper()
    return f"{name}…" if argument.nargs == -1 else str(name)


def _describe_value(option: Any) -> str:
    """Return what is typed after an option: its metavar, its choices, or its type and range."""
    if option.is_flag:
        return ""
    kind = option.type_descriptor.annotation
    choices = _list_choices(kind)
    if choices:
        return "|".join(map(str, choices))
    if option.metavar:
        return str(option.metavar)
    parts = get_args(kind)
    name = getattr(parts[0] if parts else kind, "__name__", str(kind))
    word = {"int": "N", "float": "NUMBER", "str": "TEXT", "Path": "PATH"}.get(name, name.upper())
    low, high = (getattr(option, end, None) for end in ("min", "max"))
    if low is not None and high is not None:
        return f"{word} ({low:.10g} to {high:.10g})"
    return f"{word} (from {low:.10g})" if low is not None else word


def _list_choices(kind: Any) -> list[object]:
    """Return the values of an enumeration or of literals; empty for other types."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [member.value for member in kind]
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if get_origin(kind) in (list, tuple, Union, UnionType):
        return [choice for part in get_args(kind) for choice in _list_choices(part)]
    return []


def _describe_default(option: Any) -> str:
    """Return the default of an option as a cell; empty where the option can be left out."""
    default = option.default() if callable(option.default) else option.default
    if option.required:
        return "*required*"
    if default is None or default == [] or default == () or default is False:
        return ""
    if isinstance(option.show_default, str):
        return option.show_default
    return f"`{'on' if default is True else getattr(default, 'value', default)}`"


def _tidy_help(text: str) -> str:
    """Return a help text in Markdown: its last line `Example: …` becomes a block of code."""
    text = cleandoc(text).replace("\b\n", "")
    parts = []
    for part in text.split("\n\n"):
        begin, word, command = part.partition("Example: ")
        if word and not begin.strip():
            parts += [f"```sh\n{' '.join(command.split())}\n```"]
        else:
            parts += [escape_text(part)]
    return "\n\n".join(parts)
