from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from apercu.metrics.pointing import pointing_game, pointing_game_15, true_regions


def slow_pointing_game(
    map: torch.Tensor,
    truth: torch.Tensor,
    tolerance: int,
    scale: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1)),
) -> float:
    peak = map.max().item()
    places = [(y, x) for y in range(map.shape[0]) for x in range(map.shape[1])]
    peaks = [position for position in places if map[position] == peak]
    object_ = [position for position in places if truth[position]]

    def is_hit(peak: tuple[int, int]) -> bool:
        steps = [
            [(a - b) * c for a, b, c in zip(peak, each, scale, strict=True)] for each in object_
        ]
        return peak in object_ or any(y**2 + x**2 < tolerance**2 for y, x in steps)

    hits = [p for p in peaks if is_hit(p)]
    return len(hits) / len(peaks)


@pytest.mark.parametrize("tolerance", [0, 1, 2, 3, 5, 15])
def test_is_the_literal_count_of_peaks_near_the_object(tolerance: int) -> None:
    generator = torch.Generator().manual_seed(3)
    maps = (torch.rand(40, 7, 9, generator=generator) * 8).round()
    truths = torch.rand(40, 7, 9, generator=generator) < 0.06
    truths[0] = False
    literal = [slow_pointing_game(*pair, tolerance) for pair in zip(maps, truths, strict=True)]
    assert len(set(literal)) > 1
    torch.testing.assert_close(pointing_game(maps, truths, tolerance), torch.tensor(literal))


@pytest.mark.parametrize("tolerance", [0, 2, 6, 15])
def test_a_tolerance_is_in_pixels_of_the_stored_picture(tolerance: int) -> None:
    """Every picture has another size; 15 pixels of a large one are few of a squashed one."""
    generator = torch.Generator().manual_seed(4)
    maps = (torch.rand(12, 7, 9, generator=generator) * 8).round()
    truths = torch.rand(12, 7, 9, generator=generator) < 0.06
    sizes = torch.randint(5, 60, (12, 2), generator=generator)
    sizes[0], sizes[1] = torch.tensor([7, 9]), torch.tensor([4000, 6000])
    literal = [
        slow_pointing_game(map, truth, tolerance, (Fraction(size[0], 7), Fraction(size[1], 9)))
        for map, truth, size in zip(maps, truths, sizes.tolist(), strict=True)
    ]
    scores = pointing_game(maps, truths, tolerance, sizes)
    torch.testing.assert_close(scores, torch.tensor(literal))


def test_a_peak_at_exactly_the_tolerance_misses() -> None:
    """9² + 12² = 15²: TorchRay accepts smaller distances only."""
    maps, truths = torch.zeros(3, 20, 20), torch.zeros(3, 20, 20, dtype=torch.bool)
    maps[:, 2, 3] = 1
    truths[0, 11, 15] = truths[1, 11, 14] = truths[2, 2, 18] = True
    sizes = torch.tensor([[20, 20]] * 3)
    assert pointing_game_15(maps, truths, sizes).tolist() == [0, 1, 0]


def test_tied_peaks_count_by_fraction_and_a_constant_map_scores_chance() -> None:
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0] = maps[0, 3, 3] = 1
    truths = torch.zeros(2, 4, 4, dtype=torch.bool)
    truths[:, 0, :3] = True
    assert pointing_game(maps, truths).tolist() == [0.5, 3 / 16]


def test_without_truth_nothing_is_hit() -> None:
    assert pointing_game(torch.rand(1, 4, 4), torch.zeros(1, 4, 4).bool(), 15).item() == 0
    assert pointing_game(torch.rand(1, 4, 4), torch.zeros(1, 2, 4)).item() == 0


def test_any_of_the_true_boxes_will_do() -> None:
    maps = torch.zeros(3, 6, 8)
    maps[0, 1, 2] = maps[1, 4, 7] = maps[2, 5, 0] = 1
    boxes = torch.tensor([[2.0, 1, 4, 3], [6.5, 4, 8, 5]]).expand(3, 2, 4)
    assert pointing_game(maps, boxes).tolist() == [1, 1, 0]


def test_boxes_cover_the_pixels_they_touch() -> None:
    boxes = torch.tensor([[[1.0, 0, 3, 1], [0, 1.5, 0.5, 2]]])
    covered = torch.tensor([[[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]]).bool()
    assert torch.equal(true_regions(boxes, (3, 4)), covered)
