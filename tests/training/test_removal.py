"""Removals against torchvision and against their documentation."""

from __future__ import annotations

import pytest
import torch
from torch import Generator
from torchvision.transforms.v2.functional import gaussian_blur

from apercu.removal import Alternative, Black, Blur, Colour, Mean, Removal

IMAGES = torch.rand(3, 3, 48, 64, generator=Generator().manual_seed(0))
RANDOM = (Colour(), Alternative())
FIXED = (Black(), Mean(), Blur())


def test_blur_is_torchvisions_in_the_interior() -> None:
    sigma = 10 / 224 * 48
    reach = 7  # what three sigma need
    expected = gaussian_blur(IMAGES, [2 * reach + 1] * 2, [sigma] * 2)
    blurred = Blur().make_replacement(IMAGES)
    inner = (..., slice(reach, -reach), slice(reach, -reach))
    torch.testing.assert_close(blurred[inner], expected[inner], rtol=0, atol=2e-4)


def test_blur_leaves_an_even_image_unchanged_up_to_the_edge() -> None:
    even = torch.full((1, 3, 20, 30), 0.3)
    torch.testing.assert_close(Blur(strength=0.2).make_replacement(even), even)


@pytest.mark.parametrize("removal", [*RANDOM, *FIXED], ids=repr)
def test_full_masks_keep_and_empty_masks_remove(removal: Removal) -> None:
    ones = torch.ones(3, 48, 64)
    kept = removal(IMAGES, ones, Generator().manual_seed(1))
    torch.testing.assert_close(kept, IMAGES)
    removed = removal(IMAGES, 1 - ones, Generator().manual_seed(1))
    torch.testing.assert_close(
        removed, removal.make_replacement(IMAGES, Generator().manual_seed(1))
    )
    assert removed.min() >= 0
    assert removed.max() <= 1


@pytest.mark.parametrize("removal", RANDOM, ids=repr)
def test_every_call_draws_anew_and_a_seed_repeats_it(removal: Removal) -> None:
    images, generator = IMAGES.repeat(10, 1, 1, 1), Generator().manual_seed(3)
    first, second = (removal.make_replacement(images, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, removal.make_replacement(images, Generator().manual_seed(3)))
    before = torch.get_rng_state()
    removal.make_replacement(images, generator)
    assert torch.equal(torch.get_rng_state(), before)


def test_colour_is_one_colour_with_noise() -> None:
    replacement = Colour(noise=0.02).make_replacement(
        torch.zeros(200, 3, 8, 8), Generator().manual_seed(0)
    )
    middle = replacement[((replacement > 0.1) & (replacement < 0.9)).all(dim=(1, 2, 3))]
    assert middle.std(dim=(2, 3)).mean().item() == pytest.approx(0.02, rel=0.1)
    assert middle.mean(dim=(2, 3)).std().item() > 0.15


def test_half_of_the_alternatives_are_blurred() -> None:
    many = IMAGES[:1].expand(400, -1, -1, -1)[:, :, :8, :8]
    replacement = Alternative().make_replacement(many, Generator().manual_seed(0))
    blurred = Blur().make_replacement(many)
    fraction = (replacement == blurred).all(dim=(1, 2, 3)).float().mean().item()
    assert fraction == pytest.approx(0.5, abs=0.08)


def test_gradients_reach_the_masks_only() -> None:
    images = IMAGES.clone().requires_grad_()
    masks = torch.full((3, 48, 64), 0.5, requires_grad=True)
    Blur()(images, masks).sum().backward()
    assert images.grad is None
    assert masks.grad is not None
