"""Paths through codes: the cost by its literal formula, closed forms with a linear reader."""

from __future__ import annotations

import math

import pytest
import torch

from apercu.explainers.latent.network import Lagrangian, LatentNetwork, LatentShape

SLOPE = torch.tensor([0.6, -0.8, 0.0])


def linear(codes: torch.Tensor) -> torch.Tensor:
    """Two classes, with a difference of the logits of −2 at the origin."""
    score = codes @ SLOPE
    return torch.stack([torch.zeros_like(score), score - 2], -1)


def test_the_cost_is_the_integral_as_printed() -> None:
    generator = torch.Generator().manual_seed(0)
    path = torch.randn(5, 2, 3, generator=generator)
    targets, evidence = torch.tensor([1, 0]), torch.tensor([2.0, 7.0])
    costs = Lagrangian(points=5).compute_cost(path, linear, targets, evidence)
    step = 1 / 4
    for image in range(2):
        cost = 0.0
        for point in range(1, 5):
            speed = (path[point, image] - path[point - 1, image]) / step
            logits = linear(path[point, image][None])[0]
            doubt = -math.log(torch.softmax(logits, 0)[targets[image]])
            cost += step * (0.5 * float(speed @ speed) + float(evidence[image]) * doubt)
        cost += float(evidence[image]) * doubt  # the end
        assert costs[image].item() == pytest.approx(cost, rel=1e-5)


def test_a_path_keeps_to_the_slope_of_a_linear_reader() -> None:
    start = torch.zeros(2, 3)
    path, share = Lagrangian(evidence=(30.0,), steps=600).find_path(
        start, linear, torch.tensor([1, 1])
    )
    along = path @ SLOPE
    torch.testing.assert_close(path, along[..., None] * SLOPE, atol=0.01, rtol=0)
    assert (along.diff(dim=0) > 0).all()
    # at the optimum of the end: speed = evidence · (1 + step / 1) · doubt's slope there
    end_slope = 1 - torch.softmax(linear(path[-1]), 1)[:, 1]
    speed = (along[-1] - along[-2]) * 6
    torch.testing.assert_close(speed, 30 * (1 + 1 / 6) * end_slope, rtol=0.02, atol=0)
    torch.testing.assert_close(share, 1 - end_slope)


def test_the_shortest_path_that_convinces_is_taken() -> None:
    start, targets = torch.zeros(1, 3), torch.tensor([1])
    weak, weak_share = Lagrangian(evidence=(3.0,)).find_path(start, linear, targets)
    strong, strong_share = Lagrangian(evidence=(100.0,)).find_path(start, linear, targets)
    assert weak_share < 0.9 < strong_share
    both, _ = Lagrangian(evidence=(3.0, 100.0, 1000.0)).find_path(start, linear, targets)
    torch.testing.assert_close(both, strong)
    modest, _ = Lagrangian(evidence=(3.0, 100.0), convinced=0.2).find_path(start, linear, targets)
    torch.testing.assert_close(modest, weak)


def test_paths_of_a_batch_are_those_of_its_images() -> None:
    start = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([1, 0, 1])
    shortest = Lagrangian(steps=40)
    path, share = shortest.find_path(start, linear, targets)
    for image in range(3):
        alone, its = shortest.find_path(
            start[image : image + 1], linear, targets[image : image + 1]
        )
        torch.testing.assert_close(path[:, image], alone[:, 0])
        torch.testing.assert_close(share[image], its[0])


@pytest.mark.parametrize("channels, size", [(1, (40, 56)), (3, (32, 32)), (5, (20, 20))])
def test_moving_nowhere_changes_nothing(channels: int, size: tuple[int, int]) -> None:
    network = LatentNetwork(channels, 4, LatentShape(side=32, code=6, width=8, reader=10)).eval()
    images = torch.rand(2, channels, *size)
    with torch.no_grad():
        codes, spread = network.encode(images)
        assert codes.shape == spread.shape == (2, 6)
        assert network.decode(codes).shape == (2, channels, 32, 32)
        assert network.predict_logits(codes).shape == network.logit_shift(codes).shape == (2, 4)
        assert torch.equal(network.move(images, codes, codes), images)
        moved = network.move(images, codes, codes + 3)
        assert moved.shape == images.shape and not torch.equal(moved, images)
        assert moved.min() >= 0 and moved.max() <= 1
