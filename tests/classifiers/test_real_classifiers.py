"""The cards of trained classifiers, on photographs and stamps; skipped where those are absent."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from apercu.classifiers import Classifier, open_classifier

ROOT = Path(os.environ.get("APERCU_DATA", Path(__file__).parents[2] / ".." / "shared"))
CARDS = sorted(path.name for path in (ROOT / "models").glob("*.json"))

pytestmark = pytest.mark.skipif(
    not CARDS, reason="needs trained classifiers; set APERCU_DATA to their folder"
)


def _open(name: str) -> Classifier:
    return open_classifier(ROOT / "models" / f"{name}.json")


def _photograph(source: Path | io.BytesIO) -> Tensor:
    pixels = np.asarray(Image.open(source).convert("RGB")).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("card", CARDS)
def test_every_card_opens_and_gives_logits_as_documented(card: str) -> None:
    classifier = open_classifier(ROOT / "models" / card)
    images = torch.rand(16, classifier.channels, *classifier.size, generator=_seeded())
    before = images.clone()
    logits = classifier(images)
    assert logits.shape == (16, len(classifier.classes)) and logits.dtype == torch.float32
    assert logits.isfinite().all() and not logits.requires_grad
    assert classifier.queries == 16
    assert torch.equal(images, before)
    singles = torch.cat([classifier(image[None]) for image in images[:3]])
    torch.testing.assert_close(singles, logits[:3], atol=1e-3, rtol=1e-3)
    assert classifier.index_of(classifier.classes[1]) == 1
    if classifier.differentiable:
        images = images[:2].requires_grad_()
        (gradient,) = torch.autograd.grad(classifier(images)[:, 0].sum(), images)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ["mobilenetv2_100", "squeezenet1_1"])
def test_gradients_are_the_bare_networks(name: str) -> None:
    classifier = _open(name)
    assert classifier.module is not None
    images = torch.rand(1, 3, 224, 224, generator=_seeded()).requires_grad_()
    mean, std = classifier.network.input.mean, classifier.network.input.std
    normalised = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    (expected,) = torch.autograd.grad(classifier.module(normalised)[0, 7], images)
    (gradient,) = torch.autograd.grad(classifier(images)[0, 7], images)
    torch.testing.assert_close(
        gradient, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-3
    )


@pytest.mark.parametrize("name", ["resnet20_cifar10", "braai_ztf"])
def test_exported_and_onnx_probabilities_agree(name: str) -> None:
    exported, onnx = _open(f"{name}.pt2"), _open(f"{name}.onnx")
    images = torch.rand(16, exported.channels, *exported.size, generator=_seeded())
    torch.testing.assert_close(
        exported.predict_probabilities(images),
        onnx.predict_probabilities(images),
        atol=1e-4,
        rtol=0,
    )
    assert exported.fingerprint != onnx.fingerprint


def test_real_and_bogus_alerts_as_their_catalogue_says() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    stamps = np.load(ROOT / "data/ztf/alerts.npz")["stamps"].astype(np.float32)
    table = parquet.read_table(ROOT / "data/ztf/alerts.parquet", columns=["drb"])
    scores = np.array(table["drb"].to_pylist(), dtype=float)
    rated = np.flatnonzero(np.isfinite(scores))
    classifier = _open("braai_ztf.onnx")
    predicted = classifier.predict_probabilities(torch.from_numpy(stamps[rated]))[:, 1].numpy()
    assert np.corrcoef(predicted, scores[rated])[0, 1] == pytest.approx(0.85, abs=0.01)
    assert np.median(np.abs(predicted - scores[rated])) < 0.001


def test_accuracy_on_small_photographs() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(ROOT / "data/cifar10/test.parquet")
    rows = range(0, len(table), 20)
    images = [table["image"][row].as_py()["bytes"] for row in rows]
    labels = torch.tensor([table["label"][row].as_py() for row in rows])
    classifier = _open("resnet20_cifar10.onnx")
    pictures = [classifier.prepare(_photograph(io.BytesIO(image))) for image in images]
    right = classifier(torch.stack(pictures)).argmax(1) == labels
    assert right.float().mean().item() == pytest.approx(0.81, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fit", "accuracy"),
    [
        ("mobilenetv2_100", "crop", 0.714),
        ("mobilenetv2_100", "squash", 0.706),
        ("squeezenet1_1", "crop", 0.590),
    ],
)
def test_accuracy_on_photographs(name: str, fit: str, accuracy: float) -> None:
    folder = ROOT / "data/imagenet-val"
    rows = list(csv.DictReader((folder / "labels.csv").open(encoding="utf-8")))
    classifier = _open(name)
    right = 0
    for start in range(0, len(rows), 20):
        batch = rows[start : start + 20]
        pictures = [_photograph(folder / row["file"]) for row in batch]
        images = torch.stack([classifier.prepare(p, fit) for p in pictures])  # type: ignore[arg-type]
        labels = torch.tensor([int(row["class_index"]) for row in batch])
        right += int((classifier(images).argmax(1) == labels).sum())
    assert right / len(rows) == pytest.approx(accuracy, abs=0.01)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)
