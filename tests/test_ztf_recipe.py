"""The recipe on survey alerts: objects on one side only, classes as stated, cards that open."""

from __future__ import annotations

import csv
import importlib.util
import math
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from apercu import open_classifier
from apercu.classifiers import ClassifierCard, InputSpec, read_card, write_card
from apercu.cli import main
from apercu.images.stretch import Stretch
from apercu.pretraining.settings import PRETEXTS

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def _recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ztf_{name}", RECIPES / "ztf" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_object_is_on_both_sides(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    objects = [f"ZTF{number // 3}" for number in range(60)]
    table = {
        "candid": list(range(60)),
        "objectId": objects,
        "rb": [0.9, 0.1, -999.0] * 20,
        "sgscore1": [0.9, 0.5, 0.1] * 20,
        "is_asteroid": [True, False, False] * 20,
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "alerts.parquet")
    stamps = draw.standard_normal((60, 3, 8, 8)).astype("f2")
    np.savez(tmp_path / "alerts.npz", stamps=stamps, candid=np.arange(60))
    _recipe("prepare").main(tmp_path, tmp_path / "out")
    learn, test = (
        np.load(tmp_path / "out" / f"{name}.npz")["candid"] for name in ("learn", "test")
    )
    assert len(learn) == 45 and len(test) == 15
    assert not {objects[i] for i in learn} & {objects[i] for i in test}
    assert sorted([*learn, *test]) == list(range(60))
    with (tmp_path / "out" / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    result = [(row["real"], row["star"], row["asteroid"]) for row in rows[:3]]
    assert result == [("real", "star", "asteroid"), ("bogus", "", "other"), ("", "galaxy", "other")]


def test_the_share_of_flux_on_the_strongest_tenth() -> None:
    measure = _recipe("measure")
    light = torch.zeros(2, 10, 10)
    light[:, 4, :] = 1
    on, beside = torch.zeros(10, 10), torch.zeros(10, 10)
    on[4], beside[4, :5], beside[0, :5] = 1, 1, 1
    assert measure.measure_on_flux(torch.stack([on, beside]), light).tolist() == pytest.approx(
        [1, 0.5]
    )
    assert math.isnan(measure.measure_on_flux(on[None], torch.zeros(1, 10, 10)).item())


def test_flux_is_what_stands_out_of_the_noise_of_the_difference() -> None:
    picture = 5 * torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(0)) + 200
    picture[2, 20, 20], picture[2, 5, 5], picture[0, 1, 1] = 500, -100, 9000
    result = _recipe("measure").measure_flux(picture)
    assert result[20, 20].item() == pytest.approx(300, abs=2)
    assert result[5, 5].item() == pytest.approx(300, abs=2)
    assert result[1, 1] == 0
    assert (result > 0).float().mean() < 0.05


def test_imagenet_features_get_the_stretch_of_stamps(tiny_card: Path, tmp_path: Path) -> None:
    stretch = Stretch(low=(-1.0,) * 3, high=(9.0,) * 3, noise=(1.0,) * 3)
    models, out = tmp_path / "models", tmp_path / "run" / "imagenet.json"
    shutil.copytree(tiny_card.parent, models)
    out.parent.mkdir()
    (models / "classes.txt").write_text("stripes\ndots\nrings\n")
    (out.parent / "weights.safetensors").write_bytes(b"of another classifier")
    card = read_card(models / "card.json").model_copy(update={"classes": "classes.txt"})
    write_card(card.model_copy(update={"weights": "weights.safetensors"}), models / "card.json")
    other = ClassifierCard(source="timm/y", input=InputSpec(size=(63, 63), stretch=stretch))
    write_card(_recipe("imagenet").join_cards(read_card(models / "card.json"), other, out), out)
    shutil.rmtree(models)
    classifier, expected = open_classifier(out), open_classifier(tiny_card)
    card = read_card(out)
    assert card.input is not None and card.input.stretch == stretch
    assert classifier.size == expected.size
    assert classifier.classes == ("stripes", "dots", "rings")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(classifier(images), expected(images))
    assert (out.parent / "weights.safetensors").read_bytes() == b"of another classifier"


def test_braai_says_the_same_behind_its_stretch(apercu_data: Path, tmp_path: Path) -> None:
    braai = apercu_data / "models" / "braai_ztf.pt2.json"
    stamps = np.load(apercu_data / "data" / "ztf" / "alerts.npz")
    np.savez(tmp_path / "some.npz", stamps=stamps["stamps"][:40], candid=stamps["candid"][:40])
    recipe = _recipe("braai")
    out = tmp_path / "braai.json"
    card = recipe.add_stretch(recipe.read_card(braai), str(tmp_path / "some.npz"), out)
    recipe.write_card(card, out)
    plain, behind = open_classifier(braai), open_classifier(tmp_path / "braai.json")
    source = recipe.open_images(tmp_path / "some.npz", channels=3)
    for item in source:
        result = [
            one.predict_probabilities(one.prepare(item.picture)[None]) for one in (plain, behind)
        ]
        torch.testing.assert_close(result[1], result[0], atol=0.02, rtol=0)


STUDIES = sorted(
    path.relative_to(RECIPES).as_posix()
    for path in RECIPES.rglob("*.sh")
    if re.search(r"for (?:study|name) in \$\{\*", path.read_text(encoding="utf-8"))
)
"""Scripts that take the names of studies."""


@pytest.mark.parametrize("script", STUDIES)
def test_an_unknown_study_is_refused_before_any_study_begins(script: str) -> None:
    text = (RECIPES / script).read_text(encoding="utf-8")
    (names,) = re.findall(r'^studies="(.+)"$', text, re.MULTILINE)
    command = [RECIPES / script, *names.split(), "nonsense"]
    result = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=20)
    message = f"error: nonsense: no such study; choose from {names}\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", message)


@pytest.mark.parametrize("script", STUDIES)
def test_every_study_has_its_branch(script: str) -> None:
    text = (RECIPES / script).read_text(encoding="utf-8")
    (names,) = re.findall(r'^studies="(.+)"$', text, re.MULTILINE)
    branches = re.findall(r"^    (\w+)\)", text, re.MULTILINE)
    assert branches in (names.split(), [])


@pytest.mark.parametrize("pretext", PRETEXTS.presets)
def test_the_larger_setting_takes_its_first_steps(pretext: str, tmp_path: Path, capsys) -> None:
    """Of the file all but the number of steps and of images per step."""
    stamps = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(tmp_path / "stamps.npz", stamps=stamps)
    command = ["pretrain", pretext, "--images", tmp_path / "stamps.npz", "--out", tmp_path / "run"]
    command += ["--config", RECIPES / "pretraining" / "large.yaml", "--steps", "2", "--batch", "4"]
    with pytest.raises(SystemExit, match="0"):
        main([str(word) for word in [*command, "--backbone", "timm/test_resnet"]])
    assert "2 steps" in capsys.readouterr().out
