"""The diffusion of evidence among similar positions, against a literal version."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from apercu.networks.gate import DIFFUSION_STEPS, affinity_features, diffuse


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
