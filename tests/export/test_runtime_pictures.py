"""The runtime fits pictures as apercu does: within two steps of 255."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apercu import read_picture
from apercu.classifiers import InputSpec
from apercu.classifiers.preprocessing import fit_image
from apercu.errors import ImageError as TheirImageError
from apercu_runtime import ImageError
from apercu_runtime.pictures import fitted, picture

STEP = 1 / 255
GENERATOR = np.random.default_rng(0)


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    return Image.fromarray(GENERATOR.integers(0, 256, (height, width, channels), dtype=np.uint8))


def turned() -> Image.Image:
    image = noise(20, 30)
    image.getexif()[0x0112] = 6
    return image


FILES = {
    "large": stored(noise(300, 500)),
    "small": stored(noise(9, 14)),
    "same": stored(noise(48, 40)),
    "narrow": stored(noise(200, 3)),
    "jpeg": stored(noise(120, 90), "JPEG", quality=90),
    "turned": stored(turned(), "JPEG", exif=turned().getexif()),
    "transparent": stored(noise(70, 60, 4)),
    "grey": stored(Image.fromarray(GENERATOR.integers(0, 256, (60, 70), dtype=np.uint8))),
    "sixteen bits": stored(
        Image.fromarray(GENERATOR.integers(0, 65536, (60, 70), dtype=np.uint16))
    ),
    "palette": stored(noise(60, 70).quantize(16)),
    "bits": stored(noise(60, 70).convert("1")),
    "grey with alpha": stored(noise(60, 70, 4).convert("LA")),
    "cmyk": stored(noise(60, 70).convert("CMYK"), "JPEG"),
    "tiff": stored(noise(60, 70), "TIFF"),
    "gif": stored(noise(60, 70).quantize(32), "GIF"),
    "webp": stored(noise(60, 70), "WEBP", lossless=True),
    "bmp": stored(noise(60, 70), "BMP"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILES)
def test_pictures_are_fitted_as_apercu_does(name: str, channels: int) -> None:
    theirs = read_picture(FILES[name], channels=channels)
    expected = fit_image(theirs, InputSpec(channels=channels, size=(48, 40)))
    found = fitted(picture(FILES[name], channels), (48, 40))
    assert found.dtype == np.float32 and found.shape == (channels, 48, 40)
    assert np.abs(found - expected.numpy()).max() <= 2 * STEP


def test_photographs_are_prepared_as_for_the_classifier(apercu_data: Path) -> None:
    from apercu.classifiers import open_classifier

    classifier = open_classifier(apercu_data / "models" / "mobilenetv2_100.json")
    photographs = sorted((apercu_data / "data" / "imagenet-val").rglob("*.JPEG"))[:8]
    assert photographs
    for path in photographs:
        expected = classifier.prepare(read_picture(path)).numpy()
        assert np.abs(fitted(picture(path, 3), classifier.size) - expected).max() <= 2 * STEP


def test_floats_of_any_number_of_channels_are_taken_as_apercu_has_them() -> None:
    pixels = torch.rand(5, 30, 20, generator=torch.Generator().manual_seed(0))
    expected = fit_image(pixels, InputSpec(channels=5, size=(8, 8)))
    found = fitted(picture(pixels.numpy(), 5), (8, 8))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_array_of_bytes_is_what_pillow_has() -> None:
    image = noise(20, 30)
    np.testing.assert_array_equal(picture(np.asarray(image), 3), picture(image, 3))
    grey = image.convert("L")
    np.testing.assert_array_equal(picture(np.asarray(grey), 1), picture(grey, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", "not an image, expected JPEG, PNG"),
        (FILES["large"][:2000], "damaged or cut short"),
        (b"", "not an image"),
    ],
)
def test_what_is_no_picture_is_one_line(content: bytes, message: str) -> None:
    for read in (lambda: picture(content, 3), lambda: read_picture(content)):
        with pytest.raises((ImageError, TheirImageError), match=message):
            read()


def test_missing_files_and_other_channels_are_told_in_the_same_words(tmp_path: Path) -> None:
    missing = tmp_path / "none.png"
    for source, channels in ((missing, 3), (FILES["large"], 5)):
        with pytest.raises(TheirImageError) as theirs:
            read_picture(source, channels=channels)
        with pytest.raises(ImageError) as ours:
            picture(source, channels)
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("shape", [(4,), (1, 2, 3, 4)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    for kind in (np.uint8, np.float32, np.int64):
        with pytest.raises(ImageError, match="image: expected bytes as height × width × channels"):
            picture(np.zeros(shape, kind), 3)
