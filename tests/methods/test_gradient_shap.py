from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError, ImageError
from apercu.log import redirect_warnings
from apercu.methods.gradient_shap import BASELINES, GradientShap

Opened = Callable[[torch.nn.Module], Classifier]


def draws_of(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the path and random colours, one draw after the other."""
    generator = torch.Generator().manual_seed(seed)
    fractions, colours = [], []
    for number in range(samples):
        fractions.append((number + float(torch.rand((), generator=generator))) / samples)
        colours.append(torch.rand(1, 3, 1, 1, generator=generator))
        torch.randn(1, 3, 24, 32, generator=generator)  # noise of strength 0 on the colour
    return torch.tensor(fractions), torch.cat(colours).expand(samples, 3, 24, 32)


def test_is_that_of_captum_for_the_same_draws(
    residual: Classifier,
    images: torch.Tensor,
    targets: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from captum.attr import GradientShap as Captum

    fractions, baselines = draws_of(6, seed=3)
    # captum draws the row of a baseline for each copy of each image, then points for all copies
    order = iter(range(len(images) * 6))

    def choose_rows(rows: int, size: int) -> np.ndarray:
        return np.array([next(order) % 6 for _ in range(size)])

    def draw_points(low: float, high: float, size: int) -> np.ndarray:
        return np.tile(fractions.numpy(), len(images))

    monkeypatch.setattr(np.random, "choice", choose_rows)
    monkeypatch.setattr(np.random, "uniform", draw_points)
    expected = Captum(residual.compute_logits_unchecked).attribute(
        images.clone(), baselines.contiguous(), n_samples=6, target=targets
    )
    maps = GradientShap(samples=6, seed=3)(residual, images, targets)
    torch.testing.assert_close(maps, expected.detach().sum(1), atol=1e-6, rtol=1e-4)


def test_of_a_linear_classifier_is_weight_times_difference_to_the_mean_baseline(
    linear: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    """For each baseline the map sums up to the logit of the image minus that of the baseline."""
    _, baselines = draws_of(5, seed=0)
    maps = GradientShap(samples=5)(linear, images, targets)
    ends = linear.compute_logits_unchecked(images), linear.compute_logits_unchecked(baselines)
    expected = ends[0].gather(1, targets[:, None])[:, 0] - ends[1].mean(0)[targets]
    torch.testing.assert_close(maps.sum((1, 2)), expected, atol=1e-4, rtol=1e-4)


def test_sums_up_to_the_difference_of_logits_in_expectation(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    """One black baseline, many points: the integral along the path is the difference of logits."""
    maps = GradientShap(samples=300, baselines="black", batch=300)(residual, images, targets)
    black = residual.compute_logits_unchecked(torch.zeros_like(images))
    difference = (residual.compute_logits_unchecked(images) - black).gather(1, targets[:, None])
    torch.testing.assert_close(maps.sum((1, 2)), difference[:, 0], atol=0.01, rtol=0.02)


def test_every_kind_of_baseline_gives_its_own_map(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor, tmp_path: Path
) -> None:
    for number in range(3):
        value = np.full((20, 20, 3), 80 * number, np.uint8)
        Image.fromarray(value).save(tmp_path / f"{number}.png")
    kinds = (*BASELINES, str(tmp_path))
    maps = [GradientShap(4, baselines=kind)(residual, images, targets) for kind in kinds]
    for index, one in enumerate(maps):
        assert one.isfinite().all()
        assert all((one - other).abs().max() > 1e-5 for other in maps[:index])
    first = GradientShap(4, baselines=str(tmp_path))(residual, images[:1], targets[:1])
    torch.testing.assert_close(first, maps[-1][:1], atol=1e-5, rtol=1e-4)


def test_a_black_baseline_is_blind_to_black(linear: Classifier) -> None:
    black = torch.zeros(1, 3, 24, 32)
    assert GradientShap(4, baselines="black")(linear, black, 1).abs().max() == 0
    assert GradientShap(4)(linear, black, 1).abs().max() > 0


def test_other_images_in_the_folder_give_another_key(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    method = GradientShap(baselines=str(tmp_path))
    before = method.cache_key
    assert method.cache_key == before != repr(method)
    os.utime(path, (1, 1))
    assert method.cache_key != before


def test_baselines_that_cannot_be_read_are_replaced(linear: Classifier, tmp_path: Path) -> None:
    size = (linear.size[1], linear.size[0])
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", size, colour).save(tmp_path / f"{number}.png")
    images, lines = torch.full((2, 3, *linear.size), 0.5), list[str]()
    method = GradientShap(2, baselines=str(tmp_path))
    before = method(linear, images, 1)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(0)).tolist()
    unread = tmp_path / f"{order[0]}.png"
    content = unread.read_bytes()
    unread.write_bytes(content[:60])
    with redirect_warnings(lines.append):
        after = method(linear, images, 1)
        assert torch.equal(method(linear, images, 1), after)
    unread.unlink()
    assert not torch.equal(before, after)
    (line,) = lines  # not again for every batch
    assert line.startswith(f"{tmp_path}: 1 of 3 images cannot be read and are left out, the first")
    for file in tmp_path.iterdir():
        file.write_bytes(content[:60])
    with pytest.raises(ImageError, match="damaged or cut short"):
        method(linear, images, 1)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"samples": 0}, "samples and batch of at least 1, got 0"),
        ({"baselines": "gray"}, "expected baselines colour, .*got 'gray'; did you mean grey"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        GradientShap(**settings)  # type: ignore[arg-type]


def test_a_black_box_is_refused(
    black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    with pytest.raises(ClassifierError, match="gradient_shap needs a classifier with gradients"):
        GradientShap()(black_box, images, targets)
