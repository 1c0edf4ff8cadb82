"""The temperature of a card: probabilities are scaled wherever a classifier is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apercu import methods, open_classifier
from apercu.classifiers import Classifier, save_classifier
from apercu.classifiers.outputs import Output
from apercu.deploy.export import ExportSettings, write_export
from apercu.deploy.export.settings import ExportInputs
from apercu.deploy.inference import open_engine
from apercu.errors import ClassifierError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.kind import find_kind
from apercu.explainers.mask.settings import MASK_PRESETS

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEMPERATURE = 2.5


@pytest.fixture
def scale_card(tiny_card: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the tiny classifier, with changes of its card."""

    def scale(**changes: object) -> Path:
        folder = tmp_path / "scaled"
        shutil.copytree(tiny_card.parent, folder, dirs_exist_ok=True)
        content = json.loads((folder / "card.json").read_text()) | changes
        (folder / "card.json").write_text(json.dumps(content))
        return folder / "card.json"

    return scale


@pytest.fixture
def scaled(scale_card: Callable[..., Path]) -> Classifier:
    return open_classifier(scale_card(temperature=TEMPERATURE), trust=True)


def test_logits_are_divided_where_the_numbers_become_logits(
    tiny_card: Path, scaled: Classifier
) -> None:
    plain = open_classifier(tiny_card, trust=True)
    torch.testing.assert_close(scaled(IMAGES), plain(IMAGES) / TEMPERATURE)
    expected = (plain(IMAGES) / TEMPERATURE).softmax(1)
    torch.testing.assert_close(scaled.predict_probabilities(IMAGES), expected)
    assert scaled.fingerprint != plain.fingerprint


@pytest.mark.parametrize("output", ["sigmoid", "sigmoid_probabilities", "probabilities"])
def test_every_output_that_is_classes_has_one(output: Any) -> None:
    numbers = torch.tensor([[0.2, 0.5, 0.3]])
    plain = Output(name=output, columns=3)
    hot = plain.model_copy(update={"temperature": TEMPERATURE})
    expected = plain.convert_to_logits(numbers) / TEMPERATURE
    torch.testing.assert_close(hot.convert_to_logits(numbers), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": "warm"},
        {"temperature": 2, "output": "value"},
    ],
)
def test_a_wrong_temperature_is_refused(
    scale_card: Callable[..., Path], changes: dict[str, object]
) -> None:
    with pytest.raises(ClassifierError, match="temperature"):
        open_classifier(scale_card(**changes), trust=True)


def test_a_saved_classifier_keeps_it(scaled: Classifier, tmp_path: Path) -> None:
    card = save_classifier(scaled, tmp_path / "saved")
    again = open_classifier(card, trust=True)
    assert again.fingerprint == scaled.fingerprint
    torch.testing.assert_close(again(IMAGES), scaled(IMAGES))


def test_methods_explain_the_scaled_logits(tiny_card: Path, scaled: Classifier) -> None:
    plain = open_classifier(tiny_card, trust=True)
    gradient = methods.get("gradient")
    first, second = (gradient(each, IMAGES, 1) for each in (plain, scaled))
    torch.testing.assert_close(second, first / TEMPERATURE, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        methods.get("cam")(scaled, IMAGES, 1),
        methods.get("cam")(plain, IMAGES, 1) / TEMPERATURE,
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("encoder", ["own", "small"])
def test_an_export_contains_it(scaled: Classifier, encoder: str, tmp_path: Path) -> None:
    settings = MASK_PRESETS.parse(
        {"preset": "light", "encoder": encoder, "decoder": {"width": 16, "resolution": 2}}
    )
    info, kind = ClassifierInfo.from_classifier(scaled), find_kind("mask")
    own = scaled if encoder == "own" else None
    network = kind.build_network(settings, info, own, pretrained=False)
    network.gate.set_threshold(0.5, 0.0)
    explainer = kind.explainer(network, info, settings, {})
    write_export(explainer, tmp_path, ExportSettings(combined=True), ExportInputs(scaled))
    explained = open_engine(tmp_path)(IMAGES)
    expected = scaled.predict_probabilities(IMAGES).detach()
    np.testing.assert_allclose(explained.probabilities, expected, atol=1e-5)
