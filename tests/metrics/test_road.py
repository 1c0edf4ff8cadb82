from __future__ import annotations

import pytest
import torch

from apercu.errors import ConfigError
from apercu.metrics.imputation import impute
from apercu.metrics.road import RoadSettings, road

OFFSETS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def slow_impute(image: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """One dense system, one equation per missing pixel."""
    height, width = keep.shape
    places = [(y, x) for y in range(height) for x in range(width) if not keep[y, x]]
    number = {position: index for index, position in enumerate(places)}
    left = torch.zeros(len(places), len(places), dtype=torch.float64)
    right = torch.zeros(len(places), len(image), dtype=torch.float64)
    for (y, x), row in number.items():
        for down, across in OFFSETS:
            other = (y + down, x + across)
            if not (0 <= other[0] < height and 0 <= other[1] < width):
                continue
            weight = 1 / 6 if 0 in (down, across) else 1 / 12
            left[row, row] += weight
            if other in number:
                left[row, number[other]] -= weight
            else:
                right[row] += weight * image[:, other[0], other[1]]
    filled = image.double()
    for (y, x), values in zip(places, torch.linalg.solve(left, right), strict=True):
        filled[:, y, x] = values
    return filled.to(image)


@pytest.mark.parametrize("size", [(1, 6), (3, 3), (9, 14), (21, 17), (30, 30)])
def test_imputed_pixels_solve_the_dense_system(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 3, *size, generator=generator)
    shares = torch.tensor([0.1, 0.5, 0.9, 0.97])[:, None, None]
    keep = torch.rand(4, *size, generator=generator) > shares
    keep[:, 0, 0] = True
    keep[1, :, size[1] // 2 :] = False
    literal = torch.stack([slow_impute(*pair) for pair in zip(images, keep, strict=True)])
    torch.testing.assert_close(impute(images, keep), literal, atol=5e-4, rtol=0)


def test_a_large_hole_in_a_ramp_is_filled_by_the_ramp() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    keep = torch.zeros(1, 64, 64, dtype=torch.bool)
    keep[:, :, 0] = keep[:, :, -1] = True
    torch.testing.assert_close(impute(ramp, keep), ramp, atol=5e-4, rtol=0)


def test_all_or_nothing_to_fill() -> None:
    images = torch.rand(2, 3, 9, 9)
    keep = torch.zeros(2, 9, 9, dtype=torch.bool)
    keep[1] = True
    result = impute(images, keep)
    torch.testing.assert_close(result[0], images[0].mean(dim=(1, 2), keepdim=True).expand(3, 9, 9))
    assert torch.equal(result[1], images[1])


def slow_road(image: torch.Tensor, map: torch.Tensor, settings: RoadSettings) -> float:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(settings.seed))
    values = map.flatten().tolist()
    order = sorted(range(len(values)), key=lambda place: -values[place])
    gaps = []
    for share in settings.fractions:
        count = round(share * len(order))
        logits = []
        for gone in (order[len(order) - count :], order[:count]):
            keep = torch.ones(len(order), dtype=torch.bool)
            keep[gone] = False
            keep = keep.view_as(map)
            filled = slow_impute(image, keep) + ~keep * settings.noise * noise
            logits.append(ask(filled.clamp(0, 1)[None]).softmax(dim=1)[0, 1].item())
        gaps.append((logits[0] - logits[1]) / 2)
    return sum(gaps) / len(gaps)


def ask(images: torch.Tensor) -> torch.Tensor:
    """Class 1 is a bright left half that is rough."""
    left, right = images.chunk(2, dim=3)
    rough = left.diff(dim=2).abs().mean(dim=(1, 2, 3)) * 10
    score = 4 * (left.mean(dim=(1, 2, 3)) - right.mean(dim=(1, 2, 3))) + rough - 2
    return torch.stack((torch.zeros_like(score), score), dim=1)


def test_batches_give_the_score_of_a_literal_loop() -> None:
    generator = torch.Generator().manual_seed(2)
    images, maps = torch.rand(3, 2, 8, 10, generator=generator), torch.randn(3, 8, 10)
    maps[0] = maps[0].round()
    settings = RoadSettings(fractions=(0.25, 0.6, 0.9), noise=0.05, seed=3, batch=5)
    literal = [slow_road(*pair, settings) for pair in zip(images, maps, strict=True)]
    result = road(ask, images, torch.ones(3, dtype=torch.long), maps, settings)
    torch.testing.assert_close(result, torch.tensor(literal), atol=1e-4, rtol=0)


def test_a_map_of_the_evidence_scores_above_zero_and_its_opposite_the_same_below() -> None:
    generator = torch.Generator().manual_seed(4)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    maps = torch.rand(2, 16, 16, generator=generator)
    maps[..., :8] += 1
    target = torch.ones(2, dtype=torch.long)
    informed, untold = road(ask, images, target, maps), road(ask, images, target, -maps)
    assert (informed > 0.05).all()
    torch.testing.assert_close(informed, -untold)


def test_a_constant_map_on_a_constant_image_scores_zero() -> None:
    images = torch.full((1, 3, 12, 12), 0.5)
    score = road(ask, images, torch.tensor([1]), torch.ones(1, 12, 12), RoadSettings(noise=0.0))
    assert score.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"fractions": ()}, r"fractions in \(0, 1\), got \(\)"),
        ({"fractions": (0.5, 1.0)}, r"fractions in \(0, 1\), got \(0.5, 1.0\)"),
        ({"noise": -0.1}, "noise of at least 0"),
        ({"batch": 0}, "a batch of at least 1"),
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        RoadSettings(**setting)  # type: ignore[arg-type]


def test_raw_counts_are_imputed_as_the_same_image_in_smaller_units() -> None:
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = 0, 1
    maps = torch.rand(2, 16, 16, generator=generator)
    weight = torch.randn(2, 3 * 256, generator=generator) / 10

    def ask(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ weight.T

    targets = torch.tensor([0, 1])
    counts = road(
        lambda images: ask(images / 4000), images * 4000, targets, maps, RoadSettings(noise=0.1)
    )
    torch.testing.assert_close(
        counts, road(ask, images, targets, maps, RoadSettings(noise=0.1)), atol=1e-4, rtol=1e-3
    )
