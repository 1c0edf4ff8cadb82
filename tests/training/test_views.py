"""Crops, random views and the order of training images."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Generator

from apercu.classifiers.names import ClassNames
from apercu.errors import ImageError, ImagesError
from apercu.images import ImageSource, Item
from apercu.training.augment import RandomExposure, RandomViews, crop
from apercu.training.data import EndlessSampler, LabelTarget, TrainingImages

IMAGES = torch.rand(2, 3, 12, 16, generator=Generator().manual_seed(0))


def test_a_crop_is_a_slice_stretched_to_the_full_size() -> None:
    boxes = torch.tensor([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.5, 0.25]])
    result = crop(IMAGES, boxes)
    slices = (IMAGES[0, :, 6:12, 4:12], IMAGES[1, :, 0:3, 0:8])
    for one, part in zip(result, slices, strict=True):
        stretched = torch.nn.functional.interpolate(part[None], (12, 16), mode="bilinear")[0]
        inner = (slice(None), slice(3, -3), slice(2, -2))  # the slice knows nothing beyond it
        torch.testing.assert_close(one[inner], stretched[inner], rtol=0, atol=1e-5)


def test_the_whole_image_is_cropped_to_itself() -> None:
    torch.testing.assert_close(crop(IMAGES, torch.tensor([[0.0, 0, 1, 1]]).expand(2, 4)), IMAGES)


def test_views_are_repeated_by_their_generator() -> None:
    first = RandomViews()(IMAGES, Generator().manual_seed(1))
    assert torch.equal(first, RandomViews()(IMAGES, Generator().manual_seed(1)))
    assert not torch.equal(first, RandomViews()(IMAGES, Generator().manual_seed(2)))
    plain = RandomViews(whole=1.0, mirror=0.0)(IMAGES, Generator().manual_seed(1))
    torch.testing.assert_close(plain, IMAGES)
    mirrored = RandomViews(whole=1.0, mirror=1.0)(IMAGES, Generator().manual_seed(1))
    torch.testing.assert_close(mirrored, IMAGES.flip(3))


def test_exposure_without_changes_returns_the_images() -> None:
    generator = Generator().manual_seed(1)
    assert RandomExposure()(IMAGES, generator) is IMAGES
    assert generator.get_state().equal(Generator().manual_seed(1).get_state())


def test_contrast_and_brightness_are_those_of_the_formula() -> None:
    views = RandomExposure(contrast=0.2, brightness=0.1)(IMAGES, Generator().manual_seed(1))
    draws = 2 * torch.rand(5, 2, 1, 1, 1, generator=Generator().manual_seed(1)) - 1
    for view, image, contrast, brightness in zip(views, IMAGES, draws[1], draws[2], strict=True):
        expected = (image - 0.5) * (1 + 0.2 * contrast) + 0.5 + 0.1 * brightness
        torch.testing.assert_close(view, expected.clamp(0, 1))


@pytest.mark.parametrize(
    "exposure",
    [
        RandomExposure(gamma=1.5),
        RandomExposure(contrast=0.3),
        RandomExposure(brightness=0.2),
        RandomExposure(blur=1.0),
        RandomExposure(noise=0.1),
    ],
)
def test_each_change_of_the_exposure_differs_between_images(exposure: RandomExposure) -> None:
    images = IMAGES[:1].expand(8, -1, -1, -1)
    views = exposure(images, Generator().manual_seed(1))
    assert views.shape == images.shape and views.min() >= 0 and views.max() <= 1
    assert len({round(float(view.sub(images[0]).abs().mean()), 6) for view in views}) > 3
    assert torch.equal(views, exposure(images, Generator().manual_seed(1)))


def test_gamma_keeps_black_and_white_and_gives_finite_gradients() -> None:
    images = torch.tensor([0.0, 0.5, 1.0]).expand(4, 1, 1, 3).clone().requires_grad_()
    views = RandomExposure(gamma=3.0)(images, Generator().manual_seed(0))
    assert views[..., 0].max() < 0.05 and torch.equal(views[..., 2], torch.ones(4, 1, 1))
    views.sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [{"gamma": 0.5}, {"contrast": 1.0}, {"brightness": -0.1}, {"blur": 2.0}, {"noise": -1.0}],
)
def test_exposure_refuses_what_it_cannot_draw(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Input should be"):
        RandomExposure(**wrong)


def test_the_order_holds_every_image_once_per_pass() -> None:
    order = list(islice(EndlessSampler(7, seed=3), 21))
    passes = [order[start : start + 7] for start in (0, 7, 14)]
    assert [sorted(one) for one in passes] == [list(range(7))] * 3
    assert passes[0] != passes[1]
    assert order != list(islice(EndlessSampler(7, seed=4), 21))


def test_the_order_goes_on_from_anywhere() -> None:
    whole = list(islice(EndlessSampler(7, seed=3), 30))
    assert list(islice(EndlessSampler(7, seed=3, start=11), 19)) == whole[11:]


def test_ranks_share_the_order() -> None:
    whole = list(islice(EndlessSampler(7, seed=3), 28))
    shares = [list(islice(EndlessSampler(7, 3, rank=rank, ranks=2), 14)) for rank in (0, 1)]
    assert [one for pair in zip(*shares, strict=True) for one in pair] == whole


class Broken(ImageSource):
    """Some images cannot be read."""

    name = "broken"
    class_names = None
    labelled = False
    names = tuple(map(str, range(10)))

    def __init__(self, readable: set[int]) -> None:
        self.readable = readable

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Item:
        if index not in self.readable:
            raise ImageError(f"{index}: not an image")
        return Item(str(index), torch.full((3, 4, 4), index / 10), f"n{index}", None, None)


class Plain:
    def prepare(self, picture: torch.Tensor, fit: str = "squash") -> torch.Tensor:
        return picture


def test_an_image_that_stands_in_brings_its_own_class() -> None:
    names = ClassNames.of([f"n{(number + 1) % 10}" for number in range(10)])
    images = TrainingImages(Broken({0, 3, 7}), Plain(), target_of=LabelTarget(names))
    (three, of_three), (stand_in, of_stand_in) = images[3], images[4]
    assert (three.mean().item(), of_three) == (pytest.approx(0.3), 2)
    assert (stand_in.mean().item(), of_stand_in) == (pytest.approx(0.7), 6)


def test_an_unreadable_image_gives_its_neighbour() -> None:
    images = TrainingImages(Broken({0, 3, 4, 7}), Plain())
    assert images[3].mean().item() == pytest.approx(0.3)
    assert images[5].mean().item() == pytest.approx(0.7)
    assert images[8].mean().item() == pytest.approx(0.0)


def test_images_that_are_iterated_over_end() -> None:
    images = TrainingImages(Broken(set(range(10))), Plain())
    assert sum(1 for _ in iter(images)) == 10
    assert images[-1].mean().item() == pytest.approx(0.9)
    with pytest.raises(IndexError, match="expected an index of 10 images, got 10"):
        images[10]


def test_too_many_unreadable_images_are_an_error() -> None:
    with pytest.raises(
        ImagesError, match="5 images in a row cannot be used, the last because 5: not an image"
    ):
        _ = TrainingImages(Broken({0}), Plain())[1]


def test_a_quarter_turn_of_a_square_is_exact() -> None:
    square = torch.rand(2, 3, 8, 8, generator=Generator().manual_seed(3))
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, -1)
    turned = crop(square, whole, rotations=torch.tensor([torch.pi / 2, 0.0]))
    assert torch.allclose(turned[0], square[0].rot90(1, (1, 2)), atol=1e-5)
    assert torch.allclose(turned[1], square[1], atol=1e-5)


def test_turning_keeps_angles_in_images_that_are_not_square() -> None:
    wide = torch.zeros(1, 1, 21, 41)
    wide[0, 0, 10, 28] = 1.0  # eight pixels to the right of the centre
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    turned = crop(wide, whole, rotations=torch.tensor([torch.pi / 2]))
    index = turned[0, 0].flatten().argmax().item()
    assert divmod(index, 41) == (2, 20)  # eight pixels above it


def test_views_turn_by_no_more_than_they_are_told() -> None:
    views = RandomViews(whole=1.0, mirror=0.0, turn=10.0)
    ramp = torch.linspace(0, 1, 64).expand(40, 1, 64, 64)
    turned = views(ramp, Generator().manual_seed(4))[:, 0, 24:40, 24:40]
    down, across = turned.diff(dim=1).mean((1, 2)), turned.diff(dim=2).mean((1, 2))
    angles = torch.rad2deg(torch.atan2(down, across))
    assert angles.abs().max() <= 10.1
    assert angles.min() < -7 and angles.max() > 7
