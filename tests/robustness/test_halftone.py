from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from apercu.errors import ConfigError
from apercu.filters import (
    Atkinson,
    Bayer,
    BlueNoise,
    ErrorDiffusion,
    FloydSteinberg,
    JarvisJudiceNinke,
    error_diffusion,
)
from apercu.filters.blue_noise import SIZE, compute_blue_noise_ranks
from apercu.filters.error_diffusion import FEW_PLANES, diffuse_error
from apercu.filters.ordered import compute_bayer_ranks

SHARES: dict[type[ErrorDiffusion], tuple[int, dict[tuple[int, int], int]]] = {
    FloydSteinberg: (16, {(0, 1): 7, (1, -1): 3, (1, 0): 5, (1, 1): 1}),
    JarvisJudiceNinke: (
        48,
        {(0, 1): 7, (0, 2): 5}
        | {(1, -2): 3, (1, -1): 5, (1, 0): 7, (1, 1): 5, (1, 2): 3}
        | {(2, -2): 1, (2, -1): 3, (2, 0): 5, (2, 1): 3, (2, 2): 1},
    ),
    Atkinson: (8, dict.fromkeys([(0, 1), (0, 2), (1, -1), (1, 0), (1, 1), (2, 0)], 1)),
}
"""Down and ahead, as the papers draw them."""
SIZES = [(1, 1), (1, 40), (40, 1), (2, 3), (8, 8), (37, 50)]


def bytes_of(count: int, height: int, width: int) -> np.ndarray:
    """Random planes, and the cases at the edges: black, white, both sides of the threshold, ramps.

    More planes than there are lanes, so that the last group is not full.
    """
    planes = np.random.default_rng(0).integers(0, 256, (count, height, width), dtype=np.uint8)
    for index, level in enumerate((0, 255, 127, 128, 129, 1, 254)):
        planes[index] = level
    planes[7] = np.linspace(0, 255, width).astype(np.uint8)
    planes[8] = np.linspace(255, 0, height).astype(np.uint8)[:, None]
    planes[9] = 255 * (np.indices((height, width)).sum(axis=0) % 2)
    return planes


def images_of(planes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(planes).float()[:, None] / 255


def by_pillow(planes: np.ndarray) -> torch.Tensor:
    dither = Image.Dither.FLOYDSTEINBERG
    result = [np.array(Image.fromarray(plane).convert("1", dither=dither)) for plane in planes]
    return torch.from_numpy(np.stack(result))[:, None].float()


def literal(plane: np.ndarray, kind: type[ErrorDiffusion], bits: int, serpentine: bool) -> list:
    """One pixel after the other, whole numbers only, errors pushed to the neighbours."""
    whole, shares = SHARES[kind]
    height, width = plane.shape
    levels = [int(255 * k / (2**bits - 1) + 0.5) for k in range(2**bits)]
    owed = {(y, x): 0 for y in range(height) for x in range(width)}
    result = [[0] * width for _ in range(height)]
    for y in range(height):
        ahead = -1 if serpentine and y % 2 else 1
        for x in range(width)[::ahead]:
            debt = owed[y, x]
            cut = abs(debt) // whole * (1 if debt > 0 else -1)
            value = min(max(int(plane[y, x]) + cut, 0), 255)
            level = levels[(value * (2**bits - 1) + 126) // 255]
            result[y][x] = level
            for (down, across), share in shares.items():
                position = (y + down, x + ahead * across)
                if position in owed:
                    owed[position] += share * (value - level)
    return result


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_floyd_steinberg_has_the_bits_of_pillow(height: int, width: int) -> None:
    planes = bytes_of(error_diffusion.LANES + 5, height, width)
    assert torch.equal(FloydSteinberg()(images_of(planes)), by_pillow(planes))


@pytest.mark.parametrize("serpentine", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", SHARES, ids=lambda kind: kind.__name__)
def test_equals_the_literal_loop(kind: type[ErrorDiffusion], bits: int, serpentine: bool) -> None:
    scan = "serpentine" if serpentine else "raster"
    for height, width in [(1, 30), (30, 1), (2, 2), (19, 27)]:
        planes = bytes_of(12, height, width)
        result = kind(bits, scan)(images_of(planes))  # type: ignore[arg-type]
        expected = [literal(plane, kind, bits, serpentine) for plane in planes]
        assert (result[:, 0] * 255).round().int().tolist() == expected
        assert torch.equal(result, (result * 255).round() / 255)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_pixel_alone_goes_to_the_nearest_level(bits: int) -> None:
    pixels = torch.arange(256) / 255
    levels = torch.arange(2**bits) / (2**bits - 1)
    result = Atkinson(bits)(pixels.view(256, 1, 1, 1)).flatten()
    nearest = (pixels[:, None] - levels).abs().amin(dim=1)
    assert ((result - pixels).abs() - nearest).amax() < 1.01 / 255
    assert len(result.unique()) == 2**bits


def test_few_planes_by_pillow_have_the_bits_of_the_compiled_loop() -> None:
    images = torch.rand(FEW_PLANES // 3, 3, 31, 45, generator=torch.Generator().manual_seed(0))
    compiled = diffuse_error(images.flatten(0, 1), FloydSteinberg().kernel, 1, False)
    assert torch.equal(FloydSteinberg()(images).flatten(0, 1), compiled)


def test_images_are_rounded_to_8_bits_first() -> None:
    images = torch.rand(5, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    rounded = (images * 255).round().to(torch.uint8)
    expected = by_pillow(rounded.flatten(0, 1).numpy()).view(images.shape)
    assert torch.equal(FloydSteinberg()(images), expected)
    assert not torch.equal(by_pillow((images * 255).byte().flatten(0, 1).numpy()), expected)


def test_grey_is_the_luma_of_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    grey = np.stack([np.array(Image.fromarray(one).convert("L")) for one in pixels])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    result = FloydSteinberg(channels="grey")(images)
    assert torch.equal(result, by_pillow(grey).expand_as(result))


def test_grey_of_other_channels_is_their_mean() -> None:
    planes = torch.tensor([10.0, 20.0, 30.0, 40.0, 51.0]).view(1, 5, 1, 1) / 255
    images = planes.expand(1, 5, 16, 16)
    expected = Atkinson(bits=4)(torch.full((1, 1, 16, 16), 30 / 255))
    assert torch.equal(Atkinson(bits=4, channels="grey")(images), expected.expand_as(images))


@pytest.fixture
def numba_missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(error_diffusion, "HAS_NUMBA", False)
    monkeypatch.setattr(error_diffusion, "_compile_loop", None)
    yield


@pytest.mark.usefixtures("numba_missing")
def test_without_numba_floyd_steinberg_has_the_same_bits() -> None:
    planes = bytes_of(error_diffusion.LANES + 5, 21, 34)
    assert torch.equal(FloydSteinberg()(images_of(planes)), by_pillow(planes))


@pytest.mark.usefixtures("numba_missing")
@pytest.mark.parametrize("settings", [{"bits": 2}, {"scan": "serpentine"}])
def test_without_numba_other_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=r"numba is not installed; pip install 'apercu\[fast\]'"):
        FloydSteinberg(**settings)
    with pytest.raises(ConfigError, match=r"^JarvisJudiceNinke\(.*'apercu\[fast\]'$"):
        JarvisJudiceNinke()


def test_threads_do_not_change_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(bytes_of(3 * error_diffusion.LANES, 9, 16))
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(JarvisJudiceNinke()(images))
    assert torch.equal(*results)


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_bayer_ranks_are_his_recursion(size: int) -> None:
    def rank(row: int, column: int) -> int:
        """Bits of (row, column), the finest first, choose quarters, the finest weighing most."""
        total, weight = 0, size * size // 4
        for _ in range(size.bit_length() - 1):
            total += weight * ((0, 2), (3, 1))[row % 2][column % 2]
            row, column, weight = row // 2, column // 2, weight // 4
        return total

    expected = [[rank(row, column) for column in range(size)] for row in range(size)]
    assert compute_bayer_ranks(size).tolist() == expected


def test_bayer_meets_each_pixel_with_its_threshold() -> None:
    images = torch.rand(2, 3, 11, 19, generator=torch.Generator().manual_seed(0))
    for bits, size in [(1, 2), (2, 8), (4, 16)]:
        result, steps, ranks = Bayer(bits, size)(images), 2**bits - 1, compute_bayer_ranks(size)
        for index in np.ndindex(*images.shape):
            threshold = (int(ranks[index[2] % size, index[3] % size]) + 0.5) / size**2
            below, rest = divmod(float(images[index]) * steps, 1)
            assert result[index].item() == pytest.approx((below + (rest > threshold)) / steps)


@pytest.mark.parametrize("kind", [Bayer, BlueNoise])
def test_a_grey_dither_is_that_of_the_luma(kind: type[Bayer | BlueNoise]) -> None:
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    luma = (images * weights).sum(1, keepdim=True)
    result = kind(channels="grey")(images)
    assert torch.equal(result, kind()(luma).expand_as(result))
    five = torch.rand(1, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    mean = kind()(five.mean(1, keepdim=True))
    assert torch.equal(kind(channels="grey")(five), mean.expand_as(five))


@pytest.mark.parametrize("kind", [Bayer, BlueNoise])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_mean_of_a_flat_image_is_kept(kind: type[Bayer | BlueNoise], bits: int) -> None:
    for level in (0.0, 0.1, 0.5, 0.77, 1.0):
        result = kind(bits=bits)(torch.full((1, 1, SIZE, SIZE), level))
        assert result.mean().item() == pytest.approx(level, abs=1 / 64 / (2**bits - 1))


def test_blue_noise_has_each_rank_once_and_follows_its_seed() -> None:
    ranks = compute_blue_noise_ranks(0)
    assert sorted(ranks.flatten().tolist()) == list(range(SIZE * SIZE))
    assert torch.equal(compute_blue_noise_ranks.__wrapped__(0), ranks)
    assert not torch.equal(compute_blue_noise_ranks(1), ranks)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_blue_noise_has_no_low_frequencies(level: float) -> None:
    def low(pattern: torch.Tensor) -> float:
        """Power per frequency below a quarter of the highest, the mean left out."""
        waves = torch.fft.fftfreq(SIZE)
        radius = torch.hypot(waves[:, None], waves[None])
        power = torch.fft.fft2(pattern - pattern.mean()).abs().square()
        return power[(radius > 0) & (radius < 0.125)].mean().item()

    blue = BlueNoise()(torch.full((1, 1, SIZE, SIZE), level))[0, 0]
    generator = torch.Generator().manual_seed(0)
    white = (torch.rand(SIZE, SIZE, generator=generator) < level).float()
    assert low(blue) < 0.1 * low(white)
