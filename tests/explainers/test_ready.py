"""Ready-made explainers: `ready:NAME` as a run, as a classifier, and without their extra."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import apercu
from apercu.classifiers import open_classifier, save_classifier
from apercu.classifiers.names import ClassNames
from apercu.classifiers.sources.ready import IMAGENET_NAMES, READY_WEIGHTS
from apercu.errors import ClassifierError, MissingExtraError, RunError
from apercu.evaluation.demo import explain_photographs
from apercu.explainers.ready import (
    DEFAULT_RUN,
    READY_FOLDER,
    find_default_run,
    list_photographs,
    list_ready,
    resolve_run,
    split_run,
)
from apercu.extras import is_installed
from apercu.images import open_images

needs_extra = pytest.mark.skipif(not is_installed("ready"), reason="needs apercu[ready]")
MAX_BYTES = 8_000_000


@pytest.mark.parametrize("name", READY_WEIGHTS)
def test_the_package_holds_a_small_run_and_its_card(name: str) -> None:
    folder = READY_FOLDER / name
    weights = load_file(folder / "weights.safetensors")
    assert {value.dtype for value in weights.values()} <= {torch.float32, torch.int64}
    assert not [key for key in weights if key.startswith("encoder.")]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert json.loads((folder / "encoder" / "card.json").read_text()) == {"source": f"ready:{name}"}
    card = (folder / "card.md").read_text(encoding="utf-8")
    for words in ("Trained on", "Terms", "Date", "Command", "## Quality", "cam", "## Limits"):
        assert words in card
    assert json.loads((folder / "facts.json").read_text())["looks_trained"] == 1


def test_the_names_of_the_classes_are_short_and_differ() -> None:
    names = ClassNames.read(IMAGENET_NAMES)
    assert len(names.names) == len(set(names.names)) == len(set(names.identifiers)) == 1000
    assert names.find_index("tabby") == names.find_index("n02123045") == 281
    assert names.names[134] == "crane, bird" and names.names[517] == "crane, machine"


def test_paths_that_begin_with_a_run_are_split(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    run = str(tmp_path / "run")
    assert split_run(["cat.jpg"]) == (None, ["cat.jpg"])
    assert split_run([str(tmp_path)]) == (None, [str(tmp_path)])
    assert split_run(["cat.JPG", "photos"]) == (None, ["cat.JPG", "photos"])
    (tmp_path / "scan.tif").touch()
    pages = [f"{tmp_path}/scan.tif#1", f"{tmp_path}/scan.tif#2"]
    assert split_run(pages) == (None, pages)
    assert split_run([run, "cat.jpg"]) == (Path(run), ["cat.jpg"])
    assert split_run(["no/such", "cat.jpg"]) == (Path("no/such"), ["cat.jpg"])
    assert split_run(["a.parquet", "b.npz"]) == (None, ["a.parquet", "b.npz"])
    with pytest.raises(RunError, match="no image is named"):
        split_run([])
    for alone in (run, DEFAULT_RUN):
        with pytest.raises(RunError, match="name images after it"):
            split_run([alone])


def test_a_folder_of_pictures_may_stand_first(tmp_path: Path) -> None:
    for name in ("photos/cats/cat.JPG", "tables/0.parquet", "run/samples/0.png", "notes/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "run" / "order.json").write_text("{}")  # of a training that was interrupted
    for name, is_run in {"photos": False, "tables": False, "run": True, "notes": True}.items():
        paths = [str(tmp_path / name), "cat.jpg"]
        assert split_run(paths) == ((Path(paths[0]), paths[1:]) if is_run else (None, paths))


def test_an_unknown_name_lists_what_there_is() -> None:
    line = "ready:efficientnet_lite: no ready-made explainer or classifier, expected ready:effi"
    for act in (resolve_run, open_classifier):
        with pytest.raises(ClassifierError, match=line):
            act("ready:efficientnet_lite")


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apercu.extras.find_spec", lambda name: None)
    for act in (resolve_run, open_classifier, apercu.load_explainer):
        with pytest.raises(MissingExtraError, match=r"pip install 'apercu\[ready\]'"):
            act(DEFAULT_RUN)
    with pytest.raises(MissingExtraError, match="explain: no RUN is given"):
        find_default_run("explain")
    assert [one.is_installed for one in list_ready()] == [False] * len(READY_WEIGHTS)


def test_other_weights_in_the_package_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = READY_WEIGHTS["efficientnet_lite0"]
    package = tmp_path / weights.package
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('code of the package ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ClassifierError, match="cannot be read"):
        open_classifier(DEFAULT_RUN)
    torch.save({"a": torch.ones(1)}, package / weights.file)
    with pytest.raises(ClassifierError, match="another SHA-256"):
        open_classifier(DEFAULT_RUN)


@needs_extra
def test_a_card_may_not_change_weights_or_options(tmp_path: Path) -> None:
    for extra in ({"options": {"drop_rate": 0.1}}, {"weights": "w.safetensors"}):
        card = tmp_path / "card.json"
        card.write_text(json.dumps({"source": DEFAULT_RUN, **extra}))
        with pytest.raises(ClassifierError, match="leave `weights` and `options` out"):
            open_classifier(card)


@needs_extra
def test_it_explains_a_photograph_with_nothing_else_said() -> None:
    cat = list_photographs()[0]
    explainer = apercu.load_explainer(DEFAULT_RUN)
    explanation = explainer.explain(cat)
    assert explanation.predicted.name == "Egyptian cat"
    mask = explanation.mask
    assert 0.02 < float(mask.mean()) < 0.6 and float(mask.max()) > 0.8
    other = explainer.explain(cat, "espresso").mask
    assert float(other.mean()) < float(mask.mean()) / 2  # there is none


@needs_extra
def test_the_classifier_is_timms_and_is_saved_as_such(tmp_path: Path) -> None:
    classifier = open_classifier(DEFAULT_RUN)
    explainer = apercu.load_explainer(DEFAULT_RUN)
    explainer.classifier_info.check_classifier(classifier)
    image = classifier.prepare(open_images(list_photographs()[0])[0].picture)[None]
    probabilities = classifier(image).softmax(1)[0]
    assert classifier.classes[int(probabilities.argmax())] == "Egyptian cat"
    again = open_classifier(save_classifier(classifier, tmp_path / "saved"))
    torch.testing.assert_close(again(image), classifier(image))
    assert again.fingerprint == classifier.fingerprint


def test_photographs_are_small_and_their_sources_are_named() -> None:
    text = (list_photographs()[0].parent / "README.md").read_text(encoding="utf-8")
    for path in list_photographs():
        with Image.open(path) as picture:
            assert picture.mode == "RGB" and max(picture.size) <= 448
        assert f"`{path.name}`" in text and path.stat().st_size < 60_000


@needs_extra
def test_the_demo_begins_with_real_photographs(tmp_path: Path) -> None:
    images = explain_photographs(tmp_path)
    assert [image.name for image in images] == [
        "cat.jpg",
        "coffee.jpg",
        "coffee.jpg",
        "camera.jpg",
        "rocket.jpg",
        "astronaut.jpg",
    ]
    assert [image.caption for image in images[:3]] == [
        "Egyptian cat, 82%",
        "espresso, 80%",
        "cup, 4%",
    ]
    assert len(list(tmp_path.glob("*.png"))) == 3 * len(images)
    assert all(set(image.views) == {"evidence", "kept", "removed"} for image in images)
