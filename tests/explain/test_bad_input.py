"""What somebody may hand in: a sensible explanation, or one line that says what to do instead."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from apercu import InputError, MaskExplainer, read_picture
from apercu.cli.root import app
from apercu.errors import ConfigError, ImageError, TargetError
from apercu.explain import MaskExplanation
from apercu.log import redirect_warnings

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)


@pytest.fixture(scope="module")
def explainer(tiny_run: Path) -> MaskExplainer:
    return MaskExplainer.from_pretrained(tiny_run)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def save_heic(folder: Path) -> Path:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    return save(PHOTO, folder / "a.heic")


def cut(path: Path, fraction: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    return path


def rotated(folder: Path) -> Path:
    exif = Image.Exif()
    exif[274] = 6
    return save(PHOTO, folder / "turned.jpg", exif=exif, quality=100)


READABLE: dict[str, Callable[[Path], Path]] = {
    "one colour": lambda folder: save(Image.new("RGB", (50, 50), "#777"), folder / "a.png"),
    "animated GIF": lambda folder: save(
        PHOTO, folder / "a.gif", save_all=True, append_images=[Image.new("RGB", PHOTO.size)]
    ),
    "HEIC": save_heic,
    "CMYK": lambda folder: save(PHOTO.convert("CMYK"), folder / "a.jpg"),
    "16 bits": lambda folder: save(
        Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), folder / "a.png"
    ),
    "wrong ending": lambda folder: save(PHOTO, folder / "a.jpg", format="PNG"),
    "very long": lambda folder: save(PHOTO.resize((3000, 2)), folder / "a.png"),
}
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "1 × 1": (
        lambda folder: save(PHOTO.resize((1, 1)), folder / "a.png"),
        r"too small to explain, expected at least 2 × 2 pixels, got 1 × 1",
    ),
    "108 megapixels": (
        lambda folder: save(Image.new("1", (12_000, 9_000)), folder / "a.png"),
        r"too large, expected at most 100 megapixels, got 12000 × 9000 .*; resize it first",
    ),
    "PDF": (
        lambda folder: save(PHOTO, folder / "a.pdf"),
        r"a\.pdf: not an image, expected JPEG, PNG",
    ),
    "PDF named as a picture": (
        lambda folder: save(PHOTO, folder / "a.jpg", format="PDF"),
        r"a\.jpg: not an image, expected JPEG, PNG",
    ),
    "cut short": (
        lambda folder: cut(save(PHOTO, folder / "a.jpg"), 0.5),
        r"a\.jpg: damaged or cut short",
    ),
    "empty": (
        lambda folder: cut(save(PHOTO, folder / "a.png"), 0),
        r"a\.png: not an image, as it is empty \(0 bytes\); copy it again",
    ),
    "empty folder": (lambda folder: folder, r"no images"),
    "folder": (
        lambda folder: (save(PHOTO, folder / "a.png"), save(PHOTO, folder / "b.png"))[0].parent,
        r"expected one image, got 2; name a single file",
    ),
    "missing": (
        lambda folder: folder / "cat.jpg",
        r"cat\.jpg: no such file or folder of images",
    ),
    "nothing": (lambda folder: None, r"expected tensors, numpy arrays or Pillow images, got None"),
    "bytes": (lambda folder: b"\xff\xd8", r"expected tensors, .*, got bytes; open files with"),
}


@pytest.mark.parametrize("kind", READABLE)
def test_unusual_files_are_explained(explainer: MaskExplainer, tmp_path: Path, kind: str) -> None:
    explanation = explainer.explain(READABLE[kind](tmp_path))
    assert isinstance(explanation, MaskExplanation)
    assert explanation.mask.isfinite().all()
    assert "<img" in explanation._repr_html_()


@pytest.mark.parametrize("kind", REFUSED)
def test_other_files_are_refused_in_one_line(
    explainer: MaskExplainer, tmp_path: Path, kind: str, shapes_unchecked: None
) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(InputError, match=message) as caught:
        explainer.explain(make(tmp_path))
    assert "\n" not in str(caught.value) and len(caught.value._render_traceback_()) == 1


def test_a_file_and_its_opened_image_have_the_same_explanation(
    explainer: MaskExplainer, tmp_path: Path
) -> None:
    transparent = PHOTO.copy()
    transparent.putalpha(Image.fromarray(PIXELS[..., 1]))
    deep = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    for number, image in enumerate(
        [transparent, transparent.convert("LA"), PHOTO.convert("P"), PHOTO.convert("L"), deep]
    ):
        path = save(image, tmp_path / f"{number}.png")
        opened = explainer.explain(Image.open(path), 1)
        torch.testing.assert_close(opened.image, read_picture(path), msg=image.mode)
        torch.testing.assert_close(opened.map, explainer.explain(path, 1).map, msg=image.mode)


def test_an_opened_image_is_not_turned_but_a_warning_says_so(
    explainer: MaskExplainer, tmp_path: Path
) -> None:
    path, lines = rotated(tmp_path), list[str]()
    with redirect_warnings(lines.append):
        assert explainer.explain(path).image.shape == (3, 60, 40)
        assert lines == []
        assert explainer.explain(Image.open(path)).image.shape == (3, 40, 60)
    assert len(lines) == 1 and "exif_transpose turns it upright" in lines[0]


def test_grey_arrays_become_colour_and_any_order_of_bytes_is_read(
    explainer: MaskExplainer,
) -> None:
    expected = explainer.explain(PIXELS, 1).map
    for dtype in (">f4", "f8", "f2", np.longdouble):
        values = (PIXELS / 255).astype(dtype)
        torch.testing.assert_close(explainer.explain(values, 1).map, expected, atol=2e-2, rtol=0)
    grey = explainer.explain(np.repeat(PIXELS[..., :1], 3, axis=2), 1).map
    for form in (PIXELS[..., 0], PIXELS[..., :1], torch.from_numpy(PIXELS[..., 0] / 255)[None]):
        torch.testing.assert_close(explainer.explain(form, 1).map, grey)
        torch.testing.assert_close(explainer([form], 1)[0], grey)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS.astype(np.uint16), "expected uint8 or floats in .0, 1., got uint16; divide by"),
        (PIXELS.astype(np.int64), "expected uint8 or floats in .0, 1., got int64; divide by"),
        (PIXELS > 9, "expected uint8 or floats in .0, 1., got bool; array.astype.'float32'."),
        (PIXELS.astype(object), "expected uint8 or floats in .0, 1., got object; give numbers"),
        (PIXELS.astype(np.complex64), "got complex64; give numbers"),
        (PIXELS.astype(np.float32), "expected pixels in .0, 1., got .0, 255.; scale them"),
        (PIXELS / 127.5 - 1, "expected pixels in .0, 1., got .-1, 1.; scale them"),
        (np.full((9, 9, 3), np.nan), "expected pixels in .0, 1., got .nan, nan."),
        (np.moveaxis(PIXELS, 2, 0), "expected 3 channels, got 60; only grey and RGB"),
        (np.moveaxis(PIXELS, 2, 0), r"; array.transpose\(1, 2, 0\) puts the channels last$"),
        (torch.rand(40, 60, 3), r"; tensor.permute\(2, 0, 1\) puts the channels first$"),
        (PIXELS[..., :2], "expected 3 channels, got 2; only grey and RGB"),
        (PIXELS[..., :0], "got no channel"),
        (PIXELS[:1, :1], "too small to explain"),
        (PIXELS[:0], "too small to explain"),
        (np.zeros((10_001, 10_000), np.uint8), "too large, expected at most 100 megapixels"),
        (PIXELS[None].repeat(2, axis=0), "expected an array height × width × channels, got 2 × 40"),
        (np.float32(0.5), "got float32; open files with"),
        (np.zeros(()), "expected an array height × width × channels, got one number"),
        (torch.from_numpy(PIXELS), "a tensor channels × height × width of floats.*of uint8"),
        (torch.rand(40, 60, 3), "expected 3 channels, got 40"),
        (torch.rand(40, 60), "a tensor channels × height × width of floats"),
        (torch.rand(2, 3, 40, 60), "a tensor channels × height × width of floats"),
        (torch.rand(0, 40, 60), "a tensor channels × height × width of floats"),
        (torch.rand(3, 40, 60) * 255, "expected pixels in .0, 1., got"),
    ],
)
def test_arrays_of_another_kind_are_refused_in_one_line(
    explainer: MaskExplainer, image: Any, message: str, shapes_unchecked: None
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        explainer.explain(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [np.int64(1), np.uint8(1), torch.tensor(1)])
def test_a_class_is_a_whole_number_of_any_type(explainer: MaskExplainer, number: Any) -> None:
    assert explainer.explain(PHOTO, target=number).target.index == 1


@pytest.mark.parametrize("word", [1.0, True, [1], torch.tensor([1, 2]), np.array([1, 2])])
def test_what_is_no_class_is_refused(
    explainer: MaskExplainer, word: Any, shapes_unchecked: None
) -> None:
    with pytest.raises(TargetError, match=r"^target: expected a class name or index, got .+$"):
        explainer.explain(PHOTO, target=word)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "expected floats in .0, 1., got int64"),
        (torch.rand(0, 3, 32, 32), "expected batch × 3 × 32 × 32, got 0 × 3 × 32 × 32"),
        (torch.rand(3, 32, 32), "expected batch × 3 × 32 × 32, got 3 × 32 × 32; prepare"),
        ([], "expected at least one, got an empty list"),
        (["cat.jpg"], "got str; open files with apercu.open_images"),
    ],
)
def test_batches_of_another_kind_are_refused(
    explainer: MaskExplainer, images: Any, message: str, shapes_unchecked: None
) -> None:
    with pytest.raises(ImageError, match=message):
        explainer(images)


def test_batches_of_other_floats_are_taken(explainer: MaskExplainer) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(explainer(images.double(), 1), explainer(images, 1))


def test_a_damaged_image_that_is_open_already_is_refused(explainer: MaskExplainer) -> None:
    buffer = io.BytesIO()
    PHOTO.save(buffer, "PNG")
    opened = Image.open(io.BytesIO(buffer.getvalue()[:2000]))
    with pytest.raises(ImageError, match="image: damaged or cut short"):
        explainer.explain(opened)


def test_a_number_of_classes_needs_a_target_that_shows_several(tiny_run: Path) -> None:
    words = ["explain", str(tiny_run), "planted:images=2", "--top", "3"]
    with pytest.raises(ConfigError, match="--top: only --target all and --target predicted"):
        CliRunner().invoke(app, words, catch_exceptions=False)
