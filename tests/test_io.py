from __future__ import annotations

import csv
import errno
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import apercu
from apercu.errors import ConfigError, ImageError, InputError, OutputError
from apercu.explainers.ready import resolve_run
from apercu.images import open_images, read_picture
from apercu.images.opening import check_images
from apercu.io import (
    check_path,
    check_writable,
    format_csv_rows,
    is_inside,
    keep_tensors,
    unescape_cell,
    write_file,
    write_map,
)
from apercu.option_strings import check_seed


def test_text_and_bytes_are_written_with_their_folders(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b.txt", "é")
    write_file(tmp_path / "a" / "c.bin", b"\x00\xff")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\xc3\xa9"
    assert (tmp_path / "a" / "c.bin").read_bytes() == b"\x00\xff"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["b.txt", "c.bin"]


def test_a_full_disk_keeps_the_old_file_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file(tmp_path / "results.json", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"results\.json: cannot be written \(No space left"):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_file_instead_of_a_folder_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_file(tmp_path / "out" / "results.json", "{}")
    assert "\n" not in str(caught.value)


def test_a_file_instead_of_the_folder_is_refused_before_long_work(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    for folder in (tmp_path / "out", tmp_path / "out" / "deeper"):
        words = f"{folder}: expected a folder, but {tmp_path / 'out'} is a file; choose another"
        with pytest.raises(OutputError) as caught:
            check_writable(folder)
        assert str(caught.value) == words
    check_writable(tmp_path / "new" / "deeper")
    assert not (tmp_path / "new").exists()


def test_a_map_comes_back_as_it_was(tmp_path: Path) -> None:
    given = torch.rand(3, 5)
    write_map(tmp_path / "map.npy", given.requires_grad_())
    assert np.array_equal(np.load(tmp_path / "map.npy"), given.detach().numpy())


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "'=", "''-"])
def test_texts_in_csv_are_no_formulas_and_come_back(start: str) -> None:
    name = f"{start}HYPERLINK(0).png"
    text = format_csv_rows([["file", "value"], [name, -0.5]])
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[1][1] == "-0.5"
    assert rows[1][0].startswith("'") and unescape_cell(rows[1][0]) == name


@pytest.mark.parametrize("name", ["'quoted'", "plain", "", "a=b", "'", "a-b"])
def test_other_texts_in_csv_stay_as_they_are(name: str) -> None:
    rows = list(csv.reader(io.StringIO(format_csv_rows([[name]]))))
    assert (rows[0][0] if rows[0] else "") == name == unescape_cell(name)


def test_scores_of_images_whose_names_look_like_formulas(tmp_path: Path) -> None:
    from apercu.evaluation.results import _format_scores, _parse_scores

    scores = {("mine", "iou"): {"=1+1.png": 0.5, "-a.png": -0.25, "'b.png": 1.0}}
    text = _format_scores(scores)
    assert _parse_scores(text) == scores
    assert "\nmine,iou,'=1+1.png,0.5\n" in text


def test_labels_of_images_whose_names_look_like_formulas(tmp_path: Path) -> None:
    from PIL import Image

    from apercu import open_images

    Image.new("RGB", (8, 8)).save(tmp_path / "=1.png")
    rows = [["file", "class"], ["=1.png", "@x"]]
    (tmp_path / "labels.csv").write_text(format_csv_rows(rows))
    source = open_images(tmp_path)
    assert source.names == ("=1.png",) and source.class_names == ("@x",)


def test_what_is_checked_for_writing_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    check_writable(tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="expected a folder"):
        check_writable(tmp_path / "file" / "d")


def test_a_path_is_inside_only_where_its_links_lead(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    inside = [
        name
        for name in ("a", "a/../b", "out/x", "../x", "loop", "\0", "/etc")
        if is_inside(folder / name, folder)
    ]
    assert inside == ["a", "a/../b"]


@pytest.mark.parametrize("value", [["a.png"], {"file": ["a.png"]}, None, 5])
def test_what_is_no_path_is_named(value: object) -> None:
    kind = type(value).__name__
    with pytest.raises(InputError, match=rf"^labels: expected the path of a .* got a {kind}$"):
        check_path("labels", value)
    check_path("labels", "a.csv")
    check_path("labels", Path("a.csv"))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_some_generator_refuses_is_refused(seed: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    calls: tuple[Callable[[], object], ...] = (
        lambda: apercu.train_classifier("images", "timm/resnet10t", out, seed=seed),
        lambda: apercu.train("timm/resnet10t", "images", out, seed=seed),
        lambda: apercu.compare("timm/resnet10t", "images", seed=seed),
        lambda: apercu.pretrain_backbone("transformation", "images", out, seed=seed),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=rf"seed: expected a whole number .* got {seed}"):
            call()
    assert not out.exists()
    check_seed(np.int64(7))


@pytest.mark.parametrize("name", ["y" * 300, "a\0b"])
def test_names_that_no_file_can_have_are_told(name: str, tmp_path: Path) -> None:
    for check in (lambda: check_path("images", tmp_path / name), lambda: resolve_run(name)):
        with pytest.raises(InputError, match=r"^(images|run): .*(longer than a name|holds a NUL)"):
            check()
    for open_it in (open_images, check_images):
        with pytest.raises(InputError, match=r"^images: .*(longer than a name|holds a NUL)"):
            open_it(tmp_path / name)
    with pytest.raises(ImageError, match=r"cannot be read|is no name of a file"):
        read_picture(tmp_path / name)
    with pytest.raises(OutputError, match=r"cannot be written.* choose another"):
        check_writable(tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_tensors_are_computed_where_their_file_does_not_hold_them(tmp_path: Path) -> None:
    path, calls = tmp_path / "kept" / "a.safetensors", []

    def compute() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"a": torch.arange(6).reshape(2, 3).T}  # not contiguous

    for names in ((), ("a",)):
        assert keep_tensors(path, compute, names)["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert len(calls) == 1
    path.write_bytes(path.read_bytes()[:-5])
    assert keep_tensors(path, compute)["a"].shape == (3, 2) and len(calls) == 2
    both = keep_tensors(path, lambda: {"a": torch.zeros(1), "b": torch.ones(1)}, ["b"])
    assert sorted(both) == sorted(keep_tensors(path, compute)) == ["a", "b"] and len(calls) == 2
