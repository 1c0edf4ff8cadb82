from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.mfpp import Mfpp
from apercu.methods.superpixels import compute_superpixels


def literal_masks(image: torch.Tensor, mfpp: Mfpp) -> torch.Tensor:
    """Every mask is enlarged as a whole, then cropped, one at a time."""
    height, width = image.shape[1:]
    large = [round(mfpp.magnify * side) for side in (height, width)]
    labels = [compute_superpixels(image, count) for count in mfpp.levels]
    most = int(max(level.max() for level in labels)) + 1
    generator = torch.Generator().manual_seed(mfpp.seed)
    masks = []
    for index in range(mfpp.masks):
        draws = torch.rand(most + 2, generator=generator)
        whole = (draws[:-2] < mfpp.keep).float()[labels[index % len(labels)]]
        up = F.interpolate(whole[None, None], large, mode="bilinear", align_corners=False)[0, 0]
        top = int(draws[-2] * (large[0] - height + 1))
        left = int(draws[-1] * (large[1] - width + 1))
        masks.append(up[top : top + height, left : left + width])
    return torch.stack(masks)


VARIANTS = [
    Mfpp(masks=23, batch=7),
    Mfpp(masks=12, levels=(10, 40), keep=0.3, magnify=1.7, seed=2),
    Mfpp(masks=6, levels=(12,), magnify=1.0),
]


@pytest.mark.parametrize("mfpp", VARIANTS)
def test_masks_are_superpixels_magnified_and_cropped(mfpp: Mfpp, images: torch.Tensor) -> None:
    result = torch.cat(list(mfpp._draw_masks(images[0])))
    torch.testing.assert_close(result, literal_masks(images[0], mfpp), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mfpp", VARIANTS)
def test_is_the_mean_of_the_masks_weighted_by_the_class(
    mfpp: Mfpp, residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = mfpp(residual, images, targets)
    for index, target in enumerate(targets.tolist()):
        masks = literal_masks(images[index], mfpp)
        scores = residual(images[index] * masks[:, None]).softmax(dim=1)[:, target]
        expected = sum(score * mask for score, mask in zip(scores, masks, strict=True)) / len(masks)
        torch.testing.assert_close(maps[index], expected.detach(), atol=1e-5, rtol=1e-4)


def test_unmagnified_masks_are_constant_on_every_superpixel(images: torch.Tensor) -> None:
    mfpp = Mfpp(masks=10, levels=(8, 30), magnify=1.0)
    masks = torch.cat(list(mfpp._draw_masks(images[0])))
    assert set(masks.round(decimals=5).unique().tolist()) == {0.0, 1.0}
    for level, count in enumerate(mfpp.levels):
        labels = compute_superpixels(images[0], count)
        for index in labels.unique():
            inside = masks[level::2, labels == index]
            assert torch.equal(inside, inside[:, :1].expand_as(inside))


def test_a_batch_of_images_has_a_mask_of_its_own_image_each(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    mfpp = Mfpp(masks=40, batch=16)
    before = black_box.queries
    together = mfpp(black_box, images, targets)
    assert black_box.queries - before == 3 * 40
    alone = [mfpp(black_box, *one) for one in zip(images.split(1), targets.split(1), strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-5)


def test_stops_early_when_the_map_has_converged(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    before = residual.queries
    Mfpp(masks=2000, batch=32, tolerance=5.0)(residual, images, targets)
    assert residual.queries - before == 3 * 2 * 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masks": 0}, "masks of at least 1, got 0"),
        ({"levels": ()}, "levels of at least 1, got 0"),
        ({"levels": (50, 0)}, "fragments of at least 1, got 0"),
        ({"batch": 0}, "batch of at least 1"),
        ({"keep": 1.5}, r"keep in \(0, 1\), got 1.5"),
        ({"magnify": 0.9}, "magnify of at least 1, got 0.9"),
        ({"tolerance": -1.0}, "tolerance of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"mfpp: expected {message}"):
        Mfpp(**settings)  # type: ignore[arg-type]
