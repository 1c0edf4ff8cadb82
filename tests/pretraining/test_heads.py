"""Heads beside scikit-learn's, and what holds for each."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from apercu.errors import ConfigError
from apercu.pretraining.heads import HEADS, Dense, FeatureHead, Linear, Nearest

CENTRES = 2 * torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def clouds(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three overlapping clouds; the first class is the most frequent."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(count // 6)
    return CENTRES[labels] + 2 * torch.randn(count, 8, generator=generator), labels


KNOWN, LABELS = clouds(120, 1)
SHOWN, TRUTH = clouds(300, 2)


@pytest.mark.parametrize(
    "head", [kind() for kind in HEADS.values() if issubclass(kind, FeatureHead)], ids=repr
)
def test_every_head(head: FeatureHead) -> None:
    before = KNOWN.clone()
    reads = head.fit(KNOWN, LABELS, 3, seed=0)
    found = reads(SHOWN)
    assert torch.equal(KNOWN, before)
    assert found.shape == (300,) and not found.requires_grad
    assert (found == TRUTH).float().mean() > 0.75
    assert torch.equal(head.fit(KNOWN, LABELS, 3, seed=0)(SHOWN), found)
    assert torch.equal(reads(SHOWN[:1]), found[:1])
    other = head.fit(5 * KNOWN - 3, LABELS, 3, seed=0)(5 * SHOWN - 3)
    assert (other == found).float().mean() > 0.98  # units do not matter
    few = head.fit(KNOWN[:4], LABELS[:4], 3, seed=0)(SHOWN)
    assert set(few.tolist()) <= {0, 1}  # a class without labels is not answered


def test_linear_is_scikit_learn_s_logistic_regression() -> None:
    scaled = (KNOWN - KNOWN.mean(0)) / KNOWN.std(0, unbiased=False)
    shown = (SHOWN - KNOWN.mean(0)) / KNOWN.std(0, unbiased=False)
    theirs = LogisticRegression(C=1 / 0.7, class_weight="balanced", tol=1e-9, max_iter=5000)
    theirs.fit(scaled.numpy(), LABELS.numpy())
    ours = Linear(penalty=0.7).fit(KNOWN, LABELS, 3, seed=0)(SHOWN)
    assert torch.equal(ours, torch.from_numpy(theirs.predict(shown.numpy())))


def test_nearest_is_scikit_learn_s_where_classes_are_as_frequent() -> None:
    known, labels = KNOWN[LABELS != 0][:40], LABELS[LABELS != 0][:40]
    both = [torch.where(labels == one)[0][:12] for one in (1, 2)]
    chosen = torch.cat(both)
    known, labels = known[chosen], labels[chosen]
    scaled = (known - known.mean(0)) / known.std(0, unbiased=False)
    theirs = KNeighborsClassifier(5, metric="cosine").fit(scaled.numpy(), labels.numpy())
    shown = (SHOWN - known.mean(0)) / known.std(0, unbiased=False)
    ours = Nearest(5).fit(known, labels, 3, seed=0)(SHOWN)
    assert torch.equal(ours, torch.from_numpy(theirs.predict(shown.numpy())))


def test_a_rare_class_counts_as_much() -> None:
    """One of three rare labels outvotes two of twelve common ones beside it."""
    angles = torch.tensor([0.0, 2.0, 2.1, 0.05, 0.1, *(-1.5 - 0.01 * n for n in range(10))])
    labels = torch.tensor([0, 0, 0, *[1] * 12])
    known = torch.stack([angles.cos(), angles.sin()], 1)
    asked = torch.tensor([[1.0, 0.06]])
    votes = Nearest(10).train_network(known, labels, 2, seed=0)(asked)
    alone = Nearest(1).train_network(known, labels, 2, seed=0)(asked)
    assert (votes.tolist(), alone.tolist()) == ([0], [1])


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Linear(penalty=-1.0), "linear: penalty: expected a number from 0"),
        (lambda: Nearest(0), "nearest: neighbours: expected at least 1"),
        (lambda: Dense(width=0), "dense: expected width and steps of at least 1"),
    ],
)
def test_settings_that_cannot_be(made, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=says):
        made()


def test_a_feature_that_is_the_same_on_all_labels_tells_nothing() -> None:
    """It may differ on other images, where it would drown the others."""
    features = torch.cat([KNOWN, torch.zeros(len(KNOWN), 1)], 1)
    strange = torch.cat([KNOWN, 100 * torch.randn(len(KNOWN), 1)], 1)
    for kind in HEADS.values():
        if issubclass(kind, FeatureHead):
            reads = kind().fit(features, LABELS, 3, seed=0)
            assert torch.equal(reads(strange), reads(features)), kind


def test_few_labels_do_not_all_vote() -> None:
    features = torch.tensor([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1], [1.0, 0.05]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    reads = Nearest(neighbours=10).fit(features, labels, 2, seed=0)
    assert reads(features).tolist() == labels.tolist()
