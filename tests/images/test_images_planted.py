"""The planted set: the same bytes on every machine, and regions that cover the objects."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch

from apercu import maps
from apercu.errors import ConfigError
from apercu.images import Planted, open_images
from apercu.images.planted.noise import RandomStream, interpolate_grid
from apercu.images.planted.patterns import PATTERNS
from apercu.images.planted.scene import SceneStyle, paint_scene

EVERY = len(PATTERNS)


def digest(planted: Planted) -> str:
    total = hashlib.sha256()
    for item in planted:
        assert item.region is not None
        total.update((item.picture * 255).round().byte().numpy().tobytes())
        total.update(item.region.numpy().tobytes())
    return total.hexdigest()[:16]


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        (Planted(images=6), "7c476982d03e01c3"),
        (
            Planted(classes=EVERY, images=EVERY, seed=7, size=48, split="test", difficulty=0.9),
            "cfd5a734fe65ca6f",
        ),
        (Planted(images=3, objects=3, channels=1, size=96), "de5e274e83d1d91f"),
    ],
)
def test_the_same_bytes_on_every_machine(planted: Planted, expected: str) -> None:
    assert digest(planted) == expected


def test_uniform_numbers_are_the_bits_of_pcg64() -> None:
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence((1, 2)))).random((2, 3))
    assert np.array_equal(RandomStream(1, 2).uniform(2, 3), expected)


def test_unit_vectors_have_length_one_and_no_preferred_direction() -> None:
    random = RandomStream(0)
    vectors = np.array([random.unit_vector() for _ in range(2000)])
    np.testing.assert_allclose((vectors**2).sum(axis=1), 1, rtol=1e-12)
    assert np.abs(vectors.mean(axis=0)).max() < 0.05


def test_noise_passes_through_its_knots() -> None:
    lattice = RandomStream(0).uniform(2, 4, 4)
    knots = np.arange(3.0)
    np.testing.assert_allclose(interpolate_grid(lattice, knots, knots), lattice[:, :3, :3])
    middle = interpolate_grid(lattice, np.array([0.5]), np.array([1.5]))[:, 0, 0]
    np.testing.assert_allclose(middle, lattice[:, :2, 1:3].mean(axis=(1, 2)))


def test_patterns_by_hand() -> None:
    def at(name: str, u: float, v: float) -> bool:
        return bool(PATTERNS[name](np.array([[float(u)]]), np.array([[float(v)]]))[0, 0] > 0)

    half = 0.5 / 1.8  # half a period
    assert at("stripes", 0, 0) and at("stripes", 0, 0.7) and not at("stripes", half, 0)
    assert at("checker", 0, 0) and not at("checker", half, 0) and at("checker", half, half)
    assert at("rings", 0, 0) and not at("rings", 0, half) and at("rings", 0, 2 * half)
    assert at("dots", 0, 0) and not at("dots", 0.3, 0.3) and at("dots", 1 / 1.6, 0)
    assert at("cross", 0.7, 0) and at("cross", 0, -0.7) and not at("cross", 0.5, 0.5)
    assert at("triangle", 0, 0) and at("triangle", 0, -0.7) and not at("triangle", 0, 0.7)
    assert at("grid", 0, 0.3) and at("grid", 0.3, 0) and not at("grid", 0.3, 0.3)
    assert at("squares", 0.4, 0.55) == at("squares", -0.55, 0.1)


def test_patterns_of_two_classes_differ() -> None:
    axis = np.linspace(-1, 1, 40)
    u, v = np.meshgrid(axis, axis)
    patterns = [pattern(u, v) > 0 for pattern in PATTERNS.values()]
    for i, first in enumerate(patterns):
        assert 0.1 < first.mean() < 0.9
        for second in patterns[:i]:
            assert 0.15 < (first != second).mean() < 0.85


def test_the_region_covers_the_object() -> None:
    """Another class changes the picture inside of the region only."""
    for seed in range(20):
        style = SceneStyle.from_difficulty(0.5)
        first, region = paint_scene(RandomStream(seed), [0], (3, 64), style)
        second, same = paint_scene(RandomStream(seed), [1], (3, 64), style)
        assert np.array_equal(region, same)
        changed = torch.from_numpy((first != second).any(axis=0))
        grown = torch.nn.functional.max_pool2d(torch.from_numpy(region).float(), 3, 1, 1)[0] > 0
        assert not (changed & ~grown).any()
        assert (changed & torch.from_numpy(region[0])).sum() > 0.3 * region.sum()
    planted, again = Planted(classes=EVERY, images=3), Planted(classes=EVERY, images=3)
    assert digest(planted) == digest(again)


def test_true_objects_boxes_and_sizes() -> None:
    planted = Planted(images=72, classes=EVERY)
    shares = []
    for index, item in enumerate(planted):
        (truth,) = planted.true_objects(index)
        assert item.region is not None and item.boxes is not None
        assert torch.equal(truth.region, item.region) and torch.equal(truth.box, item.boxes)
        assert torch.equal(item.boxes, maps.tight_boxes(item.region[None]))
        assert item.label == planted.class_names[truth.class_index]
        assert item.picture.shape == (3, 64, 64) and item.picture.dtype == torch.float32
        shares.append(float(item.region.float().mean()))
    assert min(shares) > 0.05 and max(shares) < 0.26


def test_several_objects_are_of_different_classes_and_do_not_share_pixels() -> None:
    planted = Planted(objects=3, images=50)
    for index in range(50):
        objects = planted.true_objects(index)
        assert len({thing.class_index for thing in objects}) == 3
        assert int(torch.stack([thing.region for thing in objects]).sum(dim=0).max()) <= 1
        assert all(bool(thing.region.any()) for thing in objects)
        assert planted[index].label == planted.class_names[objects[0].class_index]


def test_classes_are_balanced_and_not_tied_to_the_parity_of_the_index() -> None:
    labels = [item.label for item in Planted(images=144, size=32)]
    assert {labels.count(name) for name in set(labels)} == {24}
    assert {labels[::2].count(name) for name in set(labels)} == {12}


def test_colour_does_not_predict_the_class() -> None:
    """Mean colours of objects are no farther apart between classes than chance has them."""
    planted = Planted(images=180)
    means, labels = [], []
    for item in planted:
        means.append(item.picture[:, item.region].mean(dim=1))
        labels.append(planted.class_names.index(str(item.label)))
    means, labels = torch.stack(means), torch.tensor(labels)
    centres = torch.stack([means[labels == k].mean(dim=0) for k in range(6)])
    guessed = torch.cdist(means, centres).argmin(dim=1)
    assert float((guessed == labels).float().mean()) < 0.3


def test_splits_seeds_and_difficulties_differ() -> None:
    sets = [
        Planted(images=2, **fields)
        for fields in ({}, {"split": "test"}, {"seed": 1}, {"difficulty": 0.6})
    ]
    assert len({digest(planted) for planted in sets}) == 4
    areas = [
        sum(float(item.region.float().mean()) for item in Planted(images=40, difficulty=level))
        for level in (0.0, 0.5, 1.0)
    ]
    assert areas[0] > areas[1] > areas[2]


def test_items_in_any_order_and_after_pickling() -> None:
    planted = pickle.loads(pickle.dumps(Planted(images=10)))
    late = planted[7].picture
    assert [item.name for item in planted][7] == "train-000007"
    assert torch.equal(planted[7].picture, late) and torch.equal(planted[-3].picture, late)
    with pytest.raises(IndexError, match="image 10 of a source of 10"):
        planted[10]


def test_open_images_reads_the_settings() -> None:
    assert open_images("planted") == Planted()
    spec = "planted:classes=4, images=20,seed=3,split=test,size=48,difficulty=0.2"
    source = open_images(spec, channels=1)
    assert source == Planted(4, 20, 3, 48, 0.2, "test", 1, 1)
    assert open_images(source.name) == source
    assert source[0].picture.shape == (1, 48, 48)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("clases=6", "no setting clases; did you mean classes?"),
        ("zzz=6", "no setting zzz; expected one of classes, images, seed"),
        ("size=big", "expected a whole number for size, got big"),
        ("size=64.5", "expected a whole number for size, got 64.5"),
        ("difficulty=x", "expected a number for difficulty, got x"),
        ("difficulty=nan", "expected difficulty from 0 to 1, got nan"),
        ("size", "expected size=VALUE once"),
        ("seed=1,seed=2", "expected seed=VALUE once"),
        ("split=val", "expected split to be train or test, got val"),
        ("classes=99", f"expected classes from 2 to {EVERY}, got 99"),
        ("size=8", "expected size from 32 to 2048, got 8"),
        ("images=0", "expected images from 1"),
        ("seed=-1", "expected seed from 0"),
        ("classes=2,objects=3", "expected objects from 1 to 2, got 3"),
    ],
)
def test_bad_settings(settings: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_images(f"planted:{settings}")
