from __future__ import annotations

import pytest
import torch
from skimage.color import rgb2lab
from skimage.measure import label
from skimage.segmentation import slic

from apercu.methods.superpixels import _convert_to_lab, compute_superpixels


def picture(height: int = 60, width: int = 80) -> torch.Tensor:
    """Blobs of colour with soft noise, so that there are edges to follow."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    blobs = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    return (blobs + 0.03 * torch.randn(3, height, width, generator=generator)).clamp(0, 1)


def pieces(region: torch.Tensor) -> int:
    return int(label(region.numpy(), connectivity=1).max())


def variance_inside(image: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean squared distance of each pixel's colour from the mean of its superpixel."""
    total = 0.0
    for index in labels.unique():
        colours = image[:, labels == index]
        total += (colours - colours.mean(dim=1, keepdim=True)).square().sum().item()
    return total / labels.numel()


@pytest.mark.parametrize("count", [1, 12, 50, 200])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_superpixels_are_numbered_connected_and_about_as_many_as_requested(
    count: int, channels: int
) -> None:
    image = torch.cat((picture(), picture().flip(1)))[:channels]
    labels = compute_superpixels(image, count)
    assert labels.shape == (60, 80)
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    assert 0.7 * count <= labels.max() + 1 <= 1.3 * count
    for index in labels.unique().tolist():
        assert pieces(labels == index) == 1


def test_colours_are_those_of_cielab() -> None:
    image = picture()
    expected = torch.from_numpy(rgb2lab(image.permute(1, 2, 0).numpy())).permute(2, 0, 1)
    torch.testing.assert_close(_convert_to_lab(image), expected.float(), atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize("count", [30, 150])
def test_separate_colours_as_well_as_scikit_image(count: int) -> None:
    image = picture()
    array = image.permute(1, 2, 0).double().numpy()
    theirs = torch.from_numpy(slic(array, n_segments=count, compactness=10, sigma=1, start_label=0))
    ours = compute_superpixels(image, count)
    assert abs(len(ours.unique()) - len(theirs.unique())) <= 0.35 * count
    assert variance_inside(image, ours) <= 1.1 * variance_inside(image, theirs)


def test_agree_with_scikit_image_where_the_image_leaves_no_choice() -> None:
    """Four flat quarters: every superpixel must stay inside one of them."""
    image = torch.zeros(3, 40, 40)
    image[0, :, 20:], image[1, 22:] = 1.0, 1.0
    quarters = (torch.arange(40) >= 22)[:, None] * 2 + (torch.arange(40) >= 20)
    ours = compute_superpixels(image, 16, sigma=0.1)
    array = image.permute(1, 2, 0).double().numpy()
    theirs = torch.from_numpy(slic(array, n_segments=16, compactness=10, sigma=0, start_label=0))
    for labels in (ours, theirs):
        assert all(len(quarters[labels == index].unique()) == 1 for index in labels.unique())


def test_a_high_compactness_gives_the_grid() -> None:
    labels = compute_superpixels(picture(40, 40), 16, compactness=1e5)
    rows = torch.arange(40) // 10
    assert torch.equal(labels, rows[:, None] * 4 + rows)


def test_an_island_joins_its_surroundings() -> None:
    image = torch.zeros(3, 40, 40)
    image[:, :, 20:] = 1.0
    image[:, 9:11, 29:31] = 0.0
    labels = compute_superpixels(image, 8, compactness=1.0, sigma=0.1)
    assert set(labels[9:11, 29:31].unique().tolist()) <= set(labels[:, 20:].unique().tolist())
    for index in labels.unique().tolist():
        assert pieces(labels == index) == 1


def test_the_same_image_gives_the_same_superpixels() -> None:
    assert torch.equal(compute_superpixels(picture(), 50), compute_superpixels(picture(), 50))
