"""Colours from other bands: hidden bands are never seen, what depends on the others is learnt."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn

from apercu.classifiers import InputSpec
from apercu.errors import ConfigError, ImagesError
from apercu.pretraining.backbone import open_backbone
from apercu.pretraining.heads import FineTuning, LabelledFeatures, Linear
from apercu.pretraining.heads.base import join_features
from apercu.pretraining.pretexts import Colours, PretextBatch, PretextNetwork, PretextSample

SIDE = 16
SPEC = InputSpec(channels=3, size=(SIDE, SIDE), mean=(0.4, 0.5, 0.6), std=(0.2,) * 3)


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _bands(count: int, seed: int = 0) -> Tensor:
    """Images whose band 2 is the negative of band 0; band 1 is independent of both."""
    levels = torch.rand(count, 2, 1, 1, generator=_generator(seed)).expand(-1, -1, SIDE, SIDE)
    first, second = levels.unbind(1)
    return torch.stack([first, second, 1 - first], 1)


def _build(pretext: Colours, images: Tensor) -> PretextNetwork:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    pretext.start_backbone(backbone, 3)
    parts = pretext.build_parts(PretextSample(images, 8, None, len(images)))
    return PretextNetwork(backbone, SPEC, nn.ModuleDict(parts))


def _ratio(pretext: Colours, steps: int = 40) -> tuple[float, PretextNetwork]:
    """The error after some steps as a fraction of that of the usual colour."""
    images = _bands(48)
    network = _build(pretext, images).train()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-2, weight_decay=0.1)
    for step in range(steps):
        terms = pretext.compute_losses(network, PretextBatch(images, None, _generator(step)))
        optimiser.zero_grad()
        torch.autograd.backward(terms["colour"].mean())
        optimiser.step()
    errors = pretext.measure_errors(network.eval(), PretextBatch(_bands(48, 1), None, _generator()))
    return (errors["colour"].mean() / errors["constant_colour"].mean()).item(), network


def test_only_what_the_other_bands_tell_is_learnt() -> None:
    told, _ = _ratio(Colours(hidden=(2,), side=4, width=8, dropout=0.0))
    independent, _ = _ratio(Colours(hidden=(1,), side=4, width=8, dropout=0.0))
    assert told < 0.5
    assert independent > 0.95  # no image tells it, so the usual colour is the best answer


def test_hidden_bands_never_reach_the_features() -> None:
    _, network = _ratio(Colours(hidden=(0, 2), side=4, width=8), steps=3)
    images = _bands(4)
    changed = images.clone()
    changed[:, [0, 2]] = torch.rand(4, 2, SIDE, SIDE, generator=_generator(5))
    assert torch.equal(network(images), network(changed))
    changed[:, 1] += 0.1
    assert not torch.equal(network(images), network(changed))


@pytest.mark.parametrize("hidden", [(0, 1, 2), (3,), (1, 1), (-1,)])
def test_bands_that_cannot_be_hidden(hidden: tuple[int, ...]) -> None:
    backbone = open_backbone("timm/test_resnet", SPEC, 0)
    with pytest.raises(ConfigError, match="expected different numbers below 3"):
        Colours(hidden=hidden).check_backbone(backbone)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit"])
def test_backbones_whose_first_layer_takes_all_bands(name: str) -> None:
    spec = InputSpec(channels=4, size=(160, 160), mean=(0.5,) * 4, std=(0.5,) * 4)
    backbone = open_backbone(name, spec, 0)
    before = {key: value.clone() for key, value in backbone.module.state_dict().items()}
    Colours(hidden=(1, 3)).check_backbone(backbone)
    after = backbone.module.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_joined_features_know_what_each_part_knows() -> None:
    """Neither part tells four classes apart; both together do."""
    labels = torch.arange(80) % 4
    noise = 0.1 * torch.randn(80, 2, generator=_generator())
    first = LabelledFeatures((labels % 2)[:, None] + noise[:, :1], labels)
    second = LabelledFeatures(100.0 * (labels // 2)[:, None] + noise[:, 1:], labels)
    both = join_features([first, second])
    accuracies = [
        (Linear().predict(part, range(80), part, 0) == labels).float().mean().item()
        for part in (first, second, both)
    ]
    assert accuracies[2] == 1
    assert max(accuracies[:2]) < 0.8
    other = LabelledFeatures(first.features, labels.flip(0))
    with pytest.raises(ImagesError, match="expected the same images"):
        join_features([first, other])
    with pytest.raises(ConfigError, match="expected the images of the features"):
        FineTuning().predict(both, range(80), both, 0)
