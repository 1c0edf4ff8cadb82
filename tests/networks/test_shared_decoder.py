"""The shared decoder against a literal version; more classes need no more passes of features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apercu.explainers.mask.network import MaskNetwork
from apercu.networks.encoder import SmallEncoder
from apercu.networks.shared_decoder import SharedDecoder, SharedShape

SHAPE = SharedShape(width=4, filters=3, resolution=2)


def make_network(shape: SharedShape = SHAPE) -> MaskNetwork:
    torch.manual_seed(0)
    network = MaskNetwork(SmallEncoder(3, width=8), 5, shape, frozen=False).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def apply_literally(weights: torch.Tensor, features: torch.Tensor, gate: torch.Tensor) -> list:
    """Sum channel by channel, for each filter of one class and one image."""
    filters = []
    rows = weights.reshape(-1, len(features) + 2) / len(features) ** 0.5
    for *of_channels, of_gate, bias in rows:
        total = of_gate * gate + bias
        for weight, channel in zip(of_channels, features, strict=True):
            total = total + weight * channel
        filters.append(total)
    return filters


@pytest.mark.parametrize("coarse_filters", [0, 5])
def test_evidence_is_the_class_filter_on_the_shared_features(coarse_filters):
    decoder = make_network(replace(SHAPE, coarse_filters=coarse_filters)).decoder
    deepest = torch.randn(2, 32, 4, 4)
    skips = {2: torch.randn(2, 8, 16, 16), 4: torch.randn(2, 16, 8, 8)}
    gate = torch.rand(2, 1, 4, 4)
    evidence = decoder(skips, deepest, gate)
    for i in range(2):
        keys = features = decoder.keys(deepest[i : i + 1])
        for step, stride in zip(decoder.steps, (4, 2), strict=True):
            coarser, skip = features, skips[stride][i : i + 1]
            up = F.interpolate(step.below(features), skip.shape[2:], mode="bilinear")
            features = step.smooth(up + step.narrow(skip))
        fine_gate = F.interpolate(gate[i : i + 1], (16, 16), mode="bilinear")
        mean_key = (keys * gate[i]).sum((0, 2, 3)) / gate[i].sum()
        hidden = apply_literally(decoder.filters(mean_key), features[0], fine_gate[0, 0])
        if coarse_filters:
            gate_there = F.interpolate(gate[i : i + 1], (8, 8), mode="bilinear")[0, 0]
            weights = decoder.coarse.filters(mean_key)
            there = torch.stack(apply_literally(weights, coarser[0], gate_there)).relu()[None]
            convolution, norm, _ = decoder.coarse.smooth
            padded = F.pad(there, (1, 1, 1, 1))
            around = sum(
                torch.einsum(
                    "oi,nihw->nohw",
                    convolution.weight[:, :, y, x],
                    padded[:, :, y : y + 8, x : x + 8],
                )
                for y in range(3)
                for x in range(3)
            )
            added = decoder.coarse.project(there + norm(around).relu())
            added = F.interpolate(added, (16, 16), mode="bilinear")[0]
            hidden = [one + other for one, other in zip(hidden, added, strict=True)]
        hidden = [channel.relu() for channel in hidden]
        rows = torch.stack(
            [*hidden, *(channel * fine_gate[0, 0] for channel in hidden), fine_gate[0, 0]]
        )
        a, b, c, d = (
            torch.einsum("oi,ihw->ohw", decoder.head.weight[:, :, 0, 0], rows)
            + (decoder.head.bias[:, None, None])
        )
        logs = [(channel.abs() + 1e-3).log() for channel in (a, b, c, d)]
        torch.testing.assert_close(evidence.extent[i], logs[0] - logs[1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(evidence.core[i], logs[2] - logs[3], atol=1e-4, rtol=1e-4)


def test_classes_of_an_image_share_one_pass_of_its_features(monkeypatch):
    network = make_network()
    features = network.encode(torch.rand(1, 3, 32, 32))
    classes = torch.tensor([4, 0, 3, 3, 1])
    singly = torch.cat([network.decode(features, target[None]) for target in classes])
    passes = []
    network.decoder.keys.register_forward_hook(lambda *_: passes.append(1))
    many = network.decode_many(features, classes)
    assert len(passes) == 1
    torch.testing.assert_close(many, singly, atol=1e-4, rtol=1e-4)
    assert (many[0] - many[1]).abs().max() > 0.1  # the class is not ignored
    together = network.decode_classes(features, classes[None])
    torch.testing.assert_close(together[0], many)


def test_several_images_share_passes_and_so_do_parts_of_many_classes(monkeypatch):
    monkeypatch.setattr("apercu.explainers.mask.network.CLASSES_PER_PASS", 2)
    network, passes = make_network(), []
    network.decoder.keys.register_forward_hook(lambda *_: passes.append(1))
    images, classes = torch.rand(3, 3, 32, 32), torch.tensor([[4, 0, 2], [1, 1, 3], [0, 2, 4]])
    features = network.encode(images)
    several = network.decode_classes(features, classes)
    assert len(passes) == 1
    first = [maps[:1] for maps in features]
    many = network.decode_classes(first, torch.tensor([[4, 0, 2, 1, 3]]))
    assert len(passes) == 2
    torch.testing.assert_close(many[:, :3], several[:1], atol=1e-4, rtol=1e-4)
    for index, column in enumerate(classes.unbind(1)):
        singly = network.decode(features, column)
        torch.testing.assert_close(several[:, index], singly, atol=1e-4, rtol=1e-4)


def test_a_closed_gate_gives_finite_evidence():
    decoder = make_network().decoder
    skips = {2: torch.randn(1, 8, 16, 16), 4: torch.randn(1, 16, 8, 8)}
    closed = decoder(skips, torch.randn(1, 32, 4, 4), torch.zeros(1, 1, 4, 4))
    assert closed.extent.isfinite().all()


@pytest.mark.parametrize("resolution", [1, 2, 4, 8])
@pytest.mark.parametrize("coarse_filters", [0, 3])
def test_evidence_is_at_the_resolution_of_the_decoder(resolution, coarse_filters):
    """Stride 1 has no skip connection; 4 passes by the finest one; 8 is that of the features."""
    shape = SharedShape(width=4, resolution=resolution, coarse_filters=coarse_filters)
    network = make_network(shape)
    rows = 32 // resolution
    evidence = network.evidence(network.encode(torch.rand(2, 3, 32, 32)), torch.tensor([0, 4]))
    assert evidence.extent.shape == evidence.core.shape == (2, rows, rows)
    assert network(torch.rand(2, 3, 32, 32), torch.tensor([0, 4])).shape == (2, 32, 32)


def test_coarser_features_are_twice_as_wide():
    decoder = SharedDecoder((8, 16, 32), (2, 4, 8), SHAPE)
    assert [step.smooth[0].out_channels for step in decoder.steps] == [8, 4]
