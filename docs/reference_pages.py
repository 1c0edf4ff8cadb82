"""The pages of the reference that are generated, and the navigation: a hook of `mkdocs.yml`.

Commands and their options come from the app itself, settings from the classes that check them, and
names from `__all__` of the packages. Nothing of it is typed, so nothing of it can be out of date.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from importlib import import_module
from inspect import cleandoc, getdoc, getsource
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

DOCS = Path(__file__).resolve().parent
PACKAGES = {
    "apercu": "Train, explain, compare: the names that most programs need.",
    "apercu.classifiers": "Images in [0, 1] to logits, from any source.",
    "apercu.images": "Folders, files and stacks of images, as one interface.",
    "apercu.images.planted": "Generated images whose true evidence is known.",
    "apercu.images.catalogue": "Catalogues of the sky, and the labels of stamps.",
    "apercu.explain": "Explanations as objects and files.",
    "apercu.methods": "Methods that query the classifier for each image.",
    "apercu.metrics": "Measures of maps, one number per image.",
    "apercu.evaluation": "Comparisons of explainers, and their results.",
    "apercu.guard": "Guards, which say whether an answer may be believed.",
    "apercu.robustness": "Attacks, filters, defences and detection, one function each.",
    "apercu.robustness.attacks": "Attacks on a classifier or on a map.",
    "apercu.filters": "Filters in front of a classifier.",
    "apercu.robustness.defences": "Losses that train a classifier against attacks.",
    "apercu.robustness.detection": "Features and detectors of attacked images.",
    "apercu.robustness.backdoors": "Triggers, and methods that find, correct and remove backdoors.",
    "apercu.robustness.unknown": "Methods that recognise images of unknown kinds.",
    "apercu.pretraining": "Learning from images without labels, and from few labels.",
    "apercu.pretraining.pretexts": "Tasks that need no labels.",
    "apercu.pretraining.heads": "Learners of classes from features.",
    "apercu.learning": "Training a classifier from the labels there are.",
    "apercu.deploy.export": "ONNX graphs, and a page that explains in the browser.",
    "apercu.deploy.inference": "A run or an export, with one interface.",
    "apercu.deploy.video": "Films, cameras and streams.",
    "apercu.deploy.batch": "Whole data sets.",
    "apercu.interop": "The shapes of other libraries.",
    "apercu.maps": "Regions and boxes of maps.",
    "apercu.errors": "The error tree, with exit codes.",
    "apercu.types": "Tensors with named axes: the shapes in all signatures.",
}
"""Packages whose names are public, in the order of the reference."""
COMMANDS, SETTINGS, PYTHON = "reference/commands.md", "reference/settings.md", "reference/python.md"
ORDER = (
    "notebooks/first-minute.ipynb",
    "notebooks/own-classifier.ipynb",
    "notebooks/which-method.ipynb",
    "notebooks/counterparts.ipynb",
    "notebooks/what-breaks-it.ipynb",
    "howto/explain-images.md",
    "howto/open-a-classifier.md",
    "howto/train-an-explainer.md",
    "howto/long-trainings.md",
    "howto/compare-methods.md",
    "howto/export.md",
    "howto/browser.md",
    "howto/serve.md",
    "howto/video.md",
    "howto/batch.md",
    "howto/stress-and-defend.md",
    "howto/few-labels.md",
    "howto/train-a-classifier.md",
    "howto/label-images.md",
    "howto/similar-cases.md",
    "howto/believe-an-answer.md",
    "howto/chest-films.md",
    "howto/sky-surveys.md",
    "howto/files-from-strangers.md",
    "howto/add-a-method.md",
    "howto/add-a-metric.md",
    COMMANDS,
    SETTINGS,
    PYTHON,
    "reference/methods.md",
    "reference/metrics.md",
    "reference/results.md",
    "reference/families.md",
    "reference/reliability.md",
    "reference/sizing.md",
    "explanations/how-it-works.md",
    "explanations/what-the-numbers-mean.md",
    "explanations/what-maps-cannot-tell.md",
)
"""Pages that have a position of their own; others of their folder follow, by name."""


# --- what mkdocs calls ---------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Set the navigation, and search pages of a folder with a script of our own, not of a CDN."""
    config.nav = make_navigation()
    config.extra["polyfills"] = ["search-iframe-worker.js"]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those that lie in the folder."""
    from mkdocs.structure.files import File

    for path, text in make_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_post_page(output: str, **_: Any) -> str:
    """Take the script that draws diagrams from a CDN out of the notebooks; they have none."""
    return re.sub(
        r'<script type="module">(?:(?!</script>).)*?cdnjs.*?</script>', "", output, flags=re.DOTALL
    )


def make_navigation() -> list[dict[str, Any]]:
    """Return the navigation of the site, from the pages that exist."""
    names = [_name_package(package) for package in PACKAGES]
    python = [PYTHON, *names[1:]]
    reference = [path for path in _list_pages("reference") if path != PYTHON]
    reference.insert(2, {"Python": python})
    reference.append({"Files": _list_pages("reference/files")})
    project = [name for name in ("architecture.md", "experiments.md") if (DOCS / name).is_file()]
    parts = {
        "Tutorials": _list_pages("notebooks"),
        "How-to guides": _list_pages("howto"),
        "Reference": reference,
        "Explanations": _list_pages("explanations"),
        "Project": project,
    }
    return [{"Home": "index.md"}, *({name: pages} for name, pages in parts.items() if pages)]


def _list_pages(folder: str) -> list[Any]:
    """Return the pages of a folder, generated ones included, in the order of the navigation."""
    stored = [p for p in (DOCS / folder).glob("*") if p.suffix in (".md", ".ipynb")]
    pages = {p.relative_to(DOCS).as_posix() for p in stored}
    pages |= {p for p in (COMMANDS, SETTINGS, PYTHON) if Path(p).parent.as_posix() == folder}
    return sorted(pages, key=lambda p: (ORDER.index(p) if p in ORDER else len(ORDER), p))


def make_pages() -> dict[str, str]:
    """Return the generated pages in Markdown, by their paths in the manual."""
    return {COMMANDS: make_commands_page(), SETTINGS: make_settings_page(), **make_python_pages()}


# --- commands ------------------------------------------------------------------------------------


def make_commands_page() -> str:
    """Return the page of all commands, with every argument and option."""
    from apercu.cli.root import app

    lines = [
        "# Commands",
        "",
        "Every command with every option, as `apercu VERB --help` prints them. An option without a "
        "default can be left out, unless it is *required*. Errors are one line on the standard "
        "error stream; the exit code is 0 after success, 2 for input that cannot be right, and 1 "
        "for anything else.",
    ]
    for names, command in walk_commands(typer.main.get_command(app)):
        lines += ["", f"## `{' '.join(names)}`", ""]
        lines += [_tidy_help(command.help or ""), ""]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
        if getattr(command, "commands", None) and len(names) == 1:
            lines += ["| option | meaning |", "|---|---|"]
            lines += [f"| `{' '.join(p.opts)}` | {_escape(p.help or '')} |" for p in options]
            lines += ["| `--help`, `-h` | Show the help of a verb. |"]
            continue
        words = [*names, *(_describe_argument(p) for p in arguments)]
        words += [f"{p.opts[0]} {_describe_value(p)}".strip() for p in options if p.required]
        lines += ["```text", f"{' '.join(words)}{' [OPTIONS]' if options else ''}", "```", ""]
        if arguments:
            lines += ["| argument | meaning |", "|---|---|"]
            lines += [
                f"| `{p.metavar or p.name.upper()}` | {_escape(p.help or '')} |" for p in arguments
            ]
            lines += [""]
        if options:
            lines += ["| option | value | default | meaning |", "|---|---|---|---|"]
            lines += [_render_option(option) for option in options]
    return "\n".join(lines) + "\n"


def walk_commands(command: Any, names: tuple[str, ...] = ("apercu",)) -> Iterator[Any]:
    """Yield the names of each command that can be called, and the command."""
    children = getattr(command, "commands", None)
    if not children or len(names) == 1 or getattr(command, "invoke_without_command", False):
        yield names, command
    for name, child in (children or {}).items():
        yield from walk_commands(child, (*names, name))


def _render_option(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = f"`{_describe_value(option)}`" if not option.is_flag else ""
    cells = [names, value, _describe_default(option), _escape(option.help or "")]
    return f"| {' | '.join(cells)} |"  # a bar in a span of code does not end a cell


def _describe_argument(argument: Any) -> str:
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
            parts += [_escape(part)]
    return "\n\n".join(parts)


def _escape(text: str) -> str:
    """Return text of one cell, in which Markdown sees no tags, links or bars."""
    parts = " ".join(text.split()).split("`")
    marks = {"<": "&lt;", "|": "&#124;", "[": "\\[", "*": "\\*", "_": "\\_"}
    for index in range(0, len(parts), 2):  # the others are spans of code
        parts[index] = "".join(marks.get(letter, letter) for letter in parts[index])
    return "`".join(parts)


# --- settings ------------------------------------------------------------------------------------


def list_trainings() -> dict[str, tuple[str, Any]]:
    """Return the settings files, by title: where they are given, and the presets."""
    from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
    from apercu.explainers.latent.settings import LATENT_PRESETS
    from apercu.explainers.mask.settings import MASK_PRESETS
    from apercu.explainers.shapley.explainer import SHAPLEY_PRESETS
    from apercu.learning.settings import LEARNING
    from apercu.pretraining.settings import PRETEXTS
    from apercu.robustness.defences.settings import DEFENCES
    from apercu.robustness.plan import StressSettings
    from apercu.training.config import ConfigPresets

    stress = ConfigPresets(StressSettings, {"standard": StressSettings()})
    return {
        "Mask explainers": ("apercu train mask --config", MASK_PRESETS),
        "Counterpart explainers": ("apercu train counterpart --config", COUNTERPART_PRESETS),
        "Latent explainers": ("apercu train latent --config", LATENT_PRESETS),
        "Shapley explainers": ("apercu train shapley --config", SHAPLEY_PRESETS),
        "Pretraining": ("apercu pretrain PRETEXT --config", PRETEXTS),
        "Classifiers from few labels": ("apercu train classifier --config", LEARNING),
        "Classifiers that resist attacks": ("apercu stress train --config", DEFENCES),
        "Stress tests": ("apercu stress --config", stress),
    }


def list_typed_settings() -> dict[str, tuple[str, Mapping[str, type]]]:
    """Return what is typed as `name:key=value`, by title: where, and the classes by name."""
    from apercu.filters import FILTERS
    from apercu.images.planted import Planted
    from apercu.learning.recipes.registry import RECIPES
    from apercu.methods.registry import METHODS
    from apercu.pretraining.heads import HEADS
    from apercu.robustness.attacks import ATTACKS
    from apercu.robustness.detection.detectors import DETECTORS
    from apercu.robustness.unknown import UNKNOWN_METHODS

    return {
        "Methods": ("apercu compare --methods", METHODS),
        "Attacks": ("apercu stress --attacks", ATTACKS),
        "Filters": ("apercu stress --filters", FILTERS),
        "Detectors": ("apercu stress detect --detectors", DETECTORS),
        "Unknown images": ("apercu stress unknown --methods", UNKNOWN_METHODS),
        "Heads": ("apercu evaluate-features --heads", HEADS),
        "Recipes": ("apercu train classifier --recipe", RECIPES),
        "Generated images": ("--images", {"planted": Planted}),
    }


def make_settings_page() -> str:
    """Return the page of all settings: their defaults, allowed values and meanings."""
    lines = [
        "# Settings",
        "",
        "Settings files are YAML; [their page](files/settings.md) says how a file, a preset and an "
        "option go together. A point in a name is one level of a file: `schedule.steps` is "
        "`steps` under `schedule`. A part with a `form` has other settings for each of its forms; "
        "the form of the default is named.",
    ]
    for title, (where, presets) in list_trainings().items():
        rows = list(walk_settings(presets.model))
        names = ", ".join(f"`{name}`" for name in presets.presets)
        lines += [
            "",
            f"## {title}",
            "",
            f"Given by `{where} FILE`. Presets: {names}; the first one is the default.",
            "",
        ]
        lines += ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
        lines += [_render_row(row) for row in rows]
        lines += _render_presets(presets, rows)
    lines += [
        "",
        "## Settings that are typed",
        "",
        "Methods, attacks, filters, detectors, heads, recipes and "
        "generated images take their settings after their names: "
        "`rise:masks=500,seed=1`. Any method also takes `augmented=COPIES` (the mean over "
        "that many shifted and mirrored copies) and `smoothed=SIGMA` (a Gaussian blur of the "
        "map, in fractions of its side).",
    ]
    for title, (where, classes) in list_typed_settings().items():
        lines += ["", f"### {title}", "", f"Given by `{where} NAME:KEY=VALUE,…`.", ""]
        lines += ["| name | setting | default | meaning |", "|---|---|---|---|"]
        for name, kind in classes.items():
            summary = _escape((getdoc(kind) or "").split("\n\n")[0])
            lines += [f"| `{name}` | | | {summary} |"]
            lines += [
                f"| `{name}` | `{row.name}` | {_code(row.default)} | {_escape(row.meaning)} |"
                for row in walk_settings(kind)
            ]
    return "\n".join(lines) + "\n"


class SettingRow(typing.NamedTuple):
    """One setting: its name with points, its default, the values that it may have, its meaning."""

    name: str
    default: str
    allowed: str
    meaning: str


def walk_settings(kind: Any, prefix: str = "", of: str = "") -> Iterator[SettingRow]:
    """Yield the settings of a class, those of its parts included.

    Args:
        kind: a pydantic model or a dataclass.
        prefix: names of the parts that lead to it, each with a point at its end.
        of: the form that the settings belong to, if there are several.
    """
    meanings = read_meanings(kind)
    for name, hint, default, limits in _list_fields(kind):
        parts = _list_parts(hint)
        meaning = meanings.get(name, "")
        if name == "form":
            meaning = meaning or "Which form this part has."
        if of and name != "form":
            meaning = f"({of}) {meaning}"
        if not parts:
            yield SettingRow(prefix + name, _describe(default), _allow(hint, limits), meaning)
            continue
        forms = {part: _find_form(part) for part in parts}
        if len(parts) > 1:
            chosen = forms.get(type(default), "")
            words = ", ".join(f"`{form}`" for form in forms.values())
            yield SettingRow(f"{prefix}{name}.form", chosen, f"one of {words}", meaning)
        elif meaning:
            yield SettingRow(prefix + name, "", "the settings below", meaning)
        for part, form in forms.items():
            label = f"form {form}" if len(parts) > 1 else of
            for row in walk_settings(part, f"{prefix}{name}.", label):
                if row.name != f"{prefix}{name}.form":
                    yield row


def _list_fields(kind: Any) -> Iterator[tuple[str, Any, Any, Sequence[object]]]:
    """Yield name, type, default and limits of each field of a model or a dataclass."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            default = field.get_default(call_default_factory=True)
            yield name, field.annotation, default, field.metadata
        return
    if not is_dataclass(kind):
        return
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, limits = hints[field.name], ()
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
            limits = [m for e in extras for m in (e.metadata if isinstance(e, FieldInfo) else [e])]
        default = PydanticUndefined if field.default is MISSING else field.default
        if field.init:
            yield field.name, hint, default, limits


def _list_parts(hint: Any) -> list[type]:
    """Return the classes of settings that a field may hold; empty for plain values."""
    if isinstance(hint, type) and (issubclass(hint, BaseModel) or is_dataclass(hint)):
        return [hint]
    if get_origin(hint) in (Annotated, Union, UnionType):
        return [part for argument in get_args(hint) for part in _list_parts(argument)]
    return []


def _find_form(part: Any) -> str:
    """Return the value of `form` that chooses a class of settings."""
    return next((str(default) for name, _, default, _ in _list_fields(part) if name == "form"), "")


def read_meanings(kind: Any) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say about each field."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = cleandoc(vars(base).get("__doc__") or "")
        for section in re.findall(r"^(?:Attributes|Args):\n((?:[ ].*\n?|\n)+)", text, re.MULTILINE):
            for names, words in re.findall(
                r"^    ([\w, ]+):\s+((?:.+\n?)(?:^     +.*\n?)*)", section, re.MULTILINE
            ):
                for name in names.split(","):
                    meanings[name.strip()] = _end_sentence(words)
        if is_dataclass(base) and base.__module__.startswith("apercu"):
            pattern = r'^    (\w+): [^\n]*\n    """(.*?)"""'
            source = getsource(base)
            meanings |= {n: _end_sentence(w) for n, w in re.findall(pattern, source, re.M | re.S)}
    return meanings


def _end_sentence(words: str) -> str:
    text = " ".join(words.split())
    return text[:1].upper() + text[1:]


def _allow(hint: Any, limits: Sequence[object]) -> str:
    """Return in words which values a setting may have."""
    if get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        inner = [m for e in more for m in (e.metadata if isinstance(e, FieldInfo) else [e])]
        return _allow(hint, [*limits, *inner])
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        others = [part for part in get_args(hint) if part is not NoneType]
        words = " or ".join(_allow(part, limits) for part in others)
        return f"{words}, or none" if NoneType in get_args(hint) else words
    if get_origin(hint) in (tuple, list):
        parts = [part for part in get_args(hint) if part is not Ellipsis]
        return f"a list: {_allow(parts[0], ())}" if parts else "a list"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    word = names.get(hint, getattr(hint, "__name__", str(hint)))
    ends = {"ge": "from {:g}", "gt": "above {:g}", "le": "up to {:g}", "lt": "below {:g}"}
    words = [
        text.format(getattr(limit, end))
        for end, text in ends.items()
        for limit in limits
        if getattr(limit, end, None) is not None
    ]
    return " ".join([word, *words])


def _describe(default: object) -> str:
    """Return a default as a settings file holds it."""
    if default is PydanticUndefined or default is MISSING:
        return "*required*"
    if isinstance(default, bool):
        return str(default).lower()
    if default is None:
        return "none"
    if isinstance(default, float):
        return f"{default:.4g}"
    if isinstance(default, tuple | list):
        return f"[{', '.join(_describe(value) for value in default)}]"
    return str(default)


def _code(text: str) -> str:
    return text if not text or text.startswith("*") else f"`{text}`"


def _render_row(row: SettingRow) -> str:
    return f"| `{row.name}` | {_code(row.default)} | {row.allowed} | {_escape(row.meaning)} |"


def _render_presets(presets: Any, rows: Sequence[SettingRow]) -> list[str]:
    """Return a list of what each preset changes of the default one."""
    (_, first), *others = presets.presets.items()
    base = _flatten(first.model_dump(mode="json"))
    lines = []
    for name, preset in others:
        values = _flatten(preset.model_dump(mode="json"))
        changed = [
            f"`{key}: {_describe(value)}`"
            for key, value in values.items()
            if base.get(key, MISSING) != value
        ]
        lines += [f"- `{name}` has {', '.join(changed)}."]
    return ["", "What the other presets change:", "", *lines] if lines else []


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + key
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


# --- Python --------------------------------------------------------------------------------------


def list_names(package: str) -> list[str]:
    """Return the public names of a package: `__all__`, or what its module defines."""
    module = import_module(package)
    if hasattr(module, "__all__"):
        names = [name for name in module.__all__ if not name.startswith("__")]
        return [name for name in names if f"{package}.{name}" not in PACKAGES]
    own = re.findall(r"^(?:def |class )?([A-Za-z]\w*)(?:\(|:)", getsource(module), re.MULTILINE)
    skipped = {"if", "else", "try", "for", "with", "TYPE_CHECKING"}
    return [name for name in dict.fromkeys(own) if name not in skipped and hasattr(module, name)]


def list_documented() -> dict[str, list[str]]:
    """Return the public names by package, each in the first package that has it."""
    documented: dict[str, list[str]] = {}
    seen: set[int] = set()
    for package in PACKAGES:
        module = import_module(package)
        names = [name for name in list_names(package) if id(getattr(module, name)) not in seen]
        seen |= {id(getattr(module, name)) for name in names}
        documented[package] = names
    return documented


def find_definition(package: str, name: str) -> str:
    """Return where a name is defined; a function may have the name of the module that holds it."""
    value = getattr(import_module(package), name)
    module, own = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    return (
        f"{module}.{own}" if own == name and module.startswith("apercu.") else f"{package}.{name}"
    )


def make_python_pages() -> dict[str, str]:
    """Return a page for each package; mkdocstrings describes its names from their docstrings."""
    pages = {}
    for package, names in list_documented().items():
        lines = [f"# `{package}`", "", PACKAGES[package], ""]
        if package == "apercu":
            lines += [
                "Tensors have named axes; [`apercu.types`](python/types.md) lists them. Images are "
                "in [0, 1], maps are evidence per pixel, and a mask is a map in [0, 1] where 1 is "
                "kept. All errors are in [`apercu.errors`](python/errors.md).",
                "",
                "| package | holds |",
                "|---|---|",
            ]
            lines += [
                f"| [`{name}`]({_name_package(name).removeprefix('reference/')}) | {text} |"
                for name, text in PACKAGES.items()
                if name != package
            ]
            lines += [""]
        for name in names:
            lines += [f"::: {find_definition(package, name)}", "    options:"]
            lines += [f"        heading: {package}.{name}", f"        toc_label: {name}", ""]
        pages[_name_package(package)] = "\n".join(lines)
    return pages


def _name_package(package: str) -> str:
    """Return the path of the page of a package."""
    parts = package.split(".")[1:]
    return f"reference/python/{'-'.join(parts)}.md" if parts else PYTHON
