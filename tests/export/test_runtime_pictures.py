"""The runtime prepares pictures as apercu does, within two steps of 255."""

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
from apercu.images.reader import convert_picture
from apercu_runtime import ImageError
from apercu_runtime.pictures import read_picture as read_runtime_picture
from apercu_runtime.pictures import resize_picture

STEP = 1 / 255
GENERATOR = np.random.default_rng(0)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    return Image.fromarray(GENERATOR.integers(0, 256, (height, width, channels), dtype=np.uint8))


def rotated() -> Image.Image:
    image = noise(20, 30)
    image.getexif()[0x0112] = 6
    return image


FILES = {
    "large": encode(noise(300, 500)),
    "small": encode(noise(9, 14)),
    "same": encode(noise(48, 40)),
    "narrow": encode(noise(200, 3)),
    "jpeg": encode(noise(120, 90), "JPEG", quality=90),
    "rotated": encode(rotated(), "JPEG", exif=rotated().getexif()),
    "transparent": encode(noise(70, 60, 4)),
    "grey": encode(Image.fromarray(GENERATOR.integers(0, 256, (60, 70), dtype=np.uint8))),
    "sixteen bits": encode(
        Image.fromarray(GENERATOR.integers(0, 65536, (60, 70), dtype=np.uint16))
    ),
    "palette": encode(noise(60, 70).quantize(16)),
    "bits": encode(noise(60, 70).convert("1")),
    "grey with alpha": encode(noise(60, 70, 4).convert("LA")),
    "cmyk": encode(noise(60, 70).convert("CMYK"), "JPEG"),
    "tiff": encode(noise(60, 70), "TIFF"),
    "gif": encode(noise(60, 70).quantize(32), "GIF"),
    "webp": encode(noise(60, 70), "WEBP", lossless=True),
    "bmp": encode(noise(60, 70), "BMP"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILES)
def test_pictures_are_resized_as_apercu_does(name: str, channels: int) -> None:
    theirs = read_picture(FILES[name], channels=channels)
    expected = fit_image(theirs, InputSpec(channels=channels, size=(48, 40)))
    actual = resize_picture(read_runtime_picture(FILES[name], channels), (48, 40))
    assert actual.dtype == np.float32 and actual.shape == (channels, 48, 40)
    assert np.abs(actual - expected.numpy()).max() <= 2 * STEP


def test_photographs_are_prepared_as_for_the_classifier(apercu_data: Path) -> None:
    from apercu.classifiers import open_classifier

    classifier = open_classifier(apercu_data / "models" / "mobilenetv2_100.json")
    photographs = sorted((apercu_data / "data" / "imagenet-val").rglob("*.JPEG"))[:8]
    assert photographs
    for path in photographs:
        expected = classifier.prepare(read_picture(path)).numpy()
        assert (
            np.abs(resize_picture(read_runtime_picture(path, 3), classifier.size) - expected).max()
            <= 2 * STEP
        )


def test_floats_of_any_number_of_channels_are_taken_as_apercu_has_them() -> None:
    pixels = torch.rand(5, 30, 20, generator=torch.Generator().manual_seed(0))
    expected = fit_image(pixels, InputSpec(channels=5, size=(8, 8)))
    actual = resize_picture(read_runtime_picture(pixels.numpy(), 5), (8, 8))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_floats_may_have_their_channels_last_as_in_apercu() -> None:
    pixels = np.random.default_rng(0).random((30, 20, 3), np.float32)
    for channels in (1, 3):
        expected = convert_picture(pixels, channels)
        for array in (pixels, pixels.astype(np.float64), np.moveaxis(pixels, 2, 0)):
            np.testing.assert_allclose(read_runtime_picture(array, channels), expected, atol=1e-6)
    grey = read_runtime_picture(pixels[..., 0], 1)
    np.testing.assert_array_equal(grey, pixels[None, ..., 0])
    bands = np.random.default_rng(0).random((30, 20, 5), np.float32)
    np.testing.assert_array_equal(read_runtime_picture(bands, 5), np.moveaxis(bands, 2, 0))


def test_an_array_of_bytes_is_what_pillow_has() -> None:
    image = noise(20, 30)
    np.testing.assert_array_equal(
        read_runtime_picture(np.asarray(image), 3), read_runtime_picture(image, 3)
    )
    grey = image.convert("L")
    np.testing.assert_array_equal(
        read_runtime_picture(np.asarray(grey), 1), read_runtime_picture(grey, 1)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", "not an image, expected JPEG, PNG"),
        (FILES["large"][:2000], "damaged or cut short"),
        (b"", r"not an image, as it is empty \(0 bytes\); copy it again"),
    ],
)
def test_other_bytes_are_refused(content: bytes, message: str) -> None:
    for read in (lambda: read_runtime_picture(content, 3), lambda: read_picture(content)):
        with pytest.raises((ImageError, TheirImageError), match=message):
            read()


def test_missing_files_and_other_channels_are_told_in_the_same_words(tmp_path: Path) -> None:
    missing = tmp_path / "none.png"
    for source, channels in ((missing, 3), (FILES["large"], 5)):
        with pytest.raises(TheirImageError) as theirs:
            read_picture(source, channels=channels)
        with pytest.raises(ImageError) as ours:
            read_runtime_picture(source, channels)
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("shape", [(4,), (1, 2, 3, 4)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    for kind in (np.uint8, np.float32, np.int64):
        with pytest.raises(ImageError, match="image: expected bytes as height × width × channels"):
            read_runtime_picture(np.zeros(shape, kind), 3)
