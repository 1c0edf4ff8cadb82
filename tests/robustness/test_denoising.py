from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.restoration import denoise_tv_chambolle

from apercu.filters import (
    BitDepth,
    Gaussian,
    Jpeg,
    Median,
    NonLocalMeans,
    TotalVariation,
    jpeg,
)
from apercu.filters.base import round_softly


@pytest.fixture
def images() -> torch.Tensor:
    """Two noisy images with an edge."""
    images = 0.2 * torch.rand(2, 3, 15, 22, generator=torch.Generator().manual_seed(0))
    images[..., 9:] += 0.7
    return images


def by_pillow(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


@pytest.mark.parametrize("quality", [10, 75, 95])
def test_jpeg_is_pillows(quality: int, images: torch.Tensor) -> None:
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    expected = np.stack([by_pillow(one, quality) for one in pixels])
    result = Jpeg(quality)(images).permute(0, 2, 3, 1)
    assert torch.equal((result * 255).round().byte(), torch.from_numpy(expected))


def test_jpeg_of_other_channels_is_one_grey_file_each(images: torch.Tensor) -> None:
    for some in (images[:1, :1], images[:, :1].reshape(1, 2, 15, 22)):
        pixels = (some * 255).round().byte().numpy()
        expected = np.stack([by_pillow(plane, 75) for plane in pixels[0]])
        assert torch.equal((Jpeg()(some)[0] * 255).round().byte(), torch.from_numpy(expected))


@pytest.mark.parametrize("quality", [1, 30, 50, 75, 95])
def test_the_surrogate_of_jpeg_has_the_tables_of_pillow(quality: int) -> None:
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    written = Image.open(file).quantization  # type: ignore[attr-defined]
    for index, base in enumerate((jpeg.LUMA_TABLE, jpeg.CHROMA_TABLE)):
        assert jpeg._scale_table(base, quality).flatten().tolist() == list(written[index])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_surrogate_of_jpeg_with_hard_rounding_is_nearly_jpeg(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ramp = torch.linspace(0, 3, 43)
    waves = (ramp[:, None] * torch.tensor([1.0, 1.7, 2.3])[:, None, None] + ramp).sin()
    images = (0.5 + 0.4 * waves)[None, :channels]
    monkeypatch.setattr(jpeg, "round_softly", torch.round)
    apart = (Jpeg(50).apply_surrogate(images) - Jpeg(50)(images)).abs()
    assert apart.mean() < 0.002 * (1 if channels == 1 else 4)
    assert (Jpeg(50)(images) - images).abs().mean() > 0.004


def test_round_softly_meets_round_at_whole_numbers_and_halves() -> None:
    values = torch.linspace(-3, 3, 241, dtype=torch.float64).requires_grad_()
    result = round_softly(values)
    torch.testing.assert_close(result[::20], values[::20])
    assert (result.diff() > 0).all()
    assert ((result - values.round()).abs() <= 0.5 + 1e-12).all()
    assert (result - values.round()).abs().mean() < (values - values.round()).abs().mean() / 1.4


def test_bit_depth_goes_to_the_nearest_level() -> None:
    ramp = torch.linspace(0, 1, 100)
    levels = torch.tensor([0, 1 / 3, 2 / 3, 1])
    nearest = levels[(ramp[:, None] - levels).abs().argmin(dim=1)]
    torch.testing.assert_close(BitDepth(2)(ramp.expand(1, 1, 8, -1))[0, 0, 0], nearest)


@pytest.mark.parametrize("width", [3, 5])
def test_median_is_scipys(width: int, images: torch.Tensor) -> None:
    size = (1, 1, width, width)
    expected = ndimage.median_filter(images.numpy(), size=size, mode="nearest")
    assert torch.equal(Median(width)(images), torch.from_numpy(expected))
    means = ndimage.uniform_filter(images.double().numpy(), size=size, mode="nearest")
    torch.testing.assert_close(
        Median(width).apply_surrogate(images.double()), torch.from_numpy(means)
    )


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_gaussian_is_scipys(sigma: float, images: torch.Tensor) -> None:
    images = images.double()
    radius = int(np.ceil(3 * sigma))
    expected = ndimage.gaussian_filter(
        images.numpy(), sigma, mode="nearest", radius=(0, 0, radius, radius)
    )
    torch.testing.assert_close(Gaussian(sigma)(images), torch.from_numpy(expected))


@pytest.mark.parametrize(("weight", "steps"), [(0.1, 50), (0.3, 7)])
def test_total_variation_is_scikit_images(weight: float, steps: int, images: torch.Tensor) -> None:
    images = images.double()
    expected = [
        denoise_tv_chambolle(plane.numpy(), weight, eps=0, max_num_iter=steps + 1)
        for plane in images.flatten(0, 1)
    ]
    result = TotalVariation(weight, steps)(images).flatten(0, 1)
    torch.testing.assert_close(result, torch.from_numpy(np.stack(expected)))


def test_total_variation_falls_and_means_stay(images: torch.Tensor) -> None:
    def variation(some: torch.Tensor) -> float:
        return sum(some.diff(dim=dim).abs().sum().item() for dim in (2, 3))

    result = [images, *(TotalVariation(weight)(images) for weight in (0.02, 0.1, 0.4))]
    amounts = [variation(one) for one in result]
    assert amounts == sorted(amounts, reverse=True)
    assert amounts[2] < 0.5 * amounts[0]
    torch.testing.assert_close(result[2].mean(dim=(2, 3)), images.mean(dim=(2, 3)))


@pytest.mark.parametrize("strength", [1e-3, 10.0])
def test_non_local_means_at_its_ends(strength: float, images: torch.Tensor) -> None:
    """The image itself, and the mean of the window."""
    result = NonLocalMeans(strength)(images)
    mean = ndimage.uniform_filter(images.numpy(), size=(1, 1, 7, 7), mode="nearest")
    expected = images if strength < 1 else torch.from_numpy(mean)
    torch.testing.assert_close(result, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("window", "patch"), [(3, 3), (5, 3), (3, 5)])
def test_non_local_means_is_its_definition(window: int, patch: int, images: torch.Tensor) -> None:
    image = images[0, :, 3:13, 4:12].double()
    rim, reach, strength = patch // 2, window // 2, 0.2
    wide = np.pad(image.numpy(), ((0, 0), *((rim + reach,) * 2,) * 2), mode="edge")

    def around(row: int, column: int) -> np.ndarray:
        """The patch in the middle of which a pixel of the image lies."""
        top, left = row + reach, column + reach
        return wide[:, top : top + patch, left : left + patch]

    result = NonLocalMeans(strength, window, patch)(image[None])[0]
    offsets = [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    for row, column in np.ndindex(10, 8):
        others = [around(row + down, column + across) for down, across in offsets]
        weights = [np.exp(-((o - around(row, column)) ** 2).mean() / strength**2) for o in others]
        expected = np.average([o[:, rim, rim] for o in others], axis=0, weights=weights)
        np.testing.assert_allclose(result[:, row, column].numpy(), expected, rtol=1e-10)
