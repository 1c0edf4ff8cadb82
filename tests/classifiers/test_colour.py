"""The colouring network: grey before training, a card that opens, layers that are exposed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from apercu import open_classifier
from apercu.classifiers import ClassifierCard, InputSpec, save_classifier, wrap_module
from apercu.classifiers.colour import Coloured
from apercu.errors import ClassifierError
from apercu.methods import Gradient

OPTIONS = {"backbone": "mobilenetv2_035", "num_classes": 2}


def test_untrained_colours_are_grey() -> None:
    network = Coloured(**OPTIONS).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(images), network.backbone(images.expand(-1, 3, -1, -1)))
        network.colours[2].bias[0] = 0.5
        assert not torch.equal(network(images), network.backbone(images.expand(-1, 3, -1, -1)))


def test_its_card_opens_and_explains(tmp_path: Path) -> None:
    network = Coloured(**OPTIONS).eval()
    torch.nn.init.normal_(network.colours[2].weight)
    spec = InputSpec(channels=1, size=(32, 32), mean=(0.5,), std=(0.5,))
    source = "apercu.classifiers.colour:Coloured"
    card = ClassifierCard(source=source, options=OPTIONS, input=spec, classes=("well", "ill"))
    classifier = wrap_module(network, card)
    save_classifier(classifier, tmp_path)
    opened = open_classifier(tmp_path / "card.json")
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(opened(images), classifier(images))
    assert opened.fingerprint == classifier.fingerprint
    assert Gradient()(opened, images, torch.tensor([0, 1])).abs().sum() > 0


def test_an_unknown_backbone_is_one_line(tmp_path: Path) -> None:
    spec = {"channels": 1, "size": [32, 32]}
    source = "apercu.classifiers.colour:Coloured"
    path = tmp_path / "card.json"
    path.write_text(
        json.dumps({"source": source, "options": {"backbone": "mobilenetv9"}, "input": spec})
    )
    with pytest.raises(ClassifierError, match=r"the factory fails: .*mobilenetv9"):
        open_classifier(path)
