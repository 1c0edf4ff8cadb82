"""The counterpart explainer: two images, one map, a run folder, a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apercu import open_classifier, open_images
from apercu.classifiers import Classifier, ClassifierCard, InputSpec, SmallResNet, wrap_module
from apercu.errors import ClassifierError, ConfigError, RunError, TargetError
from apercu.evaluation.open_explainers import open_explainers
from apercu.explainers.counterpart.explainer import CounterpartExplainer
from apercu.explainers.counterpart.network import MAX_CHANGE, CounterpartNetwork, CounterpartShape
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS, CounterpartSettings
from apercu.explainers.counterpart.training import CounterpartTraining
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.run_folder import load_explainer
from apercu.explainers.train import build_network, train_explainer
from apercu.networks.graph_encoder import GraphEncoder
from apercu.training.trainer import Hardware, Trainer

PLANTED = "planted:size=32,images=24,classes=3,difficulty=0"
SETTINGS = {
    "generators": {"width": 16, "resolution": 4},
    "embedding": {"images": 24},
    "schedule": {"steps": 3, "batch": 4},
}


def settings(**changes: Any) -> CounterpartSettings:
    return COUNTERPART_PRESETS.parse({**SETTINGS, **changes})


@pytest.fixture
def classifier(tiny_card: Path) -> Classifier:
    return open_classifier(tiny_card)


@pytest.fixture(scope="module")
def run(tiny_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "counterpart"
    classifier = open_classifier(tiny_card)
    fit = Trainer(classifier, open_images(PLANTED), folder, Hardware("cpu"), say=lambda line: None)
    train_explainer(settings(), fit, classifier)
    return folder


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def moved(network: CounterpartNetwork) -> CounterpartNetwork:
    """As if it had been trained: heads that change something."""
    generator = torch.Generator().manual_seed(2)
    for head in (network.decoder.similar, network.decoder.adversarial):
        shape = head.last.weight.shape
        head.last.weight.data.copy_(20 * torch.randn(shape, generator=generator))
    return network


def test_untrained_generators_change_nothing(classifier: Classifier, images: torch.Tensor) -> None:
    network = build_network(settings(), classifier, 0).eval()
    with torch.no_grad():
        pair = network(images, torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))
    assert torch.equal(pair.similar, images) and torch.equal(pair.adversarial, images)


@pytest.mark.parametrize("shape", [{}, {"separate": True}, {"places": False}, {"resolution": 1}])
def test_generators_depend_on_both_classes_and_reach_no_further(
    shape: dict[str, Any], classifier: Classifier, images: torch.Tensor
) -> None:
    scarcity = 0.3 * shape.get("places", True)
    generators = {"width": 16, "resolution": 4, **shape}
    whole = settings(generators=generators, objective={"scarcity": scarcity})
    network = moved(build_network(whole, classifier, 0)).eval()  # type: ignore[arg-type]
    targets = torch.tensor([0, 1, 2])
    with torch.no_grad():
        one = network(images, targets, targets.roll(1))
        two = network(images, targets, targets.roll(2))
        three = network(images, targets.roll(2), targets.roll(1))
    assert (one.adversarial - images).abs().max() > 0.01
    for other in (two, three):
        assert not torch.allclose(one.adversarial, other.adversarial)
    for result in (one.similar, one.adversarial):
        assert result.min() >= 0 and result.max() <= 1
        assert (result - images).abs().max() <= 1.3 * MAX_CHANGE  # bicubic enlargement overshoots
    if not shape.get("places", True):
        assert torch.equal(one.change_masks, torch.ones_like(one.change_masks))


def test_a_separate_body_is_another_one(classifier: Classifier, images: torch.Tensor) -> None:
    apart = settings(generators={"width": 16, "resolution": 4, "separate": True})
    network = moved(build_network(apart, classifier, 0)).eval()  # type: ignore[arg-type]
    targets = torch.tensor([0, 1, 2])
    with torch.no_grad():
        before = network(images, targets, targets.roll(1))
        network.decoder.other.deepest[0].weight.mul_(2)  # type: ignore[union-attr, index, operator]
        after = network(images, targets, targets.roll(1))
    assert torch.equal(before.similar, after.similar)
    assert not torch.equal(before.adversarial, after.adversarial)


def test_a_training_leaves_a_run_that_opens_again(run: Path, images: torch.Tensor) -> None:
    explainer = CounterpartExplainer.from_pretrained(run)
    again = load_explainer(run)
    assert isinstance(again, CounterpartExplainer)
    assert torch.equal(explainer.attribute(images), again.attribute(images))
    facts = json.loads((run / "facts.json").read_text())
    assert {"kept", "flipped", "change", "peak", "spread", "steps"} <= facts.keys()
    assert facts["kept"] == 1.0
    assert "Counterpart explainer" in (run / "card.md").read_text()
    assert list((run / "samples").iterdir())
    with pytest.raises(RunError, match="expected a run of a MaskExplainer"):
        MaskExplainer.from_pretrained(run)


def test_the_map_is_the_difference_of_the_pair(
    classifier: Classifier, run: Path, images: torch.Tensor
) -> None:
    explainer = CounterpartExplainer.from_pretrained(run)
    moved(explainer.network)
    pair = explainer.counterparts(images)
    expected = (pair.adversarial - pair.stable).abs().mean(1)
    torch.testing.assert_close(explainer.attribute(images), expected)
    torch.testing.assert_close(explainer.attribute(images, pair.predicted), expected)
    torch.testing.assert_close(explainer.attribute(images, pair.target), expected)
    strip = pair.strip
    assert torch.equal(strip[0], pair.stable)
    torch.testing.assert_close(strip[-1], pair.adversarial)
    torch.testing.assert_close(strip[3], (pair.stable + pair.adversarial) / 2)
    names = explainer.classifier_info.classes
    other = [names[int(one)] for one in pair.target]
    assert torch.equal(explainer.counterparts(images, other).target, pair.target)


def test_targets_that_cannot_be(run: Path, images: torch.Tensor) -> None:
    explainer = CounterpartExplainer.from_pretrained(run)
    predicted = explainer.counterparts(images).predicted
    with pytest.raises(TargetError, match=r"is predicted as .* already; choose another"):
        explainer.counterparts(images, predicted)
    with pytest.raises(TargetError, match="no class"):
        explainer.counterparts(images, "ring")
    with pytest.raises(TargetError, match="expected one class or 3, got 2"):
        explainer.counterparts(images, [0, 1])


@pytest.mark.parametrize("preset", ["sagen", "syce", "cyce"])
def test_published_presets_train_too(preset: str, classifier: Classifier, tmp_path: Path) -> None:
    changes = {
        "preset": preset,
        "generators": {"width": 8},
        "embedding": {"steps": 2, "batch": 4},
        "schedule": {"steps": 2, "batch": 4},
    }
    fit = Trainer(
        classifier, open_images(PLANTED), tmp_path, Hardware("cpu"), say=lambda line: None
    )
    explainer = train_explainer(COUNTERPART_PRESETS.parse(changes), fit, classifier)
    again = CounterpartExplainer.from_pretrained(tmp_path)
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again.attribute(image), explainer.attribute(image))


def test_judge_and_generators_have_rates_and_clips_of_their_own(classifier: Classifier) -> None:
    network = CounterpartNetwork(
        GraphEncoder(classifier),
        len(classifier.classes),
        classifier.channels,
        CounterpartShape(width=8),
    )
    network.freeze_encoder()
    training = CounterpartTraining(network, classifier, CounterpartSettings(), 0)
    generators, judges = training.parameter_groups()
    assert judges["lr"] == pytest.approx(generators["lr"] / 4)
    parameters = {id(p) for group in (generators, judges) for p in group["params"]}
    assert parameters == {id(p) for p in training.parameters() if p.requires_grad}
    optimiser = torch.optim.SGD([generators, judges])
    for group, size in ((generators, 100.0), (judges, 1e-3)):
        for values in group["params"]:
            values.grad = torch.full_like(values, size)
    training.configure_gradient_clipping(optimiser)
    norms = [
        torch.stack([p.grad.norm() for p in group["params"]]).norm().item()
        for group in (generators, judges)
    ]
    assert norms[0] == pytest.approx(1, rel=1e-3)
    assert norms[1] < 1


def test_a_training_goes_on_where_it_was(classifier: Classifier, tmp_path: Path) -> None:
    def train(folder: str, steps: int) -> CounterpartExplainer:
        whole = settings(schedule={"steps": 14, "batch": 4, "save_every": 2})
        source, run = open_images(PLANTED), tmp_path / folder
        fit = Trainer(classifier, source, run, Hardware("cpu"), say=lambda line: None)
        if steps < 14:
            fit_until(fit, whole, steps)
        return train_explainer(whole, fit, classifier)

    def fit_until(fit: Trainer, whole: CounterpartSettings, steps: int) -> None:
        from apercu.explainers.counterpart.training import CounterpartTraining

        done = CounterpartTraining.training_step

        def stops(self: CounterpartTraining, *arguments: Any) -> torch.Tensor:
            if self.global_step >= steps:
                raise InterruptedError
            return done(self, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CounterpartTraining, "training_step", stops)
            with pytest.raises(InterruptedError):
                train_explainer(whole, fit, classifier)

    whole, resumed = train("whole", 14), train("resumed", 9)
    state = resumed.network.state_without_frozen_encoder()
    for name, value in whole.network.state_without_frozen_encoder().items():
        torch.testing.assert_close(value, state[name], msg=name)


def test_one_class_is_not_enough() -> None:
    spec, options = InputSpec(size=(32, 32)), {"channels": 3, "classes": 1, "size": [32, 32]}
    network = SmallResNet(3, 1, (32, 32), width=4)
    card = ClassifierCard(source="tests:one", options=options, input=spec, classes=("one",))
    with pytest.raises(ClassifierError, match="tests:one: it gives one number per image"):
        wrap_module(network, card)
    yes_or_no = wrap_module(network, card.model_copy(update={"output": "sigmoid"}))
    assert yes_or_no.classes == ("not one", "one")


def test_settings_that_do_not_fit(classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match=r"objective.plausability is no setting.*plausibility"):
        settings(objective={"plausability": 1})
    with pytest.raises(ConfigError, match=r"objective.scarcity needs generators.places"):
        settings(generators={"places": False})
    with pytest.raises(ConfigError, match=r"set objective\.similarity and objective\.keep to 0"):
        settings(objective={"stable": "itself"})
    with pytest.raises(ConfigError, match=r"generators.resolution: expected a power of two, got 3"):
        build_network(settings(generators={"resolution": 3}), classifier, 0)


def test_it_can_be_compared_as_a_map(run: Path, classifier: Classifier) -> None:
    result = open_explainers([run], None, classifier, open_images(PLANTED))
    assert list(result) == ["counterpart"]
    assert result["counterpart"].map_scale == "map"
    assert result["counterpart"].cache_key.startswith("counterpart ")


@pytest.fixture
def film(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "film.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_explain_writes_pair_strip_and_probabilities(
    run: Path, tiny_card: Path, film: Path, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    out = tmp_path / "out"
    code, _ = command("explain", run, film, "--out", out, "--classifier", tiny_card)
    assert code == 0
    files = {path.name.split(".", 1)[1] for path in out.glob("film.*")}
    assert files == {
        *("map.npy", "input.png", "similar.png", "adversarial.png", "difference.png", "strip.png"),
    }
    (answer,) = json.loads((out / "explain.json").read_text())["images"][0]["answers"]
    assert len(answer["probabilities"]) == 7
    assert np.load(out / "film.map.npy").shape == (32, 32)
    code, _ = command("explain", run, film, "--out", tmp_path / "all", "--target", "all")
    targets = json.loads((tmp_path / "all" / "explain.json").read_text())["images"][0]["answers"]
    assert code == 0 and len(targets) == 2 and "probabilities" not in targets[0]
    assert (tmp_path / "all" / "sheet.png").is_file()
    code, result = command(
        "explain", run, film, "--out", tmp_path / "no", "--target", answer["seen"].partition(",")[0]
    )
    assert code == 2 and f"{film.name}: is predicted as" in result
    code, result = command("explain", run, film, "--out", tmp_path / "no", "--level", "0.8")
    assert code == 2 and "only masks have a level, and this explainer makes counterparts" in result


def test_train_counterpart_is_a_command(
    tiny_card: Path, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    config = tmp_path / "s.yaml"
    config.write_text(json.dumps(SETTINGS))
    words = ("train", "counterpart", "--classifier", tiny_card, "--images", PLANTED)
    out = tmp_path / "run"
    code, result = command(*words, "--out", out, "--config", config, "--steps", "2")
    assert code == 0 and "adversarial ones flip it" in result
    code, result = command(*words, "--out", out, "--config", config, "--steps", "2")
    assert code == 2 and "finished training" in result


def test_a_folder_of_another_kind_is_named(
    run: Path, tiny_run: Path, tiny_card: Path, command: Callable[..., tuple[int, str]]
) -> None:
    words = ("--classifier", tiny_card, "--images", PLANTED)
    code, result = command("train", "counterpart", *words, "--out", tiny_run)
    assert code == 2 and "holds a mask training; use `apercu train mask`" in result
    code, result = command("train", "mask", *words, "--out", run)
    assert code == 2 and "holds a counterpart training" in result


def test_nothing_of_the_classifier_learns(classifier: Classifier, tmp_path: Path) -> None:
    """SyCE sends slopes through the encoder, which shares its layers with the classifier."""
    before = {name: value.clone() for name, value in classifier.module.state_dict().items()}  # type: ignore[union-attr]
    whole = settings(objective={"stable": "twice", "cycle": 1.0}, schedule={"steps": 8, "batch": 4})
    fit = Trainer(
        classifier, open_images(PLANTED), tmp_path, Hardware("cpu"), say=lambda line: None
    )
    explainer = train_explainer(whole, fit, classifier)
    for name, value in classifier.module.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, before[name]), name
    assert explainer.network.encoder is not None
    with pytest.raises(ConfigError, match="the encoder `own` is a classifier's own"):
        settings(frozen=False)


def test_a_begun_training_goes_on_by_its_settings_not_their_spelling(
    run: Path, tiny_card: Path, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    config, out = tmp_path / "s.yaml", tmp_path / "run"
    config.write_text(json.dumps(SETTINGS))
    words = ("train", "counterpart", "--classifier", tiny_card, "--images", PLANTED, "--out", out)
    assert command(*words, "--config", config)[0] == 0
    (out / "weights.safetensors").unlink()
    stored = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(dict(reversed(stored.items()))))
    assert command(*words, "--config", config, "--resume")[0] == 0
    (out / "weights.safetensors").unlink()
    (out / "config.json").write_text("{")
    code, result = command(*words, "--config", config, "--resume")
    assert code == 2 and "config.json: cannot be read; choose another --out" in result
