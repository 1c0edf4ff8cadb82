"""The diffusion of evidence among similar positions, against a literal version."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import label

from apercu.explainers.mask.network import combine_fields
from apercu.networks.diffusion import (
    DIFFUSION_STEPS,
    affinity_features,
    connect_to_peak,
    diffuse,
    diffuse_finely,
)


def test_diffusion_is_the_literal_random_walk():
    torch.manual_seed(0)
    gate, features = torch.rand(1, 1, 2, 2), torch.randn(1, 3, 4, 4)
    start = F.interpolate(gate, (4, 4), mode="bilinear")[0, 0].flatten().tolist()
    mean = features.mean((2, 3))[0]
    vectors = [features[0, :, i // 4, i % 4] - mean for i in range(16)]
    values = list(start)
    for _ in range(DIFFUSION_STEPS):
        means = []
        for own in vectors:
            weights = [max(0.0, float(F.cosine_similarity(own, other, dim=0))) for other in vectors]
            total = sum(w * v for w, v in zip(weights, values, strict=True))
            means.append(total / sum(weights))
        values = means
    low, high = min(values), max(values)
    stretched = [(value - low) / (high - low) * max(start) for value in values]
    expected = torch.tensor([(a + b) / 2 for a, b in zip(start, stretched, strict=True)])
    torch.testing.assert_close(diffuse(gate, features).flatten(), expected)


def test_a_fine_map_keeps_half_of_its_detail():
    torch.manual_seed(0)
    maps, features = torch.rand(2, 1, 16, 16), torch.randn(2, 5, 4, 4)
    coarse = F.interpolate(maps, (4, 4), mode="area")
    walk = 2 * diffuse(coarse, features) - coarse
    wide = F.interpolate(walk, (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(diffuse(maps, features), (maps + wide) / 2)


def test_evidence_spreads_over_the_object_and_not_over_the_rest():
    features = torch.zeros(1, 2, 6, 6)
    features[0, 0] = 1
    features[0, :, 1:5, 1:3] = torch.tensor([0.0, 1.0])[:, None, None]  # a bird
    gate = torch.zeros(1, 1, 6, 6)
    gate[0, 0, 1, 1] = 1  # its head
    spread = diffuse(gate, features)[0, 0]
    bird = torch.zeros(6, 6, dtype=torch.bool)
    bird[1:5, 1:3] = True
    assert spread[bird].min() > 0.4 and spread[~bird].max() == 0


def test_a_closed_gate_stays_closed():
    assert diffuse(torch.zeros(2, 1, 3, 3), torch.randn(2, 4, 5, 5)).abs().sum() == 0


def test_affinity_features_are_the_coarsest_map_that_is_fine_enough():
    sizes = {
        (112, 56, 28, 14, 7): 14,
        (111, 55, 27, 13): 14,  # 27 rows, averaged in pairs
        (16, 8, 4): 16,
        (8, 4): 8,
        (224,): 14,
    }
    for rows, expected in sizes.items():
        features = affinity_features([torch.rand(1, 2, row, row) for row in rows])
        assert abs(features.shape[2] - expected) <= 1


def test_the_fine_walk_asks_several_maps_literally():
    """The mean of the cosines of the two coarsest fine maps, on the finer grid."""
    torch.manual_seed(0)
    maps = torch.rand(1, 1, 14, 15)
    features = [torch.randn(1, 2, 56, 60), torch.randn(1, 3, 28, 30), torch.randn(1, 4, 14, 15)]
    grid = (28, 30)
    vectors = []
    for each in features[1:]:
        large = F.interpolate(each, grid, mode="bilinear", align_corners=False)
        centred = large - large.mean((2, 3), keepdim=True)
        vectors.append(F.normalize(centred, dim=1)[0].flatten(1).T)
    cosines = sum(each @ each.T for each in vectors) / 2
    weights = cosines.clamp(min=0)
    start = F.interpolate(maps, grid, mode="bilinear", align_corners=False).flatten()
    values = start
    for _ in range(DIFFUSION_STEPS):
        values = weights @ values / weights.sum(1)
    low, high = values.min(), values.max()
    expected = (start + (values - low) / (high - low) * start.max()) / 2
    torch.testing.assert_close(
        diffuse_finely(maps, [*features, features[2][:, :, ::2, ::2]]).flatten(), expected
    )


def test_the_fine_walk_has_a_bounded_grid_and_works_on_small_images():
    for rows, expected in (([80, 40, 20, 10], 28), ([16, 8, 4], 16), ([224, 112, 56], 28)):
        features = [torch.rand(1, 2, row, row) for row in rows]
        coarse = torch.rand(1, 1, 4, 4)
        assert diffuse_finely(coarse, features).shape[2:] == (expected, expected)


def test_what_is_connected_with_the_peak_is_the_labelled_part_at_every_level():
    noise = torch.rand(3, 2, 12, 17, generator=torch.Generator().manual_seed(1))
    maps = F.avg_pool2d(noise, 3, 1, 1, count_include_pad=False)  # paths wind little
    maps = (maps - maps.amin()) / (maps.amax() - maps.amin())
    order = torch.rand(3, 2, 12, 17, generator=torch.Generator().manual_seed(2))
    connected = connect_to_peak(maps, order)
    assert (connected <= maps).all()
    for map, rank, result in zip(
        maps.flatten(0, 1), order.flatten(0, 1), connected.flatten(0, 1), strict=True
    ):
        row, column = divmod(int(rank.argmax()), 17)
        for level in (0.2, 0.5, 0.8):
            parts, _ = label(map.numpy() >= level, structure=np.ones((3, 3)))
            part = torch.from_numpy(parts == parts[row, column]) & (map >= level)[row, column]
            assert torch.equal(result >= level, part & (map >= level))


def test_two_objects_become_one_at_the_level_of_an_object():
    extent = torch.zeros(1, 1, 8, 12)
    extent[..., 1:4, 1:5], extent[..., 4:7, 7:11] = 0.9, 0.8
    core = torch.where(extent > 0, 0.3, 0.0)
    core[..., 5, 8] = 0.9
    connected = connect_to_peak(extent, extent * core)
    masks = combine_fields(extent, core, connected).sigmoid()
    assert torch.equal(masks >= 0.5, extent > 0.5)
    assert torch.equal(masks >= 0.55, extent == 0.8)
    assert masks.argmax() == 5 * 12 + 8
    regions = [masks >= level for level in torch.linspace(0.05, 0.95, 19)]
    for wide, narrow in itertools.pairwise(regions):
        assert not (narrow & ~wide).any()
