"""What an earlier version left behind still opens, and says the same; see golden/README.md."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from enum import Enum, EnumType
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

# Every Python name of the package that this test needs; the rest goes through the command line.
from apercu import open_classifier, open_images
from apercu.cli import main
from apercu.cli.root import app
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
from apercu.explainers.latent.settings import LATENT_PRESETS
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.run_folder import load_explainer
from apercu.pretraining.settings import PRETEXTS
from apercu.robustness.defences.settings import DEFENCES
from apercu.robustness.plan import StressSettings
from apercu_runtime import Explainer

FAMILIES = {
    "train mask": MASK_PRESETS,
    "train counterpart": COUNTERPART_PRESETS,
    "train latent": LATENT_PRESETS,
    "stress train": DEFENCES,
    "pretrain": PRETEXTS,
}
"""The settings behind each --config."""


def asked(run: str, images: Tensor) -> dict[str, Tensor]:
    """Everything that an explainer says of images, by name."""
    explainer = load_explainer(run)
    found = {"answers": explainer.predict_logits(images)}
    for target in (None, 1, "rings"):
        found[f"maps of {target or 'top'}"] = explainer.attribute(images, target)
    if hasattr(explainer, "attribute_classes"):
        classes = torch.tensor([[0, 2]] * len(images))
        found["maps of classes"] = explainer.attribute_classes(images, classes)
    if hasattr(explainer, "counterparts"):
        pair = explainer.counterparts(images[:1])
        found |= {"stable": pair.stable, "adversarial": pair.adversarial}
        found |= {"wanted": pair.target, "strip": pair.strip[1:-1:2]}
    return found


def answered(card: str, images: Tensor) -> dict[str, Tensor]:
    """What a classifier, or a network that gives features, answers, by name.

    It answers without the filter that cards of defences name now, and did not in version 0.1.0.
    """
    with torch.no_grad():
        return {"answers": open_classifier(card).without_filter()(images)}


def shown(spec: str, count: int) -> Tensor:
    """The first pictures of a source."""
    source = open_images(spec)
    return torch.stack([source[index].picture for index in range(count)])


def run_by(folder: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that apercu-runtime says of images, by name and target."""
    explainer = Explainer.from_onnx(Path(folder))
    found = explainer.outputs(images)
    found["maps of 1"] = explainer.attribute(images, 1)
    found["maps of classes"] = explainer.attribute_classes(images, [0, 2])
    return found


GOLDEN = Path(__file__).parent / "golden"
PLANTED = "planted:size=32,images=24,classes=3,difficulty=0"
COMMANDS: dict[str, list[str]] = json.loads((GOLDEN / "commands.json").read_text())
"""What was typed, in the folder of the golden files."""
TOLERANCE = 1e-6
"""Largest difference, relative to numbers above 1."""
MEASURED = 1e-5
"""Of what is measured again; processors were seen to differ by 4e-6."""
TRAINED = 1e-4
"""Of what a training of a few steps leaves; processors were seen to differ by 7e-5."""
RUNS = ("mask-own", "counterpart", "latent")
UNKNOWN = "zzzzzz"
OF_MACHINE = {"cost", "environment", "calls", "command", "training_seconds", "versions"}
"""Keys of files of results that differ from call to call, or from machine to machine."""
LATER_FORMATS = " AVIF, HEIC,"
"""Formats of images that version 0.1.0 did not read, as a sentence about a file names them."""
OF_CODE = {"explainers"}
"""Keys that tell Python names."""

AS_THEN = {"compare": ["--whole-maps", "half"]}
"""Options that say what was the only way then."""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden files, where they may be written to."""
    folder = tmp_path_factory.mktemp("copy") / "golden"
    shutil.copytree(GOLDEN, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder


@pytest.fixture(autouse=True)
def here(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All is done in the copy, as it was typed, with one thread."""
    monkeypatch.chdir(copied)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process: its exit code, and what it said."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def again(command: Command) -> Callable[[str], Path]:
    """Does what was done for a golden folder, into another one."""

    def run(name: str) -> Path:
        words = list(COMMANDS[name])
        place = words.index("--out") + 1
        words[place] = f"again/{words[place]}"
        words += AS_THEN.get(name, [])
        code, _, error = command(*words)
        assert code == 0, error
        return Path(words[place])

    return run


def arrays(name: str) -> dict[str, np.ndarray]:
    """Golden arrays by name."""
    with np.load(GOLDEN / "arrays" / f"{name}.npz") as stored:
        return dict(stored)


def images() -> Tensor:
    """The pictures that explainers were asked about."""
    return torch.from_numpy(arrays("images")["planted"])


def check_arrays(name: str, found: dict[str, Any], tolerance: float = TOLERANCE) -> None:
    """Fails unless everything that was found for a golden file is there and as close."""
    golden = arrays(name)
    assert golden.keys() <= found.keys()
    for key, one in golden.items():
        now = np.asarray(found[key])
        assert now.dtype == one.dtype, key
        spread = np.abs(np.asarray(now, np.float64) - one) / np.maximum(1, np.abs(one))
        assert now.shape == one.shape and spread.max(initial=0) <= tolerance, f"{name}: {key}"


def differences(
    golden: Any, now: Any, where: str = "", tolerance: float = TOLERANCE
) -> Iterator[str]:
    """Everything that is lost, or another.

    What has been added to a dictionary, or to the words of an option, is no matter.
    """
    if isinstance(golden, dict) and isinstance(now, dict):
        for key in golden.keys() - OF_MACHINE:
            if key in now:
                yield from differences(golden[key], now[key], f"{where}/{key}", tolerance)
            else:
                yield f"{where}/{key} is lost"
    elif where.endswith("/words") and isinstance(golden, list) and isinstance(now, list):
        yield from (f"{where}: {word} is lost" for word in golden if word not in now)
    elif isinstance(golden, list) and isinstance(now, list) and len(golden) == len(now):
        for index, (one, other) in enumerate(zip(golden, now, strict=True)):
            yield from differences(one, other, f"{where}/{index}", tolerance)
    elif isinstance(golden, float) and isinstance(now, float):
        near = abs(golden - now) <= tolerance * max(1.0, abs(golden))
        if not (near or (golden != golden and now != now)):
            yield f"{where}: {golden} is {now} now"
    elif golden != now:
        yield f"{where}: {golden!r} is {now!r} now"


def check_same(golden: Any, now: Any, tolerance: float = TOLERANCE) -> None:
    """Fails with everything that is lost, or another."""
    if found := list(differences(golden, now, tolerance=tolerance)):
        pytest.fail("\n".join(found), pytrace=False)


def check_json(path: str, other: Path, *, but: set[str] | None = None, **options: Any) -> None:
    """Fails where a file of results says something else than the golden one."""
    golden = json.loads((GOLDEN / path).read_text())
    left = {key: value for key, value in golden.items() if key not in (but or set())}
    check_same(left, json.loads(other.read_text()), **options)


def settings_said(error: str) -> list[str]:
    """The words that an error says it expected, without what differs from time to time."""
    found = re.search(
        r"(?:expected (?:some of|one of) |, expected |presets are )(.*?)(?:, got |;|$)", error
    )
    assert found, error
    return found[1].split(", ")


ASKED = {
    "methods": "compare --classifier x.json --images planted --out o --methods",
    "metrics": "compare --classifier x.json --images planted --out o --metrics",
    "attacks": "stress --classifier x.json --images planted --out o --attacks",
    "filters": "stress --classifier x.json --images planted --out o --filters",
    "detectors": "stress detect --classifier x.json --images planted --out o --detectors",
    "looks": "stress detect --classifier classifier/card.json --images planted --out o --looks",
    "heads": "evaluate-features --network a=x.json --images planted --test planted --out o --heads",
    "pretexts": "pretrain --images planted --out o",
    "mask presets": "train mask --classifier x.json --images planted --out o --config",
    "counterpart presets": "train counterpart --classifier x.json --images x --out o --config",
    "latent presets": "train latent --classifier x.json --images planted --out o --config",
    "defences": "stress train --classifier x.json --images planted --out o --config",
    "export formats": "export runs/mask-own --out o --format",
    "export precisions": "export runs/mask-own --out o --precision",
    "batch formats": "batch runs/mask-own planted --out o --format",
    "batch maps": "batch runs/mask-own planted --out o --map",
}
"""How the command line is asked what it knows; a word that it does not know comes last."""
WITH_SETTINGS = ("methods", "attacks", "filters", "detectors", "heads")


def words_known(command: Command) -> dict[str, dict[str, list[str]]]:
    """Every word that the command line knows, and the settings that some take, by kind."""
    found: dict[str, dict[str, list[str]]] = {}
    for kind, text in ASKED.items():
        words = text.split()
        found[kind] = {name: [] for name in settings_said(command(*words, UNKNOWN)[2])}
        if kind in WITH_SETTINGS:
            for name in found[kind]:
                error = command(*words, f"{name}:{UNKNOWN}=1")[2]
                if f"no setting {UNKNOWN}" in error:
                    found[kind][name] = settings_said(error)
    return found


def command_tree() -> dict[str, Any]:
    """All commands with their options: names, defaults, what they take."""
    import typer

    found: dict[str, Any] = {}

    def visit(words: str, one: Any) -> None:
        found[words] = {
            param.opts[0] if param.opts[0].startswith("-") else f"argument {place}": _told(param)
            for place, param in enumerate(one.params, 1)
        }
        for name, below in getattr(one, "commands", {}).items():
            visit(f"{words} {name}", below)

    visit("apercu", typer.main.get_command(app))
    return found


def _told(param: Any) -> dict[str, Any]:
    """What an option or an argument takes, without the names that it has in Python."""
    kind, default = param.type_descriptor.annotation, param.default
    words = [one.value for one in kind] if isinstance(kind, EnumType) else []
    if get_origin(kind) is Literal:
        words = list(get_args(kind))
    kinds = [one.__name__ for one in get_args(kind) or (kind,) if isinstance(one, type)]
    return {
        "names": [*param.opts, *param.secondary_opts] if param.opts[0][0] == "-" else [],
        "default": default.value if isinstance(default, Enum) else default,
        "required": param.required,
        "several": param.multiple or param.nargs == -1,
        "flag": bool(getattr(param, "is_flag", False)),
        "takes": [] if words else kinds,
        "words": words,
        "range": [param.min, param.max],
    }


def presets() -> dict[str, Any]:
    """Every preset of every --config, and what a plan of a stress test says by itself."""
    found: dict[str, Any] = {
        verb: {name: one.model_dump(mode="json") for name, one in family.presets.items()}
        for verb, family in FAMILIES.items()
    }
    return {**found, "stress --plan": StressSettings().model_dump(mode="json")}


def test_a_generated_set_is_the_same() -> None:
    check_arrays(
        "images", {"planted": shown("planted:size=32,images=24,classes=3,difficulty=0", 2)}
    )


def test_a_classifier_answers_the_same() -> None:
    check_arrays("classifier", answered("classifier/card.json", images()))
    golden = json.loads((GOLDEN / "compare" / "results.json").read_text())["fingerprint"]
    assert open_classifier("classifier/card.json").fingerprint == golden


@pytest.mark.parametrize("name", RUNS)
def test_a_run_says_the_same(name: str) -> None:
    check_arrays(name, asked(f"runs/{name}", images()))


@pytest.mark.parametrize("name", ["mask-own", "mask-small", "counterpart", "latent"])
def test_an_explainer_is_trained_to_be_the_same(again: Callable[[str], Path], name: str) -> None:
    run = again(name)
    check_arrays(name, asked(str(run), images()), TRAINED)
    if name in RUNS:
        for file in ("config.json", "classifier.json", "facts.json", "order.json"):
            check_json(f"runs/{name}/{file}", run / file, tolerance=TRAINED)
        kept = {path.name for path in (GOLDEN / "runs" / name).iterdir()}
        assert kept <= {path.name for path in run.iterdir()}


def test_a_begun_training_goes_on(command: Command) -> None:
    code, _, error = command(*COMMANDS["begun"])
    assert code == 2 and "--resume" in error
    code, _, error = command(*COMMANDS["begun"], "--resume")
    assert code == 0, error
    check_arrays("mask-own", asked("runs/begun", images()), TRAINED)


@pytest.mark.parametrize("name", ["pretrained", "defended"])
def test_a_trained_network_answers_the_same(again: Callable[[str], Path], name: str) -> None:
    check_arrays(name, answered(f"{name}/card.json", images()))
    run = again(name)
    check_arrays(name, answered(f"{run}/card.json", images()), TRAINED)
    for file in ("config.json", "facts.json", "order.json", "card.json"):
        check_json(f"{name}/{file}", run / file, tolerance=TRAINED)


RESULTS = {
    "compare": "results.json",
    "stress": "results.json",
    "detect": "detection.json",
    "features": "features.json",
}
"""The file of results of each kind of measurement."""


@pytest.mark.parametrize("name", RESULTS)
def test_what_is_measured_is_the_same(
    again: Callable[[str], Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in memory of that version: attacks magnify how sums are rounded."""
    memory_format = "apercu.classifiers.probe.choose_memory_format"
    monkeypatch.setattr(memory_format, lambda module: torch.channels_last)
    out = again(name)
    check_json(f"{name}/{RESULTS[name]}", out / RESULTS[name], but=OF_CODE, tolerance=MEASURED)
    if name == "compare":
        check_same(scores(GOLDEN / name), scores(out), tolerance=MEASURED)


def scores(folder: Path) -> dict[str, float]:
    """What each explainer has for each metric on each image."""
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        f"{one['explainer']} {one['metric']} {one['image']}": float(one["value"]) for one in rows
    }


@pytest.mark.parametrize("name", RESULTS)
def test_what_was_measured_is_not_measured_again(command: Command, name: str) -> None:
    parts = {path.relative_to(GOLDEN) for path in (GOLDEN / name).rglob("*.*") if path.is_file()}
    if name == "detect":  # attacked images, which name what is kept, differ between processors
        code, _, error = command(*COMMANDS[name])
        assert code == 0, error
        assert {path for path in parts if len(path.parts) == 3} <= set(Path(name).glob("*/*"))
        parts = {path for path in Path(name).rglob("*.*") if path.is_file()}
    code, _, error = command(*COMMANDS[name])
    assert code == 0, error
    check_json(f"{name}/{RESULTS[name]}", Path(name, RESULTS[name]), tolerance=MEASURED)
    if name == "compare":
        golden = json.loads((GOLDEN / name / "results.json").read_text())
        now = json.loads(Path(name, "results.json").read_text())
        assert (now["cost"], now["calls"]) == (golden["cost"], golden["calls"])
    kept = {path for path in Path(name).glob("*/*") if path.suffix != ".png"}
    assert {path for path in parts if len(path.parts) == 3} == kept


@pytest.mark.parametrize("name", ["explain mask", "explain counterpart"])
def test_pictures_are_explained_the_same(again: Callable[[str], Path], name: str) -> None:
    out = again(name)
    golden = GOLDEN / out.name
    check_json(f"{out.name}/explain.json", out / "explain.json")
    files = sorted(golden.rglob("*.npy"))
    assert files
    for file in files:
        now = np.load(out / file.relative_to(golden))
        np.testing.assert_allclose(now, np.load(file), rtol=0, atol=TOLERANCE)


def test_an_export_runs_the_same() -> None:
    check_arrays("exported", run_by("exported", images().numpy()))


def test_a_finished_batch_is_finished(command: Command) -> None:
    code, said, error = command(*COMMANDS["batch"])
    assert (code, error) == (0, "")
    assert said.splitlines()[0] == "nothing was left to do"
    assert rows(Path("maps")) == rows(GOLDEN / "maps")


def test_a_batch_is_explained_the_same(again: Callable[[str], Path]) -> None:
    out = again("batch")
    now = [row | {"error": without_later_formats(row["error"])} for row in rows(out)]
    check_same(rows(GOLDEN / "maps"), now)
    check_json("maps/job.json", out / "job.json")
    errors = without_later_formats((out / "errors.csv").read_text())
    assert errors == (GOLDEN / "maps" / "errors.csv").read_text()


def without_later_formats(error: str | None) -> str | None:
    """What is said of a file that is no image, without the formats that came after 0.1.0.

    The sentence must name them, and otherwise be the same.
    """
    if error is None:
        return None
    assert error.count("not an image") == error.count(LATER_FORMATS)
    return error.replace(LATER_FORMATS, "")


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of a batch."""
    files = sorted((out / "maps").glob("*.parquet"))
    assert files
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_the_command_line_has_lost_nothing() -> None:
    golden = json.loads((GOLDEN / "cli.json").read_text())
    now = json.loads(json.dumps(command_tree(), default=str))
    assert not [line for line in differences(golden, now) if not is_widened(line)]


def is_widened(difference: str) -> bool:
    """Whether a change takes all command lines from before: what was required has a default."""
    needless = r".*/required: True is False now|.*/default: None is '.*' now"
    return re.fullmatch(needless, difference) is not None


def test_every_word_is_known(command: Command) -> None:
    golden = json.loads((GOLDEN / "names.json").read_text())
    now = words_known(command)
    lost = [f"{kind}: {name}" for kind in golden for name in golden[kind].keys() - now[kind].keys()]
    lost += [
        f"{kind}: {name}:{setting}"
        for kind in golden
        for name in golden[kind].keys() & now[kind].keys()
        for setting in set(golden[kind][name]) - set(now[kind][name])
    ]
    assert not lost


def test_presets_say_the_same() -> None:
    check_same(json.loads((GOLDEN / "presets.json").read_text()), presets())
