from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apercu.classifiers import open_classifier
from apercu.images import batches, open_images
from apercu.methods import Gradient
from apercu.metrics.background_invariance import (
    background_invariance,
    remove_objects,
    replace_background,
)

OBJECT = torch.zeros(1, 4, 4, dtype=torch.bool)
OBJECT[:, :2, :2] = True


def on_object(share: float) -> torch.Tensor:
    """A map with this fraction of its mass on the object."""
    return torch.where(OBJECT, share / 4, (1 - share) / 12)


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [(0.8, 0.8, 0), (0.8, 0.2, 0.75), (0.8, 0.0, 1), (0.2, 0.8, 0), (0.0, 0.0, 1), (0.0, 1.0, 1)],
)
def test_is_the_fraction_that_leaves(first: float, then: float, expected: float) -> None:
    score = background_invariance(on_object(first), 7 * on_object(then), OBJECT)
    assert score.item() == pytest.approx(expected, abs=1e-6)


def test_defined_for_constant_maps_and_without_truth() -> None:
    ones, nothing = torch.ones(1, 4, 4), torch.zeros(1, 4, 4).bool()
    assert background_invariance(ones, ones, OBJECT).item() == 0
    assert background_invariance(0 * ones, 0 * ones, OBJECT).item() == 1
    assert background_invariance(ones, ones, nothing).item() == 1


def test_objects_stay_and_new_backgrounds_have_no_objects(tiny_card: Path) -> None:
    classifier = open_classifier(tiny_card)
    source = open_images("planted:size=32,images=6,classes=3,difficulty=0")
    for batch in batches(source, classifier.prepare, 6):
        images = batch.images
        regions = torch.stack([region for region in batch.regions if region is not None])
        empty = remove_objects(images, regions)
        other = replace_background(images, regions, empty.roll(1, dims=0))
        on, off = regions[:, None].expand_as(images), ~regions[:, None].expand_as(images)
        assert torch.equal(empty[off], images[off])
        assert (empty - images)[on].abs().mean() > 0.05
        assert torch.equal(other[on], images[on])
        assert torch.equal(other[off], empty.roll(1, dims=0)[off])
        targets = torch.zeros(len(images), dtype=torch.long)
        before, after = (Gradient()(classifier, some, targets) for some in (images, other))
        scores = background_invariance(before, after, regions)
        assert scores.shape == (6,)
        assert ((scores >= 0) & (scores <= 1)).all()
        assert background_invariance(before, before, regions).tolist() == [0] * 6
