"""Heads against those of scikit-learn, and what holds for every head."""

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


TRAINING, LABELS = clouds(120, 1)
TEST, TRUTH = clouds(300, 2)


@pytest.mark.parametrize(
    "head", [kind() for kind in HEADS.values() if issubclass(kind, FeatureHead)], ids=repr
)
def test_every_head(head: FeatureHead) -> None:
    before = TRAINING.clone()
    predict = head.fit(TRAINING, LABELS, 3, seed=0)
    result = predict(TEST)
    assert torch.equal(TRAINING, before)
    assert result.shape == (300,) and not result.requires_grad
    assert (result == TRUTH).float().mean() > 0.75
    assert torch.equal(head.fit(TRAINING, LABELS, 3, seed=0)(TEST), result)
    assert torch.equal(predict(TEST[:1]), result[:1])
    other = head.fit(5 * TRAINING - 3, LABELS, 3, seed=0)(5 * TEST - 3)
    assert (other == result).float().mean() > 0.98  # units do not matter
    few = head.fit(TRAINING[:4], LABELS[:4], 3, seed=0)(TEST)
    assert set(few.tolist()) <= {0, 1}  # a class without labels is not predicted


def test_linear_is_scikit_learn_s_logistic_regression() -> None:
    scaled = (TRAINING - TRAINING.mean(0)) / TRAINING.std(0, unbiased=False)
    standardised = (TEST - TRAINING.mean(0)) / TRAINING.std(0, unbiased=False)
    theirs = LogisticRegression(C=1 / 0.7, class_weight="balanced", tol=1e-9, max_iter=5000)
    theirs.fit(scaled.numpy(), LABELS.numpy())
    ours = Linear(penalty=0.7).fit(TRAINING, LABELS, 3, seed=0)(TEST)
    assert torch.equal(ours, torch.from_numpy(theirs.predict(standardised.numpy())))


def test_nearest_is_scikit_learn_s_where_classes_are_as_frequent() -> None:
    features, labels = TRAINING[LABELS != 0][:40], LABELS[LABELS != 0][:40]
    both = [torch.where(labels == one)[0][:12] for one in (1, 2)]
    chosen = torch.cat(both)
    features, labels = features[chosen], labels[chosen]
    scaled = (features - features.mean(0)) / features.std(0, unbiased=False)
    theirs = KNeighborsClassifier(5, metric="cosine").fit(scaled.numpy(), labels.numpy())
    standardised = (TEST - features.mean(0)) / features.std(0, unbiased=False)
    ours = Nearest(5).fit(features, labels, 3, seed=0)(TEST)
    assert torch.equal(ours, torch.from_numpy(theirs.predict(standardised.numpy())))


def test_a_rare_class_counts_as_much() -> None:
    """One of three rare labels outvotes two of twelve common ones beside it."""
    angles = torch.tensor([0.0, 2.0, 2.1, 0.05, 0.1, *(-1.5 - 0.01 * n for n in range(10))])
    labels = torch.tensor([0, 0, 0, *[1] * 12])
    features = torch.stack([angles.cos(), angles.sin()], 1)
    test = torch.tensor([[1.0, 0.06]])
    votes = Nearest(10).fit_standardised(features, labels, 2, seed=0)(test)
    alone = Nearest(1).fit_standardised(features, labels, 2, seed=0)(test)
    assert (votes.tolist(), alone.tolist()) == ([0], [1])


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Linear(penalty=-1.0), "linear: penalty: expected a number from 0"),
        (lambda: Nearest(0), "nearest: neighbours: expected at least 1"),
        (lambda: Dense(width=0), "dense: expected width and steps of at least 1"),
    ],
)
def test_impossible_settings_are_refused(build, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=says):
        build()


def test_a_feature_that_is_constant_on_all_labels_is_ignored() -> None:
    """It may vary on other images, where it would dominate the others."""
    features = torch.cat([TRAINING, torch.zeros(len(TRAINING), 1)], 1)
    varied = torch.cat([TRAINING, 100 * torch.randn(len(TRAINING), 1)], 1)
    for kind in HEADS.values():
        if issubclass(kind, FeatureHead):
            predict = kind().fit(features, LABELS, 3, seed=0)
            assert torch.equal(predict(varied), predict(features)), kind


def test_not_all_labels_vote_where_they_are_few() -> None:
    features = torch.tensor([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1], [1.0, 0.05]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    predict = Nearest(neighbours=10).fit(features, labels, 2, seed=0)
    assert predict(features).tolist() == labels.tolist()
