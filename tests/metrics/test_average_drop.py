from __future__ import annotations

import pytest
import torch

from apercu.metrics.average_drop import average_drop, drop_in_deletion, increase

IMAGES = torch.ones(4, 1, 5, 5)
MAPS = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(1))


class Says:
    """Probabilities of class 1: the first for whole images, the second for masked ones."""

    def __init__(self, whole: torch.Tensor, masked: torch.Tensor) -> None:
        self.whole, self.masked = whole, masked

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        is_whole = (images == 1).all(dim=3).all(dim=2).all(dim=1)
        probability = torch.where(is_whole, self.whole, self.masked)
        return torch.stack((1 - probability, probability), dim=1).log()


def targets(images: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(images), dtype=torch.long)


def four(value: float) -> torch.Tensor:
    return torch.full((4,), value)


@pytest.mark.parametrize(
    ("whole", "masked", "drop", "rise", "deletion"),
    [(0.4, 0.9, 0, 1, -1.25), (0.8, 0.6, 0.25, 0, 0.25), (0.5, 0.0, 1, 0, 1), (0.5, 0.5, 0, 0, 0)],
)
def test_rising_and_falling_scores(
    whole: float, masked: float, drop: float, rise: float, deletion: float
) -> None:
    given = Says(four(whole), four(masked)), IMAGES, targets(IMAGES), MAPS
    assert average_drop(*given).tolist() == pytest.approx([drop] * 4, abs=1e-6)
    assert increase(*given).tolist() == [rise] * 4
    assert drop_in_deletion(*given).tolist() == pytest.approx([deletion] * 4, abs=1e-6)


def test_random_scores_rise_as_often_as_they_fall() -> None:
    """The authors of the check drew a few images and measured about 0.6."""
    generator = torch.Generator().manual_seed(2)
    whole, masked = torch.rand(2, 2000, generator=generator)
    images = torch.ones(2000, 1, 2, 2)
    maps = torch.rand(2000, 2, 2, generator=generator)
    given = Says(whole, masked), images, targets(images), maps
    assert increase(*given).tolist() == (masked > whole).float().tolist()
    assert increase(*given).mean().item() == pytest.approx(0.5, abs=0.1)
    literal = [max(0, a - b) / a for a, b in zip(whole.tolist(), masked.tolist(), strict=True)]
    torch.testing.assert_close(average_drop(*given), torch.tensor(literal), atol=1e-4, rtol=1e-3)


def test_the_stretched_map_keeps_and_its_inverse_removes() -> None:
    displayed = []

    def ask(images: torch.Tensor) -> torch.Tensor:
        displayed.append(images)
        return torch.zeros(len(images), 2)

    images = torch.rand(1, 3, 1, 3)
    maps = torch.tensor([[[-1.0, 0, 3]]])
    keep = torch.tensor([0, 0.25, 1])
    for metric, mask in ((average_drop, keep), (increase, keep), (drop_in_deletion, 1 - keep)):
        displayed.clear()
        metric(ask, images, torch.tensor([0]), maps)
        torch.testing.assert_close(displayed, [images, images * mask])


def test_a_constant_map_gives_black_and_a_probability_of_zero_cannot_drop() -> None:
    constant = torch.full((4, 5, 5), 0.7)
    given = IMAGES, targets(IMAGES), constant
    assert average_drop(Says(four(0.5), four(0.0)), *given).tolist() == [1] * 4
    assert drop_in_deletion(Says(four(0.5), four(0.0)), *given).tolist() == [0] * 4
    impossible = Says(four(0.0), four(0.5)), IMAGES, targets(IMAGES), MAPS
    assert average_drop(*impossible).tolist() == [0] * 4
    assert drop_in_deletion(*impossible).tolist() == [0] * 4
