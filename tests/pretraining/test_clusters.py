"""Deep clustering: pairs that cost least, points that images exchange, accuracy by assignment."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from apercu.classifiers import InputSpec
from apercu.errors import ConfigError
from apercu.images import open_images
from apercu.pretraining.backbone import open_backbone
from apercu.pretraining.heads import AssignedClusters, LabelledFeatures
from apercu.pretraining.pretexts import Clusters, PretextBatch, PretextNetwork, PretextSample
from apercu.pretraining.pretexts.clusters import (
    MixturePoints,
    cluster_features,
    match_pairs,
    turn,
)
from apercu.pretraining.pretexts.contrastive import ViewPair
from apercu.pretraining.settings import PretrainSettings
from apercu.pretraining.targets import ImageNumbers, PretrainImages
from apercu.pretraining.train import find_doubts, pretrain
from apercu.training.augment import RandomViews
from apercu.training.trainer import Hardware, Trainer

SIDE = 16


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _stripes(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Dark stripes down, grey stripes across and bright squares, of random phase, in noise."""
    generator = _generator(seed)
    labels = torch.randint(3, (count,), generator=generator)
    across = torch.arange(SIDE) + 4 * torch.rand(count, 1, generator=generator)
    waves = torch.sin(across * torch.pi / 2)
    kinds = torch.stack(
        [
            waves[:, None, :].expand(-1, SIDE, -1) - 1,
            waves[:, :, None].expand(-1, -1, SIDE),
            waves[:, None, :] * waves[:, :, None] + 1,
        ],
        1,
    )
    images = 0.5 + 0.2 * kinds[torch.arange(count), labels]
    images = images + 0.05 * torch.randn(images.shape, generator=generator)
    return images[:, None].clamp(0, 1), labels


def _build(pretext: Clusters, count: int) -> PretextNetwork:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(1, 12, 5, 2, 2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, 2, 1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    parts = pretext.build_parts(PretextSample(torch.zeros(1, 1, SIDE, SIDE), 24, None, count))
    spec = InputSpec(channels=1, size=(SIDE, SIDE), mean=(0.5,), std=(0.25,))
    return PretextNetwork(backbone, spec, nn.ModuleDict(parts))


def _train(pretext: Clusters, images: Tensor, steps: int, batch: int = 60) -> PretextNetwork:
    network = _build(pretext, len(images)).train()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-2)
    for step in range(steps):
        generator = _generator(step)
        rows = torch.randperm(len(images), generator=generator)[:batch]
        numbers = rows[:, None].float()
        terms = pretext.compute_losses(
            network, PretextBatch(images[rows], numbers, generator, step / steps)
        )
        optimiser.zero_grad()
        torch.autograd.backward(torch.stack(list(terms.values())).sum(0).mean())
        optimiser.step()
    return network.eval()


@torch.no_grad()
def _assigned_accuracy(pretext: Clusters, network: PretextNetwork, images: Tensor, labels: Tensor):
    clusters = pretext.find_clusters(network, images)
    votes = torch.zeros(3, 3).index_put_((clusters, labels), torch.ones(len(labels)), True)
    names = torch.from_numpy(match_pairs(-votes.double().numpy()))
    return (names[clusters] == labels).float().mean().item()


def test_pairs_cost_least() -> None:
    draw = np.random.default_rng(0)
    for rows, columns in ((1, 1), (4, 4), (3, 6), (5, 5)):
        costs = draw.normal(size=(rows, columns)).round(1)
        pairs = match_pairs(costs)
        assert len(set(pairs.tolist())) == rows
        least = min(
            sum(costs[row, column] for row, column in enumerate(order))
            for order in permutations(range(columns), rows)
        )
        assert costs[np.arange(rows), pairs].sum() == pytest.approx(least)


def test_many_equal_costs_have_pairs() -> None:
    assert sorted(match_pairs(np.zeros((40, 40))).tolist()) == list(range(40))


def test_images_exchange_points_so_that_all_are_nearest() -> None:
    torch.manual_seed(0)
    points = MixturePoints(12, 3, 0.1)
    before = points.of_images.clone()
    embedded = F.normalize(torch.randn(12, 3), dim=1)
    rows = torch.tensor([3, 1, 7, 8, 0, 11])
    points.exchange(rows, embedded[rows])
    others = [row for row in range(12) if row not in rows.tolist()]
    assert torch.equal(points.of_images[others], before[others])
    distances = [(embedded - now)[rows].norm(dim=1).sum() for now in (before, points.of_images)]
    assert distances[1] < distances[0]
    first, second = (sorted(map(tuple, now.tolist())) for now in (before, points.of_images))
    assert first == second  # no point is lost, so that clusters keep their sizes


def test_regrouped_images_keep_the_names_of_their_clusters() -> None:
    torch.manual_seed(0)
    points = MixturePoints(90, 3, 0.0)
    truth = torch.arange(90) // 30
    centres = 3 * torch.eye(3)[[2, 0, 1]]
    points.embedded = centres[truth] + 0.1 * torch.randn(90, 3)
    points.embedded[5] = 0  # was in no batch yet
    named = torch.tensor([1, 2, 0])[truth]
    points.of_images = F.one_hot(named, 3).float()
    points.of_images[[0, 1, 40, 70]] = torch.tensor([1.0, 0.0, 0.0])
    points.of_images[5] = torch.tensor([1.0, 0.0, 0.0])
    points.regroup(_generator())
    expected = named.clone()
    expected[5] = 0
    assert points.of_images.argmax(1).tolist() == expected.tolist()


def test_k_means_finds_clouds() -> None:
    generator = _generator()
    truth = torch.arange(60) % 4
    features = 6 * torch.eye(4)[truth] + torch.randn(60, 4, generator=generator)
    groups = cluster_features(features, 4, generator).groups
    pairs = set(zip(groups.tolist(), truth.tolist(), strict=True))
    assert len(pairs) == 4
    same = cluster_features(torch.zeros(5, 2), 3, generator)
    assert len(same.groups) == 5


def test_accuracy_by_assignment_rises() -> None:
    """Planted kinds of images are found without a label."""
    images, labels = _stripes(180)
    views = ViewPair(crops=RandomViews(smallest=0.8, whole=0.5), noise=0.05, brightness=0.05)
    pretext = Clusters(clusters=3, rotation=0.0, every=5, views=views)
    begun = _assigned_accuracy(pretext, _build(pretext, 180).eval(), images, labels)
    network = _train(pretext, images, 120)
    trained = _assigned_accuracy(pretext, network, images, labels)
    assert trained > begun + 0.1
    errors = pretext.measure_errors(network, PretextBatch(images, None, _generator()))
    assert errors["largest_cluster"].mean() < 0.7  # all in one would be 1
    assert errors["other_cluster"].mean() < 0.4  # chance is two thirds


def test_turns_are_learnt_or_left_out() -> None:
    assert "turns" not in _build(Clusters(rotation=0.0), 6).parts
    image = torch.rand(1, 1, 6, 4)
    turned = turn(image.repeat(4, 1, 1, 1), torch.arange(4))
    assert turned.shape == (4, 1, 6, 4)
    assert torch.equal(turned[2], image[0].flip(1, 2))
    square = torch.rand(1, 1, 5, 5)
    assert torch.equal(turn(square, torch.tensor([1]))[0], square[0].rot90(1, (1, 2)))


def test_one_cluster_for_all_looks_untrained() -> None:
    assert find_doubts({"held_out_largest_cluster": 0.4}) == []
    assert "in one cluster (97%)" in find_doubts({"held_out_largest_cluster": 0.97})[0]


def test_points_need_one_device(tmp_path) -> None:
    spec = InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    backbone = open_backbone("timm/test_resnet", spec, 0)
    source = open_images("planted:size=32,images=8,classes=2")
    trainer = Trainer(backbone, source, tmp_path / "run", Hardware("cpu", devices=2))
    settings = PretrainSettings(pretext=Clusters())
    with pytest.raises(ConfigError, match="remembers every image"):
        pretrain(settings, trainer, PretrainImages(source, ImageNumbers()))
    assert not (tmp_path / "run").exists()


def test_labels_name_clusters_and_nothing_else() -> None:
    """With one label per class, the head is as good as with all of them."""
    truth = torch.arange(90) % 3
    features = 4 * torch.eye(3)[truth] + 0.5 * torch.randn(90, 3, generator=_generator())
    labelled = LabelledFeatures(features, truth)
    head = AssignedClusters()
    few = head.predict(labelled, [0, 1, 2], labelled, 0)
    assert torch.equal(few, truth)
    assert torch.equal(head.predict(labelled, range(90), labelled, 0), few)
    blind = LabelledFeatures(torch.zeros(90, 2), truth)
    assert len(head.predict(blind, range(90), blind, 0)) == 90
