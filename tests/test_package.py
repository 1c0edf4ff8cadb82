"""What is released: the files beside the package, the wheel, and what each extra brings."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import apercu
from apercu.cli import main
from apercu.extras import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERBS = {
    "serve": "serve RUN",
    "video": "video RUN in.mp4 out.mp4",
    "export": "export RUN --out out",
    "zarr": "batch RUN planted --out out --format zarr",
    "scale": "batch RUN planted --out out --cluster local",
    "ssl": "pretrain contrastive --images planted --out out",
    "robust": "stress --classifier CARD --images planted --attacks square --out out",
    "astro": "cutouts FRAME --catalogue TABLE --size 8 --out out",
    "hf": "compare --classifier hf/none --images planted --out out",
    "ready": "explain PHOTO --out out",
}
"""Extra → a command that ends in one line without it, before any work."""
RUN_COMMANDS = """
import contextlib, io, json, sys
from apercu.cli import main
results = {}
for extra, command in json.loads(sys.argv[1]).items():
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(command.split())
        except SystemExit as stop:
            code = stop.code
    results[extra] = [code, error.getvalue()]
print(json.dumps(results))
"""


def test_the_version_is_said_once() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == apercu.__version__
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_issue_forms_ask_for_something() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.stem for form in forms] == ["bug", "config", "idea", "question"]
    for form in (yaml.safe_load(form.read_text()) for form in forms if form.stem != "config"):
        assert {"name", "description", "body"} <= form.keys()
        kinds = {"markdown", "textarea", "input"}
        assert all(field["type"] in kinds and field["attributes"] for field in form["body"])
        ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids)) >= 1


def test_the_workflow_installs_on_three_systems_and_every_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    matrix = workflow["jobs"]["install"]["strategy"]["matrix"]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: Python :: " in line]
    assert set(named) <= set(matrix["python"])
    assert {"run": ".ci/run"} in workflow["jobs"]["check"]["steps"]


def test_the_image_of_the_server_copies_what_there_is_and_starts_it(capsys) -> None:
    text = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists() and f"!{name}" in ignored
    (extras,) = re.findall(r"'\.\[(.*)\]'", text)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    assert f"python:{PROJECT['requires-python'].removeprefix('>=')}-slim" in text
    (start,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    verb, *words = json.loads(start)
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    options = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in options] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_shell_completes_verbs_and_options(shell: str) -> None:
    """The script asks the command itself, in the variables that it sets."""
    program = [sys.executable, "-c", "from apercu.cli import main; main()"]
    asked = {
        "bash": {"COMP_WORDS": "apercu ex", "COMP_CWORD": "1"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "apercu ex"},
        "fish": {"_TYPER_COMPLETE_ARGS": "apercu ex", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        "powershell": {
            "_TYPER_COMPLETE_ARGS": "apercu ex",
            "_TYPER_COMPLETE_WORD_TO_COMPLETE": "ex",
        },
    }[shell]
    variables = {**os.environ, **asked, "_APERCU_COMPLETE": f"complete_{shell}"}
    ended = subprocess.run(program, env=variables, capture_output=True, text=True, timeout=60)
    assert ended.stderr == ""
    assert re.search(r"\bexplain\b", ended.stdout) and not re.search(r"\btrain\b", ended.stdout)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a wheel and an sdist, built by `python -m build` from a copy."""
    pytest.importorskip("build")
    copy, out = (tmp_path_factory.mktemp(name) for name in ("source", "dist"))
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(copy)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return out


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_package(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(sdist) as sources:
        contained = {name.partition("/")[2] for name in sources.getnames()}
    package = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "apercu").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package <= packed
    assert {f"src/{name}" for name in package} <= contained
    assert {"LICENSE", "README.md", "CITATION.cff", "pyproject.toml"} <= contained
    folders = {name.partition("/")[0] for name in packed | contained}
    assert not folders & {"shared", "runs", ".venv", "site", "dist", "demo"}


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel alone, and `links`, which it looks for packages in."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    asked = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    (folder / "links").mkdir()
    (Path(asked.stdout.strip()) / "links.pth").write_text(f"{folder / 'links'}\n")
    return folder


def link_packages(folder: Path, extras: Iterable[str]) -> None:
    """Link the packages that the wheel installs with some extras, and no others."""
    shutil.rmtree(folder)
    folder.mkdir()
    for name in find_closure(PROJECT["name"], frozenset(extras)):
        for file in distribution(name).files or ():
            top = Path(file).parts[0]
            target = Path(str(distribution(name).locate_file(top)))
            if top not in ("..", "bin", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(target)


def find_closure(name: str, extras: frozenset[str]) -> set[str]:
    """Return the packages that a package needs, itself left out, as far as they are installed."""
    from packaging.requirements import Requirement

    declared = PROJECT["dependencies"] + [
        line for extra in extras for line in PROJECT["optional-dependencies"][extra]
    ]
    waiting, closure = [Requirement(line) for line in declared], set[tuple[str, str]]()
    while waiting:
        one = waiting.pop()
        for extra in {"", *one.extras}:
            key = (one.name, extra)
            if key in closure or (one.marker and not one.marker.evaluate({"extra": ""})):
                continue
            try:
                lines = distribution(one.name).requires or ()
            except PackageNotFoundError:
                continue
            closure.add(key)
            needed = (Requirement(line) for line in lines)
            waiting += [r for r in needed if not r.marker or r.marker.evaluate({"extra": extra})]
    return {package for package, _ in closure} - {name}


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_with_one_extra_the_others_are_named(
    environment: Path, tiny_run: Path, tiny_card: Path, tmp_path: Path, extra: str
) -> None:
    link_packages(environment / "links", [extra] if extra else [])
    program = environment / "venv" / "bin" / "apercu"
    for words in (["--version"], ["--help"]):
        ended = subprocess.run([program, *words], capture_output=True, text=True, cwd=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
    available = {extra, *(other for other, names in EXTRAS.items() if is_covered(names, extra))}
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 30)).save(photo)
    table = tmp_path / "table.csv"
    table.write_text("ra,dec\n1,2\n")
    frame = tmp_path / "frame.fits"
    frame.write_bytes(b"SIMPLE  =                    T".ljust(2880))
    values = {"RUN": tiny_run, "CARD": tiny_card, "PHOTO": photo, "TABLE": table, "FRAME": frame}
    commands = {
        needed: " ".join(str(values.get(word, word)) for word in command.split())
        for needed, command in VERBS.items()
        if needed not in available
    }
    ended = subprocess.run(
        [environment / "venv" / "bin" / "python", "-c", RUN_COMMANDS, json.dumps(commands)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    for needed, (code, error) in json.loads(ended.stdout).items():
        lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
        assert code == 2 and len(lines) == 1, (needed, code, error)
        assert f"pip install 'apercu[{needed}]'" in lines[0], needed


def is_covered(modules: Iterable[str], extra: str) -> bool:
    """Whether an extra brings all modules of another one."""
    return bool(extra) and set(modules) <= set(EXTRAS[extra])
