"""The latent explainer: a strip between two decisions, a run folder, a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from apercu import fit_guard, open_classifier, open_images
from apercu.classifiers import Classifier, ClassifierCard, InputSpec, SmallResNet, wrap_module
from apercu.deploy.inference import open_engine
from apercu.errors import ClassifierError, ConfigError, RunError, TargetError
from apercu.evaluation.open_explainers import open_explainers
from apercu.explainers.latent.explainer import LatentExplainer
from apercu.explainers.latent.settings import LATENT_PRESETS, LatentSettings
from apercu.explainers.latent.training import LatentTraining
from apercu.explainers.run_folder import load_explainer
from apercu.explainers.train import train_explainer
from apercu.training.trainer import Hardware, Trainer

PLANTED = "planted:size=32,images=24,classes=3,difficulty=0"
SETTINGS = {
    "shape": {"side": 32, "code": 8, "width": 8, "reader": 16},
    "path": {"steps": 20, "evidence": [3.0, 30.0]},
    "schedule": {"steps": 3, "batch": 4},
}


def settings(**changes: Any) -> LatentSettings:
    return LATENT_PRESETS.parse({**SETTINGS, **changes})


def fit(classifier: Classifier, folder: Path) -> Trainer:
    return Trainer(classifier, open_images(PLANTED), folder, Hardware("cpu"), say=lambda line: None)


@pytest.fixture
def classifier(tiny_card: Path) -> Classifier:
    return open_classifier(tiny_card)


@pytest.fixture(scope="module")
def run(tiny_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, classifier = tmp_path_factory.mktemp("runs") / "latent", open_classifier(tiny_card)
    train_explainer(settings(), fit(classifier, folder), classifier)
    return folder


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_training_leaves_a_run_that_opens_again(run: Path, images: torch.Tensor) -> None:
    explainer, again = LatentExplainer.from_pretrained(run), load_explainer(run)
    assert isinstance(again, LatentExplainer)
    assert torch.equal(explainer.attribute(images), again.attribute(images))
    facts = json.loads((run / "facts.json").read_text())
    assert {"kept", "flipped", "change", "peak", "spread", "steps"} <= facts.keys()
    assert facts["kept"] == 1.0 and "embedding_agreement" not in facts
    assert "Latent explainer" in (run / "card.md").read_text()
    assert list((run / "samples").iterdir())


def test_a_strip_begins_with_the_image(run: Path, images: torch.Tensor) -> None:
    explainer = LatentExplainer.from_pretrained(run)
    pair = explainer.counterparts(images)
    assert pair.strip.shape == (7, *images.shape)
    assert torch.equal(pair.strip[0], images) and torch.equal(pair.stable, images)
    assert torch.equal(pair.strip[-1], pair.adversarial)
    assert not torch.equal(pair.adversarial, images)
    expected = (pair.adversarial - images).abs().mean(1)
    torch.testing.assert_close(explainer.attribute(images), expected)
    torch.testing.assert_close(explainer.attribute(images, pair.predicted), expected)
    torch.testing.assert_close(explainer.attribute(images, pair.target), expected)
    for image in range(len(images)):
        alone = explainer.attribute(images[image : image + 1])
        torch.testing.assert_close(alone[0], expected[image], atol=1e-4, rtol=1e-3)


def test_the_path_starts_at_what_the_classifier_answers(run: Path, images: torch.Tensor) -> None:
    explainer = LatentExplainer.from_pretrained(run)
    sure = torch.tensor([[9.0, 0.0, 0.0]]).repeat(3, 1)
    unsure = sure / 9
    far = explainer.counterparts(images, 1, logits=sure)
    near = explainer.counterparts(images, 1, logits=unsure)
    assert (far.predicted == 0).all() and (far.target == 1).all()
    assert far.maps.mean() > near.maps.mean()


def test_targets_that_cannot_be(run: Path, images: torch.Tensor) -> None:
    explainer = LatentExplainer.from_pretrained(run)
    predicted = explainer.counterparts(images).predicted
    with pytest.raises(TargetError, match=r"is predicted as .* already; choose another"):
        explainer.counterparts(images, predicted)
    with pytest.raises(TargetError, match="no class"):
        explainer.counterparts(images, "ring")


def test_a_training_goes_on_where_it_was(classifier: Classifier, tmp_path: Path) -> None:
    whole = settings(schedule={"steps": 8, "batch": 4, "save_every": 2})
    done = LatentTraining.training_step

    def stops(self: LatentTraining, *arguments: Any) -> torch.Tensor:
        if self.global_step >= 5:
            raise InterruptedError
        return done(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LatentTraining, "training_step", stops)
        with pytest.raises(InterruptedError):
            train_explainer(whole, fit(classifier, tmp_path / "resumed"), classifier)
    resumed = train_explainer(whole, fit(classifier, tmp_path / "resumed"), classifier)
    straight = train_explainer(whole, fit(classifier, tmp_path / "straight"), classifier)
    state = resumed.network.state_dict()
    for name, value in straight.network.state_dict().items():
        torch.testing.assert_close(value, state[name], msg=name)


def test_the_classifier_is_only_asked(classifier: Classifier, tmp_path: Path) -> None:
    class Asked(SmallResNet):
        is_open = False

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert not self.is_open or not (torch.is_grad_enabled() or images.requires_grad)
            return super().forward(images)

    input, classes = classifier.network.input, classifier.classes
    card = ClassifierCard(source="tests:asked", input=input, classes=classes)
    network = Asked(3, 3, (32, 32), width=4)
    counting = wrap_module(network, card)
    network.is_open = True
    explainer = train_explainer(settings(), fit(counting, tmp_path), counting)
    assert explainer.facts["steps"] == 3


def test_what_does_not_fit(classifier: Classifier, tmp_path: Path, run: Path) -> None:
    spec, options = InputSpec(size=(32, 32)), {"channels": 3, "classes": 1, "size": [32, 32]}
    card = ClassifierCard(source="tests:one", options=options, input=spec, classes=("one",))
    with pytest.raises(ClassifierError, match="tests:one: it gives one number per image"):
        wrap_module(SmallResNet(3, 1, (32, 32), width=4), card)
    with pytest.raises(ConfigError, match=r"shape.side: .*multiple of 16"):
        settings(shape={"side": 40})
    with pytest.raises(ConfigError, match=r"shape.sides is no setting.*side"):
        settings(shape={"sides": 32})
    with pytest.raises(RunError, match="holds a finished training"):
        train_explainer(settings(), fit(classifier, run), classifier)


def test_what_needs_masks_or_an_encoder_says_so(run: Path, tiny_card: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"makes masks \(mask, shapley\), got a latent explainer; use"
    ):
        open_engine(run)
    with pytest.raises(
        ConfigError, match="a latent explainer has no encoder that could be observed"
    ):
        fit_guard(tiny_card, "planted:size=32,images=60", tmp_path / "guard", explainer=run)
    assert not (tmp_path / "guard").exists()


def test_it_can_be_compared_as_a_map(run: Path, classifier: Classifier) -> None:
    result = open_explainers([run], None, classifier, open_images(PLANTED))
    assert list(result) == ["latent"] and result["latent"].map_scale == "map"


def test_the_command_trains_and_explains(
    tiny_card: Path, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(json.dumps(SETTINGS))
    words = ("--classifier", tiny_card, "--images", PLANTED, "--config", config)
    code, result = command("train", "latent", *words, "--out", tmp_path / "run", "--device", "cpu")
    assert code == 0 and "adversarial ones flip it" in result
    out = tmp_path / "paths"
    arguments = ("planted:size=32,images=2,classes=3", "--classifier", tiny_card)
    code, _ = command("explain", tmp_path / "run", *arguments, "--out", out)
    assert code == 0
    for image in json.loads((out / "explain.json").read_text())["images"]:
        (answer,) = image["answers"]
        assert len(answer["probabilities"]) == 7
        assert (out / answer["files"]["strip"]).is_file()
    code, result = command("explain", tmp_path / "run", arguments[0], "--level", 0.3, "--out", out)
    assert code == 2 and "level: only masks have a level" in result
