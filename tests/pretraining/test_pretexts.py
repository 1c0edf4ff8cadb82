"""Pretexts: their targets are what was done to the images, and they can be learnt."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Generator, Tensor, nn

from apercu.classifiers import InputSpec
from apercu.errors import ConfigError
from apercu.pretraining.pretexts import (
    Adios,
    Contrastive,
    Magnitudes,
    Pretext,
    PretextBatch,
    PretextNetwork,
    PretextSample,
    Transformation,
)
from apercu.pretraining.pretexts.adios import GradientReversal, Masker, hide_masked
from apercu.pretraining.pretexts.base import turn_randomly
from apercu.pretraining.pretexts.contrastive import ViewPair
from apercu.pretraining.pretexts.transformation import warp
from apercu.pretraining.settings import PRETEXTS
from apercu.pretraining.train import feature_spread

SPEC = InputSpec(size=(24, 24), mean=(0.5,) * 3, std=(0.5,) * 3)


def _generator() -> Generator:
    return Generator().manual_seed(0)


def _images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 24, 24, generator=_generator())


def _network(pretext: Pretext, targets: Tensor | None = None) -> PretextNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
        )
        parts = pretext.build_parts(PretextSample(_images(), 72, targets, 6))
    return PretextNetwork(backbone, SPEC, nn.ModuleDict(parts))


def _magnitudes() -> Tensor:
    return 14 + 8 * torch.rand(6, 2, generator=_generator())


@pytest.mark.parametrize("name", PRETEXTS.presets)
def test_every_pretext(name: str) -> None:
    pretext = PRETEXTS.presets[name].pretext
    numbers = torch.arange(6.0)[:, None] if name == "clusters" else None
    targets = _magnitudes() if name == "magnitudes" else numbers
    network, images = _network(pretext, targets), _images()
    before = images.clone()
    terms = pretext.compute_losses(network, PretextBatch(images, targets, _generator()))
    again = pretext.compute_losses(network, PretextBatch(images, targets, _generator()))
    for term, value in terms.items():
        assert value.shape == (6,)
        assert value.isfinite().all()
        torch.testing.assert_close(value, again[term])
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    for parameter in network.parameters():
        assert parameter.grad is not None
    assert all(one.grad.abs().sum() > 0 for one in network.parameters() if one.ndim > 1)  # type: ignore[union-attr]
    assert torch.equal(images, before)
    network.eval()
    with torch.no_grad():
        errors = pretext.measure_errors(network, PretextBatch(images, targets, _generator()))
        assert all(value.shape == (6,) for value in errors.values())
        assert pretext.sample_tiles(network, PretextBatch(images[:1], None, _generator()))


def test_missing_magnitudes_do_not_count() -> None:
    pretext, targets = Magnitudes(turned=False), _magnitudes()
    network = _network(pretext, targets)
    labels = targets.clone()
    labels[2, 1] = math.nan
    terms = pretext.compute_losses(network, PretextBatch(_images(), labels, _generator()))[
        "magnitude"
    ]
    share = network.parts["head"](network(_images()))
    off = (30 * share.clamp(0, 1) - targets).abs()
    off[2, 1] = 0
    torch.testing.assert_close(terms.mean(), off.sum() / 11)
    torch.autograd.backward(terms.sum())
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_a_saturated_magnitude_has_gradients() -> None:
    """Brighter than 0: the prediction is 0, the gradients are not."""
    pretext = Magnitudes()
    network = _network(pretext, _magnitudes())
    head = network.parts["head"]
    with torch.no_grad():
        head.bias.fill_(-3)
    targets = _magnitudes()
    terms = pretext.compute_losses(network, PretextBatch(_images(), targets, _generator()))[
        "magnitude"
    ]
    torch.testing.assert_close(terms, targets.mean(1))
    torch.autograd.backward(terms.sum())
    assert (head.bias.grad < 0).all()


def test_dropout_is_drawn_from_the_seed_and_off_in_measurements() -> None:
    pretext = Magnitudes(dropout=0.5, turned=False)
    network, targets = _network(pretext, _magnitudes()), _magnitudes()
    once, again = (
        pretext.compute_losses(network, PretextBatch(_images(), targets, _generator()))["magnitude"]
        for _ in range(2)
    )
    assert torch.equal(once, again)
    whole = Magnitudes(turned=False)
    assert not torch.equal(
        once,
        whole.compute_losses(network, PretextBatch(_images(), targets, _generator()))["magnitude"],
    )
    errors = [
        p.measure_errors(network, PretextBatch(_images(), targets, _generator()))["0"]
        for p in (pretext, whole)
    ]
    assert torch.equal(*errors)


def test_a_full_mask_still_has_a_gradient() -> None:
    pretext = Adios(masks=2, sparsity=1.0)
    network = _network(pretext)
    head = network.parts["masker"].head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([9.0, 0.0]))
    terms = pretext.compute_losses(network, PretextBatch(_images(), None, _generator()))
    torch.autograd.backward(terms["sparsity"].sum())
    assert head.bias.grad is not None
    assert head.bias.grad[0] > 0.01


def test_magnitudes_need_targets() -> None:
    with pytest.raises(ConfigError, match="expected magnitudes with the images"):
        _network(Magnitudes())


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_an_angle_is_counter_clockwise(turns: int) -> None:
    images, angle = _images(), turns * math.pi / 2
    row = torch.tensor([math.cos(angle), math.sin(angle), 0.0, 0.0, 0.0])
    targets = warp(images, row.repeat(6, 1), 0.2, 1.5)
    torch.testing.assert_close(targets, images.rot90(turns, (2, 3)), atol=1e-4, rtol=0)


def test_translation_and_scale() -> None:
    images = torch.zeros(1, 1, 24, 24)
    images[0, 0, 11:13, 11:13] = 1
    row = torch.tensor([[1.0, 0.0, 1.0, -0.5, 0.0]])  # down by all of the shift, left by half
    moved = warp(images, row, 0.25, 1.5)
    expected = images.roll((6, -3), (2, 3))
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)
    doubled = warp(images, torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0]]), 0.25, 2.0)
    assert doubled.sum().item() == pytest.approx(16, rel=0.05)
    assert doubled[0, 0, 10:14, 10:14].mean() > 0.7


def test_errors_of_a_transformation_in_degrees() -> None:
    """A network that always says no turn is off by the angle itself."""
    pretext = Transformation(turn=90.0, shift=0.0, scale=1.0)
    network = _network(pretext)
    last = network.parts["head"][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]))
    _, targets = pretext.transform(_images(), _generator())
    errors = pretext.measure_errors(network, PretextBatch(_images(), None, _generator()))
    angles = torch.rad2deg(torch.atan2(targets[:, 1], targets[:, 0])).abs()
    torch.testing.assert_close(errors["degrees"], angles)
    assert errors["degrees"].max() <= 90


def test_quarter_turns_are_the_eight_positions() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    values = {
        tuple(one.flatten().tolist())
        for one in turn_randomly(image.repeat(200, 1, 1, 1), _generator())
    }
    turned = [image.rot90(k, (2, 3)) for k in range(4)]
    both = [*turned, *(one.flip(3) for one in turned)]
    assert values == {tuple(one.flatten().tolist()) for one in both}


def test_masks_add_up_and_hide() -> None:
    masks = Masker(3, 4, 4).eval()(_images())
    torch.testing.assert_close(masks.sum(1), torch.ones(6, 24, 24))
    image = _images(1)
    torch.testing.assert_close(hide_masked(image, torch.zeros(1, 24, 24)), image)
    grey = hide_masked(image, torch.ones(1, 24, 24))
    torch.testing.assert_close(grey, image.mean((2, 3), keepdim=True).expand_as(image))


def test_gradients_are_reversed() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    torch.autograd.backward((GradientReversal.apply(values, 3.0) * torch.tensor([1.0, 10.0])).sum())
    assert values.grad is not None
    assert values.grad.tolist() == [-3, -30]


def test_the_adversary_raises_the_loss_that_the_backbone_lowers() -> None:
    """A step of the U-Net makes views harder to match; one of the backbone makes it easier."""
    pretext = Adios(sparsity=0.0, views=ViewPair(noise=0.0))
    before = _apart(pretext, steps=None)
    assert _apart(pretext, steps="masker") > before
    assert _apart(pretext, steps="backbone") < before


def _apart(pretext: Adios, steps: str | None) -> float:
    network = _network(pretext)
    lesson = lambda: PretextBatch(_images(), None, _generator())  # noqa: E731
    if steps is not None:
        part = network.parts["masker"] if steps == "masker" else network.backbone
        optimiser = torch.optim.SGD(part.parameters(), 0.02)
        for _ in range(5):
            optimiser.zero_grad()
            torch.autograd.backward(pretext.compute_losses(network, lesson())["apart"].mean())
            optimiser.step()
    return pretext.compute_losses(network, lesson())["apart"].mean().item()


def test_an_area_of_a_half_is_the_cheapest() -> None:
    pretext = Adios(masks=2, sparsity=1.0)
    network = _network(pretext)
    head = network.parts["masker"].head
    costs = []
    for lean in (0.0, 3.0):
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.tensor([lean, 0.0]))
        terms = pretext.compute_losses(network, PretextBatch(_images(), None, _generator()))
        costs.append(terms["sparsity"].mean().item())
    share = 1 / (1 + math.exp(-3))
    assert costs == pytest.approx([1, 1 / math.sin(math.pi * share)], rel=0.03)


def test_contrastive_losses_are_lightlys() -> None:
    loss = pytest.importorskip("lightly.loss")
    pretext = Contrastive(loss="vicreg")
    network = _network(pretext)
    terms = pretext.compute_losses(network, PretextBatch(_images(), None, _generator()))["vicreg"]
    one, other = pretext.views(_images(), _generator())
    project = network.parts["projection"]
    pair = project(network(torch.cat([one, other]))).chunk(2)
    torch.testing.assert_close(terms.mean(), loss.VICRegLoss()(*pair))


def test_collapsed_features_have_no_spread() -> None:
    assert feature_spread(torch.ones(8, 5)).item() == pytest.approx(0, abs=1e-6)
    assert feature_spread(torch.randn(500, 50, generator=_generator())).item() == pytest.approx(
        1, abs=0.05
    )


@pytest.fixture(autouse=True)
def _fixed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
