"""The site of the manual: every verb, option, setting and public name is on its generated pages."""

from __future__ import annotations

import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

import apercu
from apercu.cli.root import app
from apercu.training.config import _list_paths

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))  # as mkdocs does for its hooks
try:
    hook = import_module("reference_pages")
    commands = import_module("commands_page")
    settings = import_module("settings_page")
    fields = import_module("settings_rows")
    python = import_module("python_pages")
finally:
    sys.path.remove(str(ROOT / "docs"))
INTERNAL = {
    "apercu.cli": "the command line, which has a page of its own",
    "apercu.evaluation.report": "written by `compare`",
    "apercu.explainers.mask.objectives": "settings, which have a page of their own",
    "apercu.pages": "templates of the reports",
    "apercu.robustness.detection.detectors": "given again by apercu.robustness.detection",
}
"""Packages with `__all__` whose names are not in the reference, and why."""
MODELS = {title: presets.model for title, (_, presets) in settings.list_trainings().items()}
commands_page = cache(commands.make_commands_page)
settings_page = cache(settings.make_settings_page)
COMMANDS = list(commands.walk_commands(typer.main.get_command(app)))


def find_section(page: str, heading: str) -> str:
    return page.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize(("names", "command"), COMMANDS, ids=lambda value: str(value)[:40])
def test_every_option_is_on_the_page_of_commands(names: tuple[str, ...], command: Any) -> None:
    section = find_section(commands_page(), f"## `{' '.join(names)}`")
    for parameter in command.params:
        if getattr(parameter, "hidden", False):  # the former name of an option
            continue
        if parameter.param_type_name == "argument":
            assert f"| `{parameter.metavar or parameter.name.upper()}` |" in section
            continue
        (row,) = [
            line
            for line in section.splitlines()
            if f"`{parameter.opts[0]}`" in line and line.startswith("| `--")
        ]
        assert all(f"`{name}`" in row for name in (*parameter.opts, *parameter.secondary_opts))
        assert row.count(" | ") >= 1
        assert not re.search(r"\|\s*\|$", row), f"no meaning: {row}"


def test_choices_and_ranges_are_shown_as_they_are_typed() -> None:
    page = commands_page()
    assert "| `--device` | `auto|cpu|cuda|mps` | `auto` |" in page
    assert "| `--seed` | `N (0 to 4294967295)` | `0` |" in page
    assert "&#124;" not in "".join(re.findall(r"`[^`\n]*`", page))


def test_every_verb_is_on_the_page_of_commands() -> None:
    page = commands_page()
    (group,) = [command for names, command in COMMANDS if len(names) == 1]
    for verb in group.commands:
        assert f"## `apercu {verb}" in page


@pytest.mark.parametrize("title", MODELS)
def test_every_setting_has_a_row_with_its_meaning(title: str) -> None:
    section = find_section(settings_page(), f"## {title}")
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    named = {part for row in rows for part in row.split("`")[1].split(".")}
    assert {path.rpartition(".")[2] for path in _list_paths(MODELS[title])} <= named
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []
    for row in fields.walk_settings(MODELS[title]):
        assert row.meaning and row.allowed, row.name


def test_defaults_are_those_of_the_first_preset() -> None:
    section = find_section(settings_page(), "## Mask explainers")
    assert "| `schedule.steps` | `1100` | whole number from 1 | Optimisation steps. |" in section
    assert "| `embedding.form` | `answers` | one of `answers`, `masked`, `labels` |" in section
    assert "`lean` has `decoder.width: 16`" in section


@pytest.mark.parametrize("title", settings.list_typed_settings())
def test_every_typed_setting_has_a_row_with_its_meaning(title: str) -> None:
    text = settings_page().split(f"\n### {title}\n", 1)[1].split("\n### ", 1)[0]
    for name, kind in settings.list_typed_settings()[title][1].items():
        assert f"| `{name}` |" in text
        for row in fields.walk_settings(kind):
            assert f"| `{name}` | `{row.name}` |" in text
            assert row.meaning, f"{name}: {row.name}"


# --- names ---------------------------------------------------------------------------------------


def walk_public() -> Iterator[tuple[str, str, Any]]:
    """Yield each public name of the reference: its package, the name, the object."""
    for package, names in python.list_documented().items():
        for name in names:
            yield package, name, getattr(import_module(package), name)


PUBLIC = list(walk_public())


def test_every_package_with_public_names_is_in_the_reference() -> None:
    modules = pkgutil.walk_packages(apercu.__path__, "apercu.", onerror=lambda name: None)
    packages = {one.name for one in modules if one.ispkg}
    public = {name for name in packages if "__all__" in vars(import_module(name))}
    assert public - set(python.PACKAGES) == set(INTERNAL) & public


def test_every_public_name_is_in_the_reference() -> None:
    texts = python.make_python_pages()
    listed = set(
        re.findall(r"^        heading: ([\w.]+)$", "\n".join(texts.values()), re.MULTILINE)
    )
    objects = {id(value) for _, _, value in PUBLIC}
    assert listed == {f"{package}.{name}" for package, name, _ in PUBLIC}
    for package in python.PACKAGES:
        module = import_module(package)
        for name in getattr(module, "__all__", ()):
            if not name.startswith("__") and not inspect.ismodule(getattr(module, name)):
                assert id(getattr(module, name)) in objects, f"{package}.{name}"


def list_functions() -> dict[str, Callable[..., Any]]:
    """Return the public functions and methods of the reference, by name."""
    functions: dict[str, Callable[..., Any]] = {}
    for package, name, value in PUBLIC:
        if inspect.isfunction(value):
            functions[f"{package}.{name}"] = value
        elif inspect.isclass(value):
            functions |= {
                f"{package}.{name}.{key}": method
                for key, method in vars(value).items()
                if inspect.isfunction(method)
                and key not in getattr(value, "__dataclass_fields__", ())
                and not key.startswith("_")
                and method.__doc__
                and method.__module__.startswith("apercu")
            }
    return functions


FUNCTIONS = list_functions()


def list_gaps(function: Callable[..., Any]) -> list[str]:
    """Return what the docstring of a function does not say about what it takes and returns."""
    text = inspect.getdoc(function) or ""
    parameters = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
        and not name.startswith("_")
        and parameter.kind is not parameter.VAR_KEYWORD
    ]
    gaps = ["no docstring"] if not text else []
    if "\nArgs:\n" in text or len(parameters) > 2:
        described = set(re.findall(r"^    \*?(\w+(?:, \w+)*):", text, re.MULTILINE))
        listed = {name.strip() for names in described for name in names.split(",")}
        gaps += [f"no words about {name}" for name in parameters if name not in listed]
    returned = function.__annotations__.get("return")
    if "\nArgs:\n" in text and returned not in (None, "None", "NoReturn", "Iterator[None]"):
        gaps += (
            [] if re.search(r"^(Returns|Yields):", text, re.M) else ["no words about the result"]
        )
    raised = set(re.findall(r"^\s+raise (\w+Error)\(", inspect.getsource(function), re.MULTILINE))
    return gaps + [f"no words about {name}" for name in raised if not is_described(name, text)]


def is_described(error: str, text: str) -> bool:
    """Return whether a docstring names an error or one that it is a kind of."""
    kind = getattr(import_module("apercu.errors"), error, None)
    names = [each.__name__ for each in kind.__mro__] if kind else [error]
    return any(name in text for name in names if name not in ("ApercuError", "object"))


def test_public_functions_say_what_they_take_return_and_raise() -> None:
    assert len(FUNCTIONS) > 100
    gaps = {name: found for name, one in FUNCTIONS.items() if (found := list_gaps(one))}
    assert gaps == {}


OPENERS = {"open_classifier", "load_explainer", "from_pretrained", "load_guard", "open_guard"}
"""What they return gets tensors of the caller, and stays on the CPU (`apercu.devices`)."""


def list_device_defaults() -> dict[str, Any]:
    """Return the device that each public function or method has by default, if it has one."""
    defaults = {}
    for package, name, value in PUBLIC:
        methods = dir(value) if inspect.isclass(value) else ()
        calls = {name: value} | {
            f"{name}.{key}": getattr(value, key) for key in methods if not key.startswith("_")
        }
        for called, call in calls.items():
            is_own = str(getattr(call, "__module__", "")).startswith("apercu")
            if is_own and inspect.isroutine(call):
                device = inspect.signature(call).parameters.get("device")
                if device is not None and device.default is not device.empty:
                    defaults[f"{package}.{called}"] = device.default
    return defaults


def test_jobs_take_any_device_and_what_is_opened_stays_on_the_cpu() -> None:
    defaults = list_device_defaults()
    assert {name.rpartition(".")[2] for name in defaults} > OPENERS
    assert defaults.pop("apercu.open_classifier") is None  # a module stays where it is
    assert defaults == {
        name: "cpu" if name.rpartition(".")[2] in OPENERS else "auto" for name in defaults
    }


def test_public_classes_say_what_their_fields_are() -> None:
    gaps = []
    for package, name, value in PUBLIC:
        if not inspect.isclass(value) or not (inspect.getdoc(value) or "").strip():
            gaps += [f"{package}.{name}"] if inspect.isclass(value) else []
            continue
        if hasattr(value, "__dataclass_fields__") or hasattr(value, "model_fields"):
            meanings = fields.read_meanings(value)
            gaps += [
                f"{package}.{name}: {field}"
                for field, *_ in fields.list_fields(value)
                if not field.startswith("_") and field not in meanings and field != "form"
            ]
    assert gaps == []


# --- the site ------------------------------------------------------------------------------------


def test_the_navigation_holds_every_page() -> None:
    def walk(part: Any) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        for value in (
            part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        ):
            yield from walk(value)

    listed = list(walk(hook.make_navigation()))
    stored = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").rglob("*")
        if path.suffix in (".md", ".ipynb") and ".ipynb_checkpoints" not in path.parts
    }
    assert sorted(listed) == sorted({*stored, *hook.make_pages()})


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_no_other_address(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr[-3000:]
    requests: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = own if Path(own).exists() else shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for path in sorted(tmp_path.rglob("*.html")):
            page.goto(path.as_uri())
            too_wide = page.evaluate(
                "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
            assert not too_wide, path
        page.goto((tmp_path / "reference" / "files" / "card.html").as_uri())
        page.set_viewport_size({"width": 1280, "height": 900})
        page.click("input.md-search__input")
        page.keyboard.type("grad")
        page.wait_for_selector(".md-search-result__item")
        browser.close()
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert errors == []
