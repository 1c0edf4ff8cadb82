"""Regions and their graph: connected, neighbours matter, and views of one image are matched."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn

from apercu.classifiers import InputSpec
from apercu.errors import ConfigError
from apercu.pretraining.backbone import open_backbone
from apercu.pretraining.pretexts import PretextBatch, PretextNetwork, PretextSample, Regions
from apercu.pretraining.pretexts.contrastive import ViewPair
from apercu.pretraining.pretexts.regions import RegionGraph, build_neighbours
from apercu.training.augment import RandomViews

SIDE = 18
SPEC = InputSpec(channels=3, size=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
PLAIN = ViewPair(crops=RandomViews(whole=1.0, mirror=0.0), brightness=0.0, blur=0.0, noise=0.02)


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _build(pretext: Regions) -> PretextNetwork:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    backbone.append(nn.Flatten())
    parts = pretext.build_parts(PretextSample(torch.zeros(1, 3, SIDE, SIDE), 12, None, 8))
    return PretextNetwork(backbone, SPEC, nn.ModuleDict(parts))


@pytest.mark.parametrize(("grid", "kept"), [(3, 0.6), (4, 0.3), (2, 0.1), (3, 1.0)])
def test_regions_are_connected(grid: int, kept: float) -> None:
    pytest.importorskip("lightly")
    regions = Regions(grid=grid, kept=kept).draw_regions(50, _generator())
    assert set(regions.sum(1).tolist()) == {max(1, round(kept * grid * grid))}
    near = build_neighbours(grid, corners=False).float()
    for region in regions:
        reached = torch.zeros(grid * grid)
        reached[int(region.float().argmax())] = 1
        for _ in range(grid * grid):
            reached = ((reached + reached @ near > 0) & region).float()
        assert torch.equal(reached > 0, region)
    assert kept == 1 or len({tuple(region.tolist()) for region in regions}) > 3


def test_cells_are_cut_row_by_row() -> None:
    pretext = Regions(grid=3)
    image = torch.rand(2, 3, SIDE, SIDE)
    cells = pretext.cut_cells(image)
    assert cells.shape == (2, 9, 3, 6, 6)
    assert torch.equal(cells[1, 5], image[1, :, 6:12, 12:18])
    assert Regions(grid=3, zoom=2.0).cut_cells(image).shape == (2, 9, 3, 12, 12)
    assert Regions(grid=4).cut_cells(image).shape == (2, 16, 3, 4, 4)


def test_a_cell_depends_on_its_neighbours_in_the_region_only() -> None:
    torch.manual_seed(0)
    graph = RegionGraph(5, 3)
    features, whole = torch.randn(1, 9, 5), torch.ones(1, 9, dtype=torch.bool)
    without = whole.clone()
    without[0, 8] = False
    changed = features.clone()
    changed[0, 8] += 1
    assert torch.equal(graph(features, without), graph(changed, without))
    assert not torch.allclose(graph(features, whole), graph(changed, whole))


def test_the_graph_tells_arrangements_apart() -> None:
    """The same cells in another order: without edges they are the same, with edges they are not."""
    torch.manual_seed(0)
    graph = RegionGraph(6, 3)
    features, whole = torch.randn(1, 9, 6), torch.ones(1, 9, dtype=torch.bool)
    shuffled = features[:, torch.randperm(9)]
    assert not torch.allclose(graph(features, whole), graph(shuffled, whole), atol=1e-3)
    with torch.no_grad():
        graph.neighbours.weight.zero_()
    torch.testing.assert_close(graph(features, whole), graph(shuffled, whole))


def test_regions_of_one_image_become_alike() -> None:
    """Images differ in the texture of all their cells, at the same mean colour."""
    pytest.importorskip("lightly")
    textures = torch.randn(24, 3, 3, 3, generator=_generator())
    images = (0.5 + 0.15 * textures.repeat(1, 1, 6, 6)).clamp(0, 1)
    pretext = Regions(grid=3, kept=0.5, views=PLAIN, width=16)
    network = _build(pretext).train()
    before = _measure_loss(pretext, network, images)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-2)
    for step in range(30):
        terms = pretext.compute_losses(network, PretextBatch(images, None, _generator(step)))
        optimiser.zero_grad()
        torch.autograd.backward(terms["nt_xent"].mean())
        optimiser.step()
    assert _measure_loss(pretext, network, images) < 0.9 * before
    batch = PretextBatch(images, None, _generator(99))
    with torch.no_grad():
        assert pretext.measure_errors(network.eval(), batch)["mistaken"].mean() < 0.2


@torch.no_grad()
def _measure_loss(pretext: Regions, network: PretextNetwork, images: Tensor) -> float:
    batch = PretextBatch(images, None, _generator(99))
    return pretext.compute_losses(network, batch)["nt_xent"].mean().item()


def test_a_network_of_one_size_needs_a_zoom() -> None:
    spec = InputSpec(channels=3, size=(160, 160), mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = open_backbone("timm/test_vit", spec, 0)
    with pytest.raises(ConfigError, match="set zoom to 4"):
        Regions(grid=4).check_backbone(backbone)
    Regions(grid=4, zoom=4.0).check_backbone(backbone)
