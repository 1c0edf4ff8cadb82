"""Several classes at once, one logit and a regression, from the training to the server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import apercu
from apercu import open_classifier, open_images
from apercu.classifiers import (
    Classifier,
    ClassifierCard,
    ClassNames,
    InputSpec,
    SmallResNet,
    save_classifier,
    wrap_module,
)
from apercu.deploy.inference import Predictor, open_engine
from apercu.deploy.serving.requests import ExplainRequest, RequestOptions, parse_options
from apercu.deploy.serving.worker import ImageWorker, WorkerSetup, open_explainer
from apercu.errors import ClassifierError, ConfigError
from apercu.evaluation.sample import draw_sample
from apercu.explain.explain_images import ExplainRun, select_images
from apercu.explain.options import ExplainOptions, TargetSelector
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
from apercu.explainers.embedding_training import EmbeddingPhase, train_ridge_embedding
from apercu.explainers.kind import find_kind
from apercu.explainers.mask.levels import measure_absent_area
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.mask.training import MaskTraining
from apercu.explainers.settings import RidgeEmbedding
from apercu.explainers.train import train_explainer
from apercu.maps import min_max_scale
from apercu.methods import Gradient
from apercu.training.data import TrainingImages
from apercu.training.trainer import Hardware, Trainer

PLANTED = "planted:size=32,images=24,classes=3,difficulty=0"
NAMES = ("stripes", "dots", "rings")
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _make_card(folder: Path, columns: int, **said: Any) -> Path:
    options = {"channels": 3, "classes": columns, "size": [32, 32], "width": 4}
    card = ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options=options,
        input=InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3),
        **said,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallResNet(**options)
        for weights in list(network.parameters())[-1:]:
            weights.data = torch.linspace(0.3, -0.2, columns)
    return save_classifier(wrap_module(network, card), folder)


def _train(classifier: Classifier, run: Path, objective: str = "small") -> Any:
    settings = MASK_PRESETS.parse(
        {
            "preset": objective,
            "decoder": {"width": 16},
            "embedding": {"steps": 2, "batch": 4},
            "schedule": {"steps": 2, "batch": 4},
        }
    )
    fit = Trainer(classifier, open_images(PLANTED), run, Hardware("cpu"), say=lambda line: None)
    return train_explainer(settings, fit, classifier)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A classifier of several classes at once, and its mask explainer, trained for two steps."""
    folder = tmp_path_factory.mktemp("several")
    card = _make_card(folder / "card", 3, output="sigmoid", classes=NAMES)
    _train(open_classifier(card), folder / "run")
    return card, folder / "run"


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A regression and its mask explainer, trained for two steps."""
    folder = tmp_path_factory.mktemp("regression")
    result = {"output": "value", "value_range": (-1.0, 3.0), "classes": ("age",)}
    card = _make_card(folder / "card", 1, **result)
    _train(open_classifier(card), folder / "run")
    return card, folder / "run"


def _respond(run: Path, classifier: Path | None, options: RequestOptions) -> dict[str, Any]:
    setup = WorkerSetup(run, None if classifier is None else str(classifier), 1_000_000)
    worker = ImageWorker(open_explainer(setup), setup.max_pixels)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 90, 30)).save(buffer, "PNG")
    prepared = worker.prepare(ExplainRequest(buffer.getvalue(), options))
    return json.loads(worker.write(worker.explain([prepared])[0]).body)


def test_a_run_knows_that_several_classes_may_be_predicted(several: tuple[Path, Path]) -> None:
    _, run = several
    info = json.loads((run / "classifier.json").read_text())
    assert info["output"]["name"] == "sigmoid" and info["output"]["columns"] == 3
    explainer = apercu.load_explainer(run)
    assert explainer.classifier_info.decision.is_multiple
    assert 0 < explainer.facts["kept_probability"] < 1


def test_an_older_run_means_a_softmax(tiny_run: Path) -> None:
    assert "output" not in json.loads((tiny_run / "classifier.json").read_text())
    assert not apercu.load_explainer(tiny_run).classifier_info.decision.is_multiple


def test_explanations_name_all_predicted_classes(
    several: tuple[Path, Path], tmp_path: Path
) -> None:
    card, run = several
    classifier, explainer = open_classifier(card), apercu.load_explainer(run)
    source = select_images([PLANTED], explainer.classifier_info.input)[:3]
    options = ExplainOptions("predicted")
    ExplainRun(explainer, options, classifier).write(
        source, tmp_path, lambda done, total: None, print
    )
    record = json.loads((tmp_path / "explain.json").read_text())
    for entry, ref in zip(record["images"], source, strict=True):
        image = explainer.prepare(ref.read_image().picture)[None]
        probabilities = classifier.predict_probabilities(image)[0]
        order = probabilities.argsort(descending=True).tolist()
        expected = [NAMES[index] for index in order if probabilities[index] >= 0.5]
        shown = expected or [NAMES[order[0]]]
        assert [answer["class"] for answer in entry["answers"]] == shown
        for answer in entry["answers"]:
            assert answer["predicted"] == expected
            assert answer["probability"] == pytest.approx(
                float(probabilities[answer["target"]]), abs=1e-5
            )


def test_exports_and_runtime_give_the_sigmoid(
    several: tuple[Path, Path], export_alone: Callable[..., None], tmp_path: Path
) -> None:
    apercu_runtime = pytest.importorskip("apercu_runtime")
    card, run = several
    classifier, explainer = open_classifier(card), apercu.load_explainer(run)
    export_alone(explainer, tmp_path, classifier)
    manifest = json.loads((tmp_path / "explainer.json").read_text())
    assert manifest["output"]["name"] == "sigmoid"
    expected = classifier.predict_probabilities(IMAGES)
    loaded = apercu_runtime.load_explainer(tmp_path)
    np.testing.assert_allclose(loaded.predict(IMAGES.numpy()), expected, atol=1e-5)
    names = [one.name for one in loaded.explain(IMAGES[0].numpy()).predicted_classes]
    order = expected[0].argsort(descending=True).tolist()
    assert names == [NAMES[index] for index in order if expected[0, index] >= 0.5]
    engine = open_engine(tmp_path)
    torch.testing.assert_close(engine(IMAGES).probabilities, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        engine.predict_logits(IMAGES)[0], classifier(IMAGES), atol=1e-3, rtol=1e-3
    )


def test_the_server_names_all_predicted_classes(several: tuple[Path, Path]) -> None:
    card, run = several
    names = ClassNames.of(NAMES)
    for fields in ({"target": "predicted"}, {"target": ["predicted"]}):
        assert parse_options(fields, names) == RequestOptions(only_predicted=True)
    record = _respond(run, card, RequestOptions(only_predicted=True))
    chosen = [row["class"] for row in record["top"] if row["probability"] >= 0.5]
    assert record["predicted"] == chosen
    assert [answer["class"] for answer in record["answers"]] == (
        chosen or [record["top"][0]["class"]]
    )
    assert sum(row["probability"] for row in record["top"]) != pytest.approx(1, abs=1e-3)


def test_the_value_of_a_regression_arrives_everywhere(
    regression: tuple[Path, Path], export_alone: Callable[..., None], tmp_path: Path
) -> None:
    apercu_runtime = pytest.importorskip("apercu_runtime")
    card, run = regression
    classifier, explainer = open_classifier(card), apercu.load_explainer(run)
    raw = classifier.module(classifier.normalise(IMAGES)).detach()[:, 0]
    values = classifier.output.find_values(classifier(IMAGES))
    torch.testing.assert_close(values, raw, atol=1e-5, rtol=0)
    explanation = explainer.explain(IMAGES[0], "higher", classifier=classifier)
    assert explanation.target.name == "higher age"
    assert explanation.value == pytest.approx(float(raw[0]), abs=1e-4)
    explanation.save(tmp_path / "shown")
    [entry] = json.loads((tmp_path / "shown" / "explain.json").read_text())["images"]
    assert entry["answers"][0]["value"] == pytest.approx(float(raw[0]), abs=1e-4)
    export_alone(explainer, tmp_path / "out", classifier)
    loaded = apercu_runtime.load_explainer(tmp_path / "out")
    assert loaded.explain(IMAGES[0].numpy(), "lower").value == pytest.approx(
        float(raw[0]), abs=1e-3
    )
    record = _respond(run, card, RequestOptions())
    grey = torch.tensor([200, 90, 30]).div(255).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    expected = float(classifier.module(classifier.normalise(grey)))
    assert record["value"] == pytest.approx(expected, abs=1e-3)


def test_one_logit_trains(tmp_path: Path) -> None:
    classifier = open_classifier(_make_card(tmp_path / "card", 1, output="sigmoid"))
    explainer = _train(classifier, tmp_path / "run")
    assert explainer.classes == ("not class", "class")
    maps = explainer(IMAGES, "not class")
    assert maps.shape == (2, 32, 32)


def test_counterparts_of_a_regression_make_it_lower_and_higher(
    regression: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = COUNTERPART_PRESETS.parse(
        {
            "generators": {"width": 16, "resolution": 4},
            "embedding": {"images": 24},
            "schedule": {"steps": 2, "batch": 4},
        }
    )
    classifier = open_classifier(regression[0])
    source = open_images(PLANTED)
    fit = Trainer(classifier, source, tmp_path / "run", Hardware("cpu"), say=lambda line: None)
    explainer = train_explainer(settings, fit, classifier)
    predicted = classifier(IMAGES).argmax(1)
    pair = explainer.counterparts(IMAGES, logits=classifier(IMAGES))
    assert torch.equal(pair.target, 1 - predicted)
    image = explainer.explain(IMAGES[0], classifier=classifier)
    assert {image.target.index, image.predicted.index} == {0, 1}
    assert image.value == pytest.approx(
        float(classifier.output.find_values(classifier(IMAGES[:1]))), abs=1e-4
    )


def test_a_comparison_measures_the_sigmoid(several: tuple[Path, Path], tmp_path: Path) -> None:
    classifier = open_classifier(several[0])
    source = open_images(PLANTED)
    results = apercu.compare(
        classifier, source, methods="gradient", metrics="average_drop", limit=4, out=tmp_path
    )
    [row] = results.rows
    sample = draw_sample(classifier, source, 4, 0, halves=False)
    scores = []
    for batch in sample.read_batches(classifier, sample.test, 4):
        maps = Gradient()(classifier, batch.images, batch.targets)
        whole = classifier(batch.images).sigmoid().gather(1, batch.targets[:, None])[:, 0]
        masked = batch.images * min_max_scale(maps)[:, None]
        left = classifier(masked).sigmoid().gather(1, batch.targets[:, None])[:, 0]
        scores.append((whole - left).clamp(min=0) / whole)
    assert row.value == pytest.approx(float(torch.cat(scores).mean()), abs=1e-5)


def test_counterparts_of_several_classes_are_refused(several: tuple[Path, Path]) -> None:
    classifier = open_classifier(several[0])
    for name in ("counterpart", "latent"):
        with pytest.raises(ClassifierError, match="train a mask explainer, or wrap"):
            find_kind(name).check_classifier(classifier)


def test_a_student_of_several_classes_learns_each_by_itself(several: tuple[Path, Path]) -> None:
    from apercu.classifiers import StudentSettings, distil

    teacher = open_classifier(several[0])
    images = list(torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    settings = StudentSettings(steps=2, batch=4, width=4, floor=0.0)
    student, agreement = distil(teacher, images, settings)
    assert student.decision.is_multiple and 0 <= agreement <= 1


def test_a_true_target_is_the_predicted_class_of_its_mask(several: tuple[Path, Path]) -> None:
    """Also where all classes are predicted, so that none is left for a fake one."""
    classifier = open_classifier(several[0])
    settings = MASK_PRESETS.parse({"preset": "small", "schedule": {"fakes": 0.999999}})
    training = SimpleNamespace(classifier=classifier, settings=settings)
    images = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = torch.ones(32, len(classifier.classes))
    logits[:8, 1:] = -1.0
    generator = torch.Generator().manual_seed(1)
    batch = MaskTraining._draw_batch(training, images, logits, generator)  # type: ignore[arg-type]
    assert batch.real.tolist() == [False] * 8 + [True] * 24
    assert batch.predicted[:8].tolist() == [0] * 8
    assert torch.equal(batch.predicted[8:], batch.targets[8:])


def test_attacks_make_a_class_disappear(several: tuple[Path, Path]) -> None:
    from apercu.robustness.attacks.signed import Pgd
    from apercu.robustness.objectives import Untargeted

    classifier = open_classifier(several[0])
    labels = classifier(IMAGES).argmax(1)
    objective = Untargeted(classifier, labels)
    expected = -classifier.predict_probabilities(IMAGES).gather(1, labels[:, None])[:, 0].log()
    torch.testing.assert_close(objective.score(IMAGES), expected)
    present = classifier(IMAGES).gather(1, labels[:, None])[:, 0] >= 0
    assert torch.equal(~objective.is_adversarial(IMAGES), present)
    attacked = Pgd(epsilon=0.05, steps=3)(objective, IMAGES)
    assert (objective.score(attacked) > expected).all()


def test_predicted_is_no_target_of_counterparts(several: tuple[Path, Path]) -> None:
    explainer = apercu.load_explainer(several[1])
    explainer.makes_masks = False  # type: ignore[misc]
    with pytest.raises(ConfigError, match="not predicted"):
        ExplainRun(explainer, ExplainOptions("predicted"))


def _replace_gate(run: Path, mean: float, deviation: float) -> Any:
    """Open a run, and set the units of its gate's logits."""
    explainer = apercu.load_explainer(run)
    explainer.network.gate.set_logit_units(mean, deviation)
    return explainer


def test_without_the_classifier_logits_have_its_units(several: tuple[Path, Path]) -> None:
    """A class of logit −3 is not predicted, though it is above the mean of −4."""
    explainer = _replace_gate(several[1], -4.0, 2.0)
    standard = explainer.predict_logits(IMAGES)
    expected = 2 * standard - 4
    torch.testing.assert_close(explainer.estimate_logits(IMAGES), expected)
    selector = TargetSelector(explainer, ExplainOptions("predicted"))
    torch.testing.assert_close(selector.predict_logits(IMAGES), expected)
    with torch.no_grad():
        logits, _ = Predictor(explainer)(IMAGES)
    torch.testing.assert_close(logits, expected)
    explainer.network.gate.bias.data += 0.5 - standard[0]  # of the first image
    assert (explainer.predict_logits(IMAGES[:1]) > 0).all()
    assert selector.find_predicted(selector.predict_logits(IMAGES[:1])) == ()


def test_without_the_classifier_a_regression_has_its_units(regression: tuple[Path, Path]) -> None:
    """The classifier's logits are (−l, l) for a value in the middle of its range, plus l."""
    explainer = _replace_gate(regression[1], 0.0, 0.01)
    explainer.network.gate.bias.data += (
        torch.tensor([-1.0, 1.0]) - explainer.predict_logits(IMAGES)[0]
    )
    output = explainer.classifier_info.output
    with torch.no_grad():
        logits, _ = Predictor(explainer)(IMAGES[:1])
    expected = output.find_values(torch.tensor([[-0.01, 0.01]]))
    torch.testing.assert_close(output.find_values(logits), expected, atol=1e-4, rtol=0)


def test_the_absent_classes_of_an_explainer_are_those_not_predicted(
    several: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All classes are above the mean of the logits, and none is predicted."""
    explainer = _replace_gate(several[1], -9.0, 1.0)
    explainer.network.gate.bias.data += (
        torch.tensor([1.0, 2.0, 3.0]) - explainer.predict_logits(IMAGES)[0]
    )
    logits = []
    draw = type(explainer.classifier_info.decision).draw_absent

    def note(decision: Any, estimate: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        logits.append(estimate)
        return draw(decision, estimate, generator)

    monkeypatch.setattr(type(explainer.classifier_info.decision), "draw_absent", note)
    measure_absent_area(explainer, [IMAGES[:1]], 0)
    torch.testing.assert_close(logits[0], torch.tensor([[-8.0, -7.0, -6.0]]), atol=1e-4, rtol=0)


def test_the_embedding_agrees_in_the_units_of_the_classifier(
    several: tuple[Path, Path], tmp_path: Path
) -> None:
    """Standardised logits are above 0 for half of the classes; the classifier predicts none."""
    classifier = open_classifier(several[0])
    last = list(classifier.module.parameters())[-1]
    last.data -= 20
    said: list[str] = []
    network = apercu.load_explainer(several[1]).network
    network.encoder_frozen = False
    network.requires_grad_(True)
    images = TrainingImages(open_images(PLANTED), classifier)
    phase = EmbeddingPhase(classifier, images, 0, tmp_path, said.append)
    agreement = train_ridge_embedding(network, phase, RidgeEmbedding(steps=1, batch=4))
    assert agreement == 1
