"""From labelled images to a calibrated classifier in a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from apercu import open_classifier, train_classifier
from apercu.classifiers import Classifier
from apercu.errors import ConfigError, ImagesError, RunError

from .conftest import PLANTED


def test_the_run_is_a_classifier_with_a_temperature(trained_folder: Path) -> None:
    card = json.loads((trained_folder / "card.json").read_text())
    figures = json.loads((trained_folder / "figures.json").read_text())
    assert card["source"] == "timm/test_resnet"
    assert card["temperature"] == pytest.approx(figures["temperature"], abs=1e-5)
    classifier = open_classifier(trained_folder)
    assert classifier.classes == tuple(figures["classes"])
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert classifier.module is not None
    raw = classifier.module(classifier.normalise(images))
    torch.testing.assert_close(classifier(images), raw / card["temperature"])


def test_a_finished_folder_is_not_trained_again(trained_folder: Path, backbone: Classifier) -> None:
    with pytest.raises(RunError, match="holds a finished training"):
        train_classifier(PLANTED, backbone, trained_folder, steps=12, batch=8)


def test_recipes_are_checked_before_anything_is_written(
    tmp_path: Path, backbone: Classifier
) -> None:
    for recipes, message in (
        (["frozen", "full"], "frozen and full both choose which layers learn"),
        (["frozn"], "did you mean frozen"),
        (["final_batch_norm:momentum=2"], "final_batch_norm:momentum"),
        (["frozen", "frozen"], "given twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_classifier(PLANTED, backbone, tmp_path / "run", recipes=recipes)
    with pytest.raises(ImagesError, match="expected at least 3"):
        train_classifier("planted:images=6,classes=6", backbone, tmp_path / "run")
    assert not (tmp_path / "run").exists()
