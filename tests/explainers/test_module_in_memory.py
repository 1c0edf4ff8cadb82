"""Explainers of a module in memory: their run folders open without the module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apercu import open_classifier
from apercu.classifiers import Classifier, SmallResNet
from apercu.errors import ConfigError, RunError
from apercu.explainers.run_folder import load_explainer, save_run
from apercu.explainers.train import train
from apercu.networks.graph_encoder import EncoderWithHead

PLANTED = "planted:images=24,size=32"
SETTINGS = {
    "mask": {"decoder": {"width": 16}},
    "counterpart": {"generators": {"resolution": 4}},
}
FEW: dict[str, Any] = {"schedule": {"steps": 2, "batch": 4}, "encoder": "own"}


def _open_module(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = SmallResNet(3, 3, (32, 32), width=4)
    return open_classifier(module, size=32, mean=0.5, std=0.5, classes=["stripes", "dots", "rings"])


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_run_opens_without_the_module(kind: str, tmp_path: Path) -> None:
    classifier = _open_module()
    config = FEW | SETTINGS[kind]
    trained = train(
        classifier,
        PLANTED,
        tmp_path / "run",
        kind=kind,
        config=config,
        device="cpu",
        say=lambda line: None,
    )
    opened = load_explainer(tmp_path / "run")
    save_run(opened, tmp_path / "copy")
    again = load_explainer(tmp_path / "copy")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = trained.attribute(images, "dots")
    for explainer in (opened, again):
        maps = explainer.attribute(images, "dots")
        torch.testing.assert_close(maps, expected, atol=0.01, rtol=0)
        explainer.classifier_info.check_classifier(classifier)
        logits, _ = EncoderWithHead(explainer.network.encoder)(images)
        torch.testing.assert_close(logits, classifier(images))
    assert opened.classifier_info.spec == "memory/SmallResNet"
    with pytest.raises(RunError, match="was trained for memory/SmallResNet"):
        opened.classifier_info.check_classifier(_open_module(seed=1))


def test_a_module_that_cannot_be_stored_is_refused_before_training(tmp_path: Path) -> None:
    class Ragged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.layer(images).relu().mean((2, 3)))
            return logits if logits.sum() > 0 else -logits

    classifier = open_classifier(Ragged(), size=32)
    with pytest.raises(ConfigError, match="encoder: memory/Ragged cannot be traced; name another"):
        train(classifier, PLANTED, tmp_path / "run", config=FEW, device="cpu")
    assert not (tmp_path / "run").exists()
