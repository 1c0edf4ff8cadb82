from __future__ import annotations

import json
from importlib import import_module
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apercu import MaskExplainer, read_picture
from apercu.classifiers import InputSpec
from apercu.errors import OutputError
from apercu.explain import (
    ExplainOptions,
    ExplainRun,
    MaskExplanation,
    NamedClass,
    StoredImage,
    select_images,
)
from apercu.explain.files import SHEET_SIZE
from apercu.log import redirect_warnings

SPEC = InputSpec(size=(32, 32))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "cat.png"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _read(folder: Path) -> dict:
    return json.loads((folder / "explain.json").read_text())


def test_one_image_gives_the_promised_files(apercu, tiny_run, photo, tmp_path) -> None:
    out = tmp_path / "maps"
    result = apercu("explain", tiny_run, photo, "--target", "dots", "--out", out, "--device", "cpu")
    assert (result.code, result.err.count("\n")) == (0, 1)
    assert result.err.startswith(f"warning: {tiny_run}: does not look trained")
    record = _read(out)
    (image,) = record["images"]
    (answer,) = image["answers"]
    assert (image["image"], image["width"], image["height"]) == ("cat.png", 60, 40)
    assert (answer["target"], answer["class"], record["map_size"]) == (1, "dots", [32, 32])
    written = {path.name for path in out.iterdir()} - {"explain.json"}
    assert written == set(answer["files"].values())
    assert {"cat.map.npy", "cat.overlay.png", "cat.mask.png", "cat.removed.png"} <= written
    explainer = MaskExplainer.from_pretrained(tiny_run)
    expected = explainer.attribute(explainer.prepare(read_picture(photo))[None], "dots")[0]
    stored = np.load(out / "cat.map.npy")
    np.testing.assert_allclose(stored, expected.numpy(), atol=1e-6)
    assert answer["area"] == pytest.approx(stored.mean(), abs=1e-6)


def test_top_is_what_the_explainer_or_the_classifier_predicts(
    apercu, tiny_run, tiny_card, photo, tmp_path
) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    images = explainer.prepare(read_picture(photo))[None]
    apercu("explain", tiny_run, photo, "--out", tmp_path / "own")
    own = _read(tmp_path / "own")["images"][0]["answers"][0]["target"]
    assert own == int(explainer.predict(images))
    from apercu import open_classifier

    result = apercu(
        "explain", tiny_run, photo, "--classifier", tiny_card, "--out", tmp_path / "its"
    )
    assert result.code == 0
    its = _read(tmp_path / "its")["images"][0]["answers"][0]["target"]
    assert its == int(open_classifier(tiny_card)(images).argmax())


def test_all_shows_every_class_once_or_the_top_ones(apercu, tiny_run, photo, tmp_path) -> None:
    apercu("explain", tiny_run, photo, "--target", "all", "--out", tmp_path / "a")
    targets = _read(tmp_path / "a")["images"][0]["answers"]
    assert sorted(answer["target"] for answer in targets) == [0, 1, 2]
    assert (tmp_path / "a" / "cat.0-stripes.mask.png").is_file()
    assert _read(tmp_path / "a")["sheets"] == ["sheet.png"]
    apercu("explain", tiny_run, photo, "--target", "all", "--top", "2", "--out", tmp_path / "b")
    two = _read(tmp_path / "b")["images"][0]["answers"]
    assert [a["target"] for a in two] == [a["target"] for a in targets][:2]


def test_another_classifier_is_refused(apercu, tiny_run, photo, tmp_path) -> None:
    card = tmp_path / "other.json"
    card.write_text(
        json.dumps(
            {
                "source": "apercu.classifiers.small_resnet:SmallResNet",
                "options": {"channels": 3, "classes": 3, "size": [32, 32], "width": 4},
                "input": {"size": [32, 32]},
            }
        )
    )
    result = apercu("explain", tiny_run, photo, "--classifier", card, "--out", tmp_path / "o")
    assert result.code == 2
    assert "was trained for" in result.err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--target", "dotts"], "target: no class is called 'dotts'; did you mean dots?"),
        (["--target", "7"], "target: expected a class index from 0 to 2, got 7"),
        (["--level", "1"], "level: expected a number above 0 and below 1, got 1.0"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    apercu, tiny_run, photo, tmp_path, words: list[str], line: str
) -> None:
    result = apercu("explain", tiny_run, photo, *words, "--out", tmp_path / "o")
    assert (result.code, result.err) == (2, f"error: {line}\n")
    assert not (tmp_path / "o").exists()


def test_a_folder_that_is_no_run(apercu, photo, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    result = apercu("explain", tmp_path / "empty", photo, "--out", tmp_path / "o")
    assert result.code == 2
    assert "expected a run folder" in result.err


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is opened before the files are looked for fails the test."""

    def fail(*args: object, **options: object) -> None:
        pytest.fail("something was loaded before the files were looked for")

    for module in map(
        import_module,
        (
            *("apercu.explainers.run_folder", "apercu.explainers.train", "apercu.classifiers"),
            *("apercu.evaluation.compare", "apercu.evaluation.open_explainers"),
            *("apercu.deploy.inference.open_engine", "apercu.deploy.export.export_run"),
        ),
    ):
        for name in {"load_explainer", "load_run", "open_classifier"} & set(vars(module)):
            monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "RUN", "no.jpg"],
        ["explain", "RUN", "no.jpg", "--classifier", "timm/resnet18"],
        ["batch", "RUN", "no.jpg"],
        ["export", "RUN", "--images", "no.jpg"],
        ["export", "RUN", "--calibrate", "no.jpg", "--precision", "int8-static"],
        ["compare", "--classifier", "timm/resnet18", "--images", "no.jpg"],
        ["train", "mask", "--classifier", "timm/resnet18", "--images", "no.jpg"],
        ["stress", "--classifier", "timm/resnet18", "--images", "no.jpg"],
        ["stress", "detect", "--classifier", "timm/resnet18", "--images", "no.jpg"],
        ["stress", "train", "--classifier", "timm/resnet18", "--images", "no.jpg"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_misspelt_file_is_refused_before_anything_is_loaded(
    apercu, tiny_run, tmp_path, nothing_loads, words: list[str]
) -> None:
    named = [str(tiny_run) if word == "RUN" else word for word in words]
    result = apercu(*named, "--out", tmp_path / "o")
    assert (result.code, result.err) == (2, "error: no.jpg: no such file or folder of images\n")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("run", ["explain", "batch", "export", "compare"])
def test_a_misspelt_run_is_refused_before_anything_is_loaded(
    apercu, photo, tmp_path, nothing_loads, run: str
) -> None:
    words = {
        "explain": ["runs/no", photo, "--classifier", "timm/resnet18"],
        "batch": ["runs/no", photo, "--classifier", "timm/resnet18"],
        "export": ["runs/no", "--classifier", "timm/resnet18"],
        "compare": ["--classifier", "timm/resnet18", "--images", photo, "--explainer", "runs/no"],
    }
    result = apercu(run, *words[run], "--out", tmp_path / "o")
    assert result.code == 2
    assert result.err.startswith("error: runs/no: expected a run folder, found no config.json")


def test_a_misspelt_video_is_refused_before_anything_is_loaded(
    apercu, tiny_run, tmp_path, nothing_loads
) -> None:
    pytest.importorskip("av")
    result = apercu("video", tiny_run, "no.mp4", tmp_path / "o.mp4")
    assert (result.code, result.err) == (2, "error: no.mp4: no such file, camera or address\n")


def test_a_single_image_is_refused_before_anything_is_loaded(
    apercu, tiny_run, tmp_path, nothing_loads
) -> None:
    Image.new("L", (12_000, 9_000)).save(tmp_path / "huge.png")
    result = apercu("explain", tiny_run, tmp_path / "huge.png", "--out", tmp_path / "o")
    assert result.code == 2
    assert result.err.startswith(f"error: {tmp_path / 'huge.png'}: too large, expected at most")


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_an_animation_says_once_that_its_first_frame_is_explained(
    apercu, tiny_run, tmp_path, form: str
) -> None:
    path = tmp_path / f"moving.{form.lower()}"
    first, second = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")
    first.save(path, form, save_all=True, append_images=[second])
    first.save(tmp_path / f"still.{form.lower()}", form)
    line = f"moving.{form.lower()}: this picture moves; its first frame is explained"
    result = apercu("explain", tiny_run, path, path.parent, "--out", tmp_path / "o")
    assert [each for each in result.err.splitlines() if "moves" in each] == [
        f"warning: {line}",
        f"warning: {line}",  # named by itself, and in its folder
    ]
    lines: list[str] = []
    with redirect_warnings(lines.append):
        MaskExplainer.from_pretrained(tiny_run).explain(path)
    assert lines == [line]
    result = apercu("explain", tiny_run, path, "--out", tmp_path / "o")
    assert result.err.count("moves") == 1


def test_a_second_picture_of_a_photograph_is_no_animation(apercu, tiny_run, tmp_path) -> None:
    path = tmp_path / "phone.jpg"
    first, second = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (20, 15), "blue")
    first.save(path, "MPO", save_all=True, append_images=[second])
    result = apercu("explain", tiny_run, path, "--out", tmp_path / "o")
    assert result.code == 0
    assert "moves" not in result.err


def test_an_animation_whose_second_frame_is_damaged_is_explained(tmp_path) -> None:
    frames = [Image.effect_noise((64, 64), 60 + 9 * index) for index in range(2)]
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    content = buffer.getvalue()
    whole = read_picture(content)
    for cut in (len(content) - 200, len(content) // 2 + 300):
        torch.testing.assert_close(read_picture(content[:cut]), whole)


@pytest.mark.parametrize(
    ("strongest", "level", "end"),
    [
        (0.9, 0.5, ""),
        (0.31, 0.5, "Little here speaks for dots: the strongest evidence is 0.31, of at most 1."),
        (0.02, 0.5, "Nothing here speaks for dots: the strongest evidence is 0.02, of at most 1."),
        (0.7, 0.8, "No region reaches the level: the strongest evidence is 0.70."),
    ],
)
def test_the_line_tells_the_doubt(strongest: float, level: float, end: str) -> None:
    stored = StoredImage(torch.zeros(3, 8, 8), "grey.png")
    mask = torch.full((8, 8), strongest)
    explanation = MaskExplanation(stored, NamedClass(1, "dots"), mask=mask, level=level)
    assert explanation.line == (f"grey.png: dots. {end}" if end else "grey.png: dots")
    assert (explanation.box is None) == bool(end)


def test_one_unreadable_image_is_an_error(apercu, tiny_run, tmp_path) -> None:
    (tmp_path / "no.png").write_text("no image")
    result = apercu("explain", tiny_run, tmp_path / "no.png", "--out", tmp_path / "o")
    assert result.code == 2
    assert result.err.startswith(f"error: {tmp_path / 'no.png'}: not an image")


def test_unreadable_images_of_a_folder_are_reported_and_left_out(
    apercu, tiny_run, photo, tmp_path
) -> None:
    (photo.parent / "bad.png").write_text("no image")
    (photo.parent / "worse.jpg").write_bytes(b"")
    result = apercu("explain", tiny_run, photo.parent, "--out", tmp_path / "o")
    assert result.code == 2
    warnings, error = result.err.splitlines()[:-1], result.err.splitlines()[-1]
    assert [line.split(":")[0] for line in warnings] == ["warning", "warning"]
    said_last = "error: 2 of 3 images could not be explained; the others are in "
    assert error == f"{said_last}{tmp_path / 'o'}"
    assert [image["image"] for image in _read(tmp_path / "o")["images"]] == ["cat.png"]


def test_where_no_image_can_be_explained_no_others_are_named(
    apercu, tiny_run, photo, tmp_path
) -> None:
    for name in ("cat.png", "bad.png"):
        (photo.parent / name).write_text("no image")
    result = apercu("explain", tiny_run, photo.parent, "--out", tmp_path / "o")
    assert result.code == 2
    assert result.err.splitlines()[-1] == "error: none of the 2 images could be explained"


def test_control_characters_in_names_are_printed_as_escapes(
    apercu, tiny_run, photo, tmp_path
) -> None:
    name = "a\nb\x1b[31m\u202e.png"
    photo.rename(photo.with_name(name))
    photo.with_name("bad\x1b\r.png").write_text("no image")
    result = apercu("explain", tiny_run, photo.parent, "--out", tmp_path / "o")
    assert result.out.splitlines()[0].startswith(r"a\nb\x1b[31m\u202e.png: ")
    assert r"bad\x1b\r.png: not an image" in result.err.splitlines()[0]
    assert not set("\x1b\r\u202e") & set(result.out + result.err)
    alone = apercu("explain", tiny_run, photo.with_name("bad\x1b\r.png"), "--out", tmp_path / "o")
    assert alone.err.startswith("error: ") and r"bad\x1b" in alone.err and "\x1b" not in alone.err


def test_a_class_called_top_is_told_only_to_who_types_top(
    apercu, tiny_run, photo, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("apercu.classifiers.names.ClassNames.find_by_name", lambda *words: [1])
    words = "explain", tiny_run, photo, "--out", tmp_path / "o"
    assert "has a meaning of its own" not in apercu(*words).err
    assert "top has a meaning of its own" in apercu(*words, "--target", "top").err


def test_images_of_one_name_do_not_overwrite_each_other(apercu, tiny_run, photo, tmp_path) -> None:
    other = tmp_path / "others" / "CAT.png"
    other.parent.mkdir()
    other.write_bytes(photo.read_bytes())
    (photo.parent / "cat-2.png").write_bytes(photo.read_bytes())
    result = apercu("explain", tiny_run, photo, other, photo.parent, "--out", tmp_path / "o")
    assert result.code == 0
    maps = [image["answers"][0]["files"]["map"] for image in _read(tmp_path / "o")["images"]]
    assert maps == ["cat.map.npy", "CAT-2.map.npy", "cat-2-2.map.npy", "cat-3.map.npy"]
    assert len({name.casefold() for name in maps}) == 4


def test_random_images_are_a_seeded_choice(tmp_path: Path) -> None:
    spec = "planted:size=32,images=30"
    first = [ref.index for ref in select_images([spec], SPEC, 6, seed=1)]
    assert (
        first == [ref.index for ref in select_images([spec], SPEC, 6, seed=1)] == sorted(set(first))
    )
    assert first != [ref.index for ref in select_images([spec], SPEC, 6, seed=2)]
    assert len(select_images([spec], SPEC, 100)) == 30


def test_sheets_have_pages(tiny_run, tmp_path: Path) -> None:
    run = ExplainRun(MaskExplainer.from_pretrained(tiny_run), ExplainOptions())
    refs = select_images([f"planted:size=32,images={SHEET_SIZE + 1}"], SPEC)
    run.write(refs, tmp_path, lambda done, total: None, print)
    assert _read(tmp_path)["sheets"] == ["sheet-001.png", "sheet-002.png"]
    heights = [read_picture(tmp_path / name).shape[1] for name in _read(tmp_path)["sheets"]]
    assert heights[0] > 10 * heights[1]


def test_what_is_finished_is_kept_when_it_ends_early(tiny_run, tmp_path: Path) -> None:
    run = ExplainRun(MaskExplainer.from_pretrained(tiny_run), ExplainOptions())

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.write(select_images(["planted:size=32,images=5"], SPEC), tmp_path, stop, print)
    assert len(_read(tmp_path)["images"]) == 2
    assert (tmp_path / "sheet.png").is_file()


def test_a_full_disk_is_one_line(apercu, tiny_run, photo, tmp_path, monkeypatch) -> None:
    def full(path: Path, content: bytes | str) -> Path:
        raise OutputError(f"{path}: cannot be written (No space left on device); free some space")

    monkeypatch.setattr("apercu.render.write_file", full)
    result = apercu("explain", tiny_run, photo, "--out", tmp_path / "o")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "No space left on device" in result.err


def test_the_box_is_in_pixels_of_the_stored_picture() -> None:
    mask = torch.zeros(4, 4)
    mask[1, 2] = 0.9
    stored = StoredImage(torch.rand(3, 8, 20))
    explanation = MaskExplanation(stored, NamedClass(0, "a"), mask, 0.5)
    assert explanation.box == (10, 2, 15, 4)
    assert explanation.draw_views()["crop"].size == (5, 2)
    empty = MaskExplanation(stored, NamedClass(0, "a"), mask, 0.95)
    assert empty.box is None and empty.crop() is None
    assert "crop" not in empty.draw_views()


def test_the_file_name_of_a_class_is_plain() -> None:
    assert NamedClass(7, "Crème / brûlée, dessert").slug == "7-crème-brûlée"
