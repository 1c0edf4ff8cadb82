"""A run and its export compute the same, and what the explainer and the classifier do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from apercu import MaskExplainer, open_classifier
from apercu.deploy.export.manifest import digest_run
from apercu.deploy.inference import InferenceEngine, open_engine
from apercu.deploy.inference.onnx_engine import OnnxEngine
from apercu.deploy.inference.torch_engine import TorchEngine


@pytest.fixture(params=[TorchEngine, OnnxEngine])
def engine(request, tiny_run: Path, tiny_card: Path, tiny_export: Path) -> InferenceEngine:
    kind = request.param
    result = open_engine(tiny_run, tiny_card) if kind is TorchEngine else open_engine(tiny_export)
    assert isinstance(result, kind)
    return result


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("target", [-1, 0, 2])
def test_both_compute_what_explainer_and_classifier_do(
    engine, tiny_run, tiny_card, images, target: int
) -> None:
    logits = open_classifier(tiny_card)(images)
    targets = logits.argmax(1) if target < 0 else torch.full((3,), target)
    expected = MaskExplainer.from_pretrained(tiny_run).attribute(images, targets)
    explained = engine(images, target)
    assert explained.targets.tolist() == targets.tolist()
    np.testing.assert_allclose(explained.maps, expected, atol=1e-4)
    probabilities = logits.softmax(1).detach()
    np.testing.assert_allclose(explained.probabilities, probabilities, atol=1e-5)


def test_a_batch_equals_its_single_images(engine, images) -> None:
    together = engine(images)
    for index, image in enumerate(images):
        alone = engine(image[None])
        np.testing.assert_allclose(alone.maps[0], together.maps[index], atol=1e-4)
        expected = together.probabilities[index]
        np.testing.assert_allclose(alone.probabilities[0], expected, atol=1e-5)


@pytest.mark.parametrize("is_opened", [False, True])
def test_an_explainer_stands_for_its_folder(tiny_run, tiny_card, images, is_opened: bool) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    classifier = open_classifier(tiny_card) if is_opened else tiny_card
    engine, expected = open_engine(explainer, classifier), open_engine(tiny_run, tiny_card)
    assert engine.info == expected.info
    assert torch.equal(engine(images).maps, expected(images).maps)
    assert torch.equal(engine(images).probabilities, expected(images).probabilities)


def test_several_classes_of_each_image(engine, tiny_run, images) -> None:
    logits, features = engine.predict_logits(images)
    np.testing.assert_allclose(logits.softmax(1), engine(images).probabilities, atol=1e-5)
    targets = torch.tensor([[0, 1, 2], [2, 0, 2], [1, 2, 0]])
    expected = MaskExplainer.from_pretrained(tiny_run).attribute_classes(images, targets)
    np.testing.assert_allclose(engine.compute_masks(features, targets), expected, atol=1e-4)
    _, hinted = engine.predict_logits(images, torch.tensor([0, -1, 1]))
    np.testing.assert_allclose(engine.compute_masks(hinted, targets), expected, atol=1e-4)
    some = [values[1:] for values in features]
    masks = engine.compute_masks(some, targets[1:, :1])
    np.testing.assert_allclose(masks, expected[1:, :1], atol=1e-4)


def test_both_prepare_any_picture_and_have_the_class_names(engine) -> None:
    assert (engine.input.size, engine.input.channels) == ((32, 32), 3)
    assert engine.names.names == ("stripes, bands", "dots", "rings")
    picture = torch.rand(3, 40, 21, generator=torch.Generator().manual_seed(1))
    explainer_takes = torch.nn.functional.interpolate(
        picture[None], (32, 32), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(engine.prepare(picture), explainer_takes[0])


def test_without_the_classifier_the_explainer_predicts(tiny_run, images) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    engine = open_engine(tiny_run)
    expected = explainer.estimate_logits(images).softmax(1)
    np.testing.assert_allclose(engine(images).probabilities, expected, atol=1e-5)
    assert engine.info.read_by == "explainer"


def test_each_tells_who_explains(tiny_run, tiny_card, tiny_export) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    manifest = json.loads((tiny_export / "explainer.json").read_text())
    both = {
        "classifier": str(explainer.classifier_info.spec),
        "fingerprint": explainer.classifier_info.fingerprint,
        "read_by": "classifier",
        "precision": "fp32",
    }
    assert open_engine(tiny_run, tiny_card).info.model_dump() == {
        **both,
        "runtime": "torch",
        "run": digest_run(explainer),
    }
    assert open_engine(tiny_export).info.model_dump() == {
        **both,
        "runtime": "onnxruntime",
        "run": manifest["files"]["combined"]["sha256"],
    }


@pytest.mark.parametrize("spin", [True, False])
def test_threads_spin_where_they_may(tiny_export, spin: bool) -> None:
    engine = open_engine(tiny_export, spin=spin)
    options = engine.session.get_session_options()
    name = "session.intra_op.allow_spinning"
    if spin:
        with pytest.raises(RuntimeError, match=name):
            options.get_session_config_entry(name)
    else:
        assert options.get_session_config_entry(name) == "0"
