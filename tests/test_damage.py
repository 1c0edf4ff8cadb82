"""Damaged files of every kind are told within the error tree, in one line, or read as they are."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import apercu_runtime
from apercu import open_classifier, open_images
from apercu.deploy.batch.manifest import read_finished
from apercu.deploy.export import read_manifest
from apercu.errors import ApercuError, ClassifierError, ConfigError, ImagesError, RunError
from apercu.evaluation.report.tables import format_csv, format_markdown
from apercu.evaluation.results import ComparisonResults
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.run_folder import load_explainer
from apercu.images.catalogue import read_catalogue
from apercu.io import HASHES
from apercu.pretraining.evaluate import _read_rows
from apercu.robustness.plan import read_stress_settings
from apercu_runtime import errors as runtime_errors

GOLDEN = Path(__file__).parent / "golden"
REPLACEMENTS: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1e300, float("nan"), "", "x", "../x", "\0", [], {}, [[]]),
    *({"x": 1}, ["x", 1], [None], "x" * 5000),
)
"""What stands in the place of a value of a JSON file."""


def list_paths(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where each value of a JSON tree stands."""
    yield path
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from list_paths(value, (*path, key))


def replace_value(tree: Any, path: tuple[Any, ...], value: Any, *, drop: bool = False) -> Any:
    """Return a copy of a JSON tree with another value in one place, or without it."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if drop and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = replace_value(copy[path[0]], path[1:], value, drop=drop)
    return copy


def damage_json(content: bytes) -> Iterator[bytes]:
    """Yield variants of a JSON file, of which other values and missing keys are the most."""
    tree = json.loads(content)
    for path in list_paths(tree):
        for value in REPLACEMENTS:
            yield json.dumps(replace_value(tree, path, value)).encode()
        if path:
            yield json.dumps(replace_value(tree, path, None, drop=True)).encode()
    yield from (b"[" * 10**5, b"[" * 10**5 + b"]" * 10**5, b'{"a":' * 10**5, b"1" * 10**5)
    yield from damage_bytes(content)


def damage_bytes(content: bytes) -> Iterator[bytes]:
    """Yield variants of any file: cut, with other bytes, with other bytes in the middle."""
    draw = random.Random(0)
    yield from (b"", b"\0", b"\xff\xfe\xff", b"\xef\xbb\xbf" + content, content + b"\0")
    for part in range(1, 16):
        yield content[: len(content) * part // 16]
    for _ in range(60):
        copy = bytearray(content)
        for _ in range(draw.choice((1, 1, 4, 32))):
            copy[draw.randrange(len(copy))] = draw.randrange(256)
        yield bytes(copy)
    for _ in range(20):
        start = draw.randrange(len(content))
        yield content[:start] + content[start + draw.randrange(1, 9) :]


@dataclass(frozen=True)
class Kind:
    """A kind of file: one that is intact, how it is damaged, and what reads it."""

    file: str
    read: Callable[[Path], object]
    damage: Callable[[bytes], Iterator[bytes]] = damage_json
    errors: tuple[type[Exception], ...] = (ApercuError,)
    count: int = 20
    """How many variants are tried where time matters."""


def read_results(folder: Path) -> None:
    """Read results, and all that a comparison and a report do with them."""
    results = ComparisonResults.load(folder)
    results.select(results.explainers)
    results.rename({"new": next(iter(results.explainers.values()), "")})
    results.table()
    format_markdown(results)
    format_csv(results)
    json.dumps(results.to_json())


def read_run(folder: Path) -> None:
    load_explainer(folder)


def read_exported(folder: Path) -> None:
    apercu_runtime.load_explainer(folder, threads=1)


KINDS = {
    "results": Kind("compare/results.json", read_results, count=5),
    "scores": Kind("compare/scores.csv", read_results, damage_bytes, count=5),
    "card": Kind("classifier/card.json", lambda folder: open_classifier(folder / "card.json")),
    "weights of a card": Kind(
        "classifier/weights.safetensors",
        lambda folder: open_classifier(folder / "card.json"),
        damage_bytes,
    ),
    "settings of a run": Kind("runs/mask-own/config.json", read_run),
    "classifier of a run": Kind("runs/mask-own/classifier.json", read_run),
    "facts of a run": Kind("runs/mask-own/facts.json", read_run),
    "weights of a run": Kind("runs/mask-own/weights.safetensors", read_run, damage_bytes),
    "manifest": Kind("exported/explainer.json", read_manifest),
    "manifest of the runtime": Kind(
        "exported/explainer.json", read_exported, errors=(runtime_errors.ApercuError,)
    ),
    "features": Kind("features/features.json", lambda folder: _read_rows(folder / "features.json")),
}


@pytest.mark.parametrize("name", KINDS)
def test_damage_stays_in_the_error_tree(name: str, tmp_path: Path) -> None:
    _try_damage(name, tmp_path, KINDS[name].count)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_damage_stays_in_the_error_tree(name: str, tmp_path: Path) -> None:
    _try_damage(name, tmp_path, None)


def _try_damage(name: str, tmp_path: Path, count: int | None) -> None:
    kind = KINDS[name]
    folder = tmp_path / "folder"
    shutil.copytree((GOLDEN / kind.file).parent, folder)
    path = folder / Path(kind.file).name
    content = path.read_bytes()
    kind.read(folder)  # it is intact
    variants = list(kind.damage(content))
    if count is not None and len(variants) > count:
        variants = random.Random(1).sample(variants, count)
    refused = 0
    for variant in variants:
        path.write_bytes(variant)
        try:
            kind.read(folder)
        except kind.errors as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            refused += 1
    assert refused


YAML = (
    "[" * 3000,
    "{a: " * 3000,
    "a: &a [1]\nb: *c",
    "a: &a [*a]",
    "schedule: &a {steps: *a}",
    "a: !!int ''",
    "a: !!timestamp x",
    "a: !!bool x",
    "a: !!float ''",
    "a: !!python/object/apply:os.getcwd []",
    "a: 2001-99-99",
    "? [1]\n: 2",
    "schedule: {rate: .inf}",
    "schedule: {rate: .nan}",
    "schedule: {steps: 1e999}",
    "decoder: {blocks: 1000000}",
    "decoder: {width: 1000000}",
    "side: 1000000",
    "preset: [1]",
    "1: 2",
    "schedule: 3",
    "schedule: {1: 2}",
    "schedule: {? [a] : 1}",
    "\0",
    "a: '",
    "x" * 200_000,
    "- a",
    "",
    "a: " + "1" * 5000,
    "attacks: [[pgd]]\nfilters: 3",
)


@pytest.mark.parametrize("text", YAML, ids=range(len(YAML)))
def test_damaged_settings_are_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    for read in (MASK_PRESETS.read, lambda path: read_stress_settings(path, {})):
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 5000


def test_settings_that_become_large_are_told(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="expected up to 100000 values"):
        MASK_PRESETS.read(path)


TABLES = (
    b"",
    b"\0\0",
    b"\xff\xfe\xff",
    b"file,class\n",
    b"file,class\n\0,a\n",
    b"file,class\n" + b"x" * 200_000 + b",a\n",
    b'file,class\n"a.png,a\n',
    b"file,class_index\na.png,\xc2\xb2\n",
    b"file,class_index\na.png," + b"9" * 5000 + b"\n",
    b"file,class\na.png\x00.png,a\n",
    b"file,class\n" + b"d/" * 3000 + b"a.png,a\n",
    b"file\r\ra.png\r",
)


@pytest.mark.parametrize("content", TABLES, ids=range(len(TABLES)))
def test_damaged_tables_are_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(ImagesError) as caught:
        open_images(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "labels.csv").rename(tmp_path / "catalogue.csv")
    try:
        read_catalogue(tmp_path / "catalogue.csv")
    except ImagesError as error:
        assert "\n" not in str(error)


def write_catalogue(path: Path) -> bytes:
    """Write a small catalogue in the format that its suffix names, and return its bytes."""
    import pyarrow as pa
    from astropy.table import Table
    from pyarrow import parquet

    columns = {"id": ["a", "b"], "ra": [1.5, 2.5], "count": [3, 4]}
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".fits":
        Table(columns).write(path)
    elif path.suffix == ".cat":
        path.write_text("# 1 id\n# 2 ra (degrees)\n# 3 count\na 1.5 3\nb 2.5 4\n")
    else:
        path.write_text("id,ra,count\na,1.5,3\nb,2.5,4\n")
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".fits", ".cat"])
def test_a_damaged_catalogue_stays_in_the_error_tree(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"table{suffix}"
    content = write_catalogue(path)
    assert set(read_catalogue(path).columns) == {"id", "ra", "count"}
    refused = 0
    for variant in damage_bytes(content):
        path.write_bytes(variant)
        try:
            read_catalogue(path)
        except ImagesError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused


@pytest.mark.parametrize("way", ["above", "absolute", "link", "folder"])
def test_labels_stay_in_their_folder(way: str, tmp_path: Path) -> None:
    from PIL import Image

    secret = tmp_path / "secret" / "a.png"
    secret.parent.mkdir()
    Image.new("RGB", (8, 8)).save(secret)
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    Image.new("RGB", (8, 8)).save(folder / "own.png")
    name = {
        "above": "../secret/a.png",
        "absolute": str(secret),
        "link": "link.png",
        "folder": "linked/a.png",
    }[way]
    (folder / "labels.csv").write_text(f"file,class\nown.png,x\n{name},y\n")
    with pytest.raises(
        ImagesError, match=rf"labels\.csv: {re.escape(name)} leads out of its folder"
    ):
        open_images(folder)
    (folder / "labels.csv").write_text("file,class\nown.png,x\n./own.png,y\n")
    assert len(open_images(folder)) == 2


def test_a_flipped_bit_in_a_file_of_a_run_is_told(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    listed = json.loads((run / HASHES).read_text())
    assert set(listed) >= {"config.json", "classifier.json", "facts.json", "weights.safetensors"}
    load_explainer(run)
    for name in listed:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        with pytest.raises(RunError, match=rf"{name}: damaged, or not the file that was saved"):
            load_explainer(run)
        (run / name).unlink()
        with pytest.raises(RunError):
            load_explainer(run)
        (run / name).write_bytes(content)
    (run / HASHES).write_text("[1")
    with pytest.raises(RunError, match=r"sha256\.json: damaged"):
        load_explainer(run)
    (run / HASHES).unlink()  # as runs of older versions
    load_explainer(run)


def test_a_flipped_bit_in_saved_weights_is_told(tiny_card: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    shutil.copytree(tiny_card.parent, folder)
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(ClassifierError, match=r"weights\.safetensors: damaged, or not the file"):
        open_classifier(folder / "card.json")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_told(number: float, tmp_path: Path) -> None:
    for kind, read in (("classifier", "card"), ("runs/mask-own", "run")):
        folder = tmp_path / kind
        shutil.copytree(GOLDEN / kind, folder)
        path = folder / "weights.safetensors"
        weights = load_file(path)
        next(w for w in weights.values() if w.is_floating_point()).view(-1)[0] = number
        save_file(weights, path)
        with pytest.raises(ApercuError, match=r"1 tensors hold NaN or infinite numbers"):
            if read == "card":
                open_classifier(folder / "card.json")
            else:
                load_explainer(folder)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_a_damaged_checkpoint_is_told_before_anything_else(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from apercu.cli import main

    run = tmp_path / "run"
    shutil.copytree(GOLDEN / "runs/begun", run)
    path = run / "checkpoints/last.ckpt"
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "cut": content[:middle],
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "other": b"x" * 100,
        }[damage]
    )
    words = ("train", "mask", "--classifier", str(GOLDEN / "classifier/card.json"), "--resume")
    with pytest.raises(SystemExit) as stop:
        main([*words, "--images", "planted:images=24,classes=3,size=32", "--out", str(run)])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == f"error: {path}: damaged; remove it to begin anew"
    assert stop.value.code == 2


def test_a_damaged_manifest_of_a_batch_is_told(tmp_path: Path) -> None:
    content = {"images": 1, "errors": 0, "bytes": 3, "shards": []}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(content))
    assert read_finished(tmp_path) == content
    refused = 0
    for variant in damage_json(json.dumps(content).encode()):
        path.write_bytes(variant)
        try:
            read_finished(tmp_path)
        except RunError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused


@pytest.mark.parametrize("place", ["a file", "below a file"])
@pytest.mark.parametrize(
    "words",
    [
        ("compare", "--classifier", "CARD", "--images", "planted"),
        ("train", "mask", "--classifier", "CARD", "--images", "planted"),
        ("pretrain", "contrastive", "--images", "planted"),
        ("explain", "RUN", "planted"),
        ("export", "RUN"),
        ("batch", "RUN", "planted"),
        ("demo",),
        ("stress", "--classifier", "CARD", "--images", "planted"),
        ("stress", "train", "--classifier", "CARD", "--images", "planted"),
        ("stress", "detect", "--classifier", "CARD", "--images", "planted"),
        ("evaluate-features", "--network", "a=CARD", "--images", "planted", "--test", "planted"),
    ],
    ids=" ".join,
)
def test_a_folder_that_is_a_file_is_told_before_anything_else(
    words: tuple[str, ...], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from apercu.cli import main

    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" if place == "a file" else tmp_path / "file" / "out"
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(out)])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "expected a folder" in line and stop.value.code == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_a_mistake_leaves_no_folder_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from apercu.cli import main

    words = ("compare", "--classifier", "timm/nothing", "--images", "planted")
    with pytest.raises(SystemExit):
        main([*words, "--out", str(tmp_path / "a" / "b")])
    assert not (tmp_path / "a").exists()
