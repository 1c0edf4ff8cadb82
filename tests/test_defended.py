"""Every verb gives the answers of the whole classifier: behind its filter, at its temperature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import apercu
import apercu_runtime
from apercu import Classifier, MaskExplainer, open_classifier, open_images
from apercu.classifiers import (
    ClassifierCard,
    InputSpec,
    SmallResNet,
    save_classifier,
    wrap_module,
)
from apercu.cli import main
from apercu.deploy.inference import open_engine
from apercu.deploy.serving.requests import ExplainRequest
from apercu.deploy.serving.worker import ImageWorker, WorkerSetup, open_explainer
from apercu.deploy.video.explain_video import open_video_engine
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.train import train_explainer
from apercu.robustness import StressPlan, run_stress_test
from apercu.training.trainer import Hardware, Trainer

FILTER, TEMPERATURE = "bit_depth:bits=1", 0.5
IMAGES = "planted:size=32,images=8,classes=3"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three planted classes whose logits vary much, behind a filter."""
    options = {"channels": 3, "classes": 3, "size": [32, 32], "width": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallResNet(**options).eval()
        grey = torch.rand(64, 3, 1, 1).expand(-1, -1, 32, 32) * 2 - 1
    *_, head = (layer for layer in network.modules() if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():
        spread = network(grey).std(0).mean()
        head.weight.mul_(2 / spread)
        head.bias.mul_(2 / spread).sub_(network(grey).mean(0))
    described = ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options=options,
        input=InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3),
        classes=("stripes, bands", "dots", "rings"),
        filter=FILTER,
        temperature=TEMPERATURE,
    )
    folder = tmp_path_factory.mktemp("defended")
    return save_classifier(wrap_module(network, described), folder)


@pytest.fixture(scope="module")
def picture(card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that the network alone takes for another class than the whole classifier."""
    classifier = open_classifier(card)
    for seed in range(200):
        generator = np.random.default_rng(seed)
        colour = generator.integers(60, 196, (1, 1, 3))
        pixels = (colour + generator.integers(-60, 60, (32, 32, 3))).astype(np.uint8)
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
        bare, whole = (
            each.predict_probabilities(images)[0]
            for each in (classifier.without_filter(), classifier)
        )
        if bare.argmax() != whole.argmax() and (bare - whole).abs().max() > 0.2:
            path = tmp_path_factory.mktemp("picture") / "noise.png"
            Image.fromarray(pixels).save(path)
            return path
    raise AssertionError("the filter changes no prediction")


@pytest.fixture(scope="module")
def expected(card: Path, picture: Path) -> torch.Tensor:
    """The probabilities of the whole classifier, by its parts."""
    classifier = open_classifier(card)
    images = classifier.prepare(apercu.read_picture(picture))[None]
    network = open_classifier(card).module
    assert network is not None
    with torch.no_grad():
        logits = network((images.round() - 0.5) / 0.5)
    probabilities: torch.Tensor = (logits / TEMPERATURE).softmax(1)[0]
    assert not torch.allclose(probabilities, logits.softmax(1)[0], atol=0.05)
    return probabilities


@pytest.fixture(scope="module")
def run(card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mask explainer whose encoder is the classifier, trained for two steps."""
    settings = MASK_PRESETS.parse(
        {
            "preset": "small",
            "encoder": "own",
            "frozen": True,
            "decoder": {"width": 16},
            "embedding": {"steps": 2, "batch": 4},
            "schedule": {"steps": 2, "batch": 4},
        }
    )
    out = tmp_path_factory.mktemp("runs") / "mask"
    classifier = open_classifier(card)
    trainer = Trainer(classifier, open_images(IMAGES), out, Hardware("cpu"), say=lambda line: None)
    train_explainer(settings, trainer, classifier)
    return out


@pytest.fixture(scope="module")
def exported(
    run: Path, export_alone: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("exports") / "export"
    export_alone(MaskExplainer.from_pretrained(run), out)
    return out


def read_images(run: Path, picture: Path) -> torch.Tensor:
    return MaskExplainer.from_pretrained(run).prepare(apercu.read_picture(picture))[None]


def explain(run: Path, exported: Path, picture: Path) -> torch.Tensor:
    explanation = MaskExplainer.from_pretrained(run).explain(picture)
    return torch.tensor([explanation.probability])


def serve(run: Path, exported: Path, picture: Path) -> torch.Tensor:
    setup = WorkerSetup(run, None, 1_000_000)
    worker = ImageWorker(open_explainer(setup), setup.max_pixels)
    prepared = worker.prepare(ExplainRequest(picture.read_bytes()))
    [response] = [worker.write(one) for one in worker.explain([prepared])]
    top = json.loads(response.body)["top"]
    return torch.tensor([one["probability"] for one in sorted(top, key=lambda one: one["index"])])


def infer(run: Path, exported: Path, picture: Path) -> torch.Tensor:
    return open_engine(run)(read_images(run, picture)).probabilities[0]


def infer_exported(run: Path, exported: Path, picture: Path) -> torch.Tensor:
    return open_engine(exported)(read_images(run, picture)).probabilities[0]


def play_video(run: Path, exported: Path, picture: Path) -> torch.Tensor:
    return open_video_engine(run)(read_images(run, picture)).probabilities[0]


def run_without_pytorch(run: Path, exported: Path, picture: Path) -> torch.Tensor:
    explanation = apercu_runtime.load_explainer(exported).explain(picture)
    return torch.tensor([explanation.probability])


def explain_batch(run: Path, exported: Path, picture: Path) -> torch.Tensor:
    import pyarrow.parquet as pq

    out = picture.parent / "batch"
    apercu.explain_dataset(run, picture, out, workers=1)
    [file] = (out / "maps").glob("*.parquet")
    [row] = pq.read_table(file).to_pylist()
    return torch.tensor([row["probability"]])


VERBS = (explain, serve, infer, infer_exported, play_video, run_without_pytorch, explain_batch)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_every_verb_predicts_behind_the_filter(
    verb: Callable[..., torch.Tensor],
    run: Path,
    exported: Path,
    picture: Path,
    expected: torch.Tensor,
) -> None:
    probabilities = verb(run, exported, picture)
    wanted = expected if len(probabilities) > 1 else expected.max()[None]
    assert probabilities.tolist() == pytest.approx(wanted.tolist(), abs=1e-3)


def put_in_front(card: Path) -> Classifier:
    """The same classifier as one module in memory, whose filter and temperature are layers."""
    whole = open_classifier(card)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = whole.module

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            soft = whole.filter.apply_surrogate(images) if images.requires_grad else images
            images = images.round() + (soft - soft.detach())
            logits: torch.Tensor = self.network((images - 0.5) / 0.5)
            return logits / TEMPERATURE

    return open_classifier(Whole(), size=32, classes=whole.classes, output="logits", copy=False)


def test_a_comparison_is_that_of_the_whole_classifier(card: Path, tmp_path: Path) -> None:
    rows = []
    for name, classifier in (("card", open_classifier(card)), ("layers", put_in_front(card))):
        results = apercu.compare(
            classifier,
            IMAGES,
            {"gradient": apercu.methods.get("gradient")},
            metrics=["rise_deletion"],
            out=tmp_path / name,
        )
        rows.append([(row.explainer, row.metric, row.value) for row in results.rows])
    assert rows[0] == rows[1]
    assert any(metric == "rise_deletion" for _, metric, _ in rows[0])


def test_a_comparison_says_that_a_guard_plays_no_part(
    card: Path, guarded_card: Path, tmp_path: Path
) -> None:
    for path, has_guard in ((card, False), (guarded_card, True)):
        out = tmp_path / str(has_guard)
        apercu.compare(path, IMAGES, methods="gradient", metrics="iou", out=out, cost=False)
        page = (out / "report.html").read_text(encoding="utf-8")
        assert page.count("card names plays no part") == has_guard


def test_a_stress_test_says_that_a_guard_plays_no_part(
    tiny_card: Path, guarded_card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--images", IMAGES, "--attacks", "fgsm", "--epsilons", "8/255"]
    note = "the guard that the card names plays no part here; apercu guard measure says how many"
    for card, has_guard in ((guarded_card, True), (tiny_card, False)):
        out = tmp_path / str(has_guard)
        with pytest.raises(SystemExit, match="0"):
            main(["stress", "--classifier", str(card), *words, "--out", str(out)])
        assert capsys.readouterr().out.count(note) == has_guard
        assert (out / "report.html").read_text(encoding="utf-8").count(note) == has_guard
        assert ("guard" in json.loads((out / "results.json").read_text())) is has_guard


def test_a_stress_test_takes_the_filter_off_and_tests_it(card: Path, tmp_path: Path) -> None:
    whole = open_classifier(card)
    source = open_images(IMAGES)
    plan = StressPlan(attacks=("fgsm",), epsilons=(8 / 255,))
    results = run_stress_test(whole, source, tmp_path / "whole", plan)
    typed = plan.model_copy(update={"filters": ("none", FILTER)})
    bare = run_stress_test(whole.without_filter(), source, tmp_path / "bare", typed)
    assert results.rows == bare.rows
    assert {row.filter for row in results.rows} == {"none", FILTER}
    again = run_stress_test(whole, source, tmp_path / "bare", typed)
    assert again.rows == bare.rows
    assert results.about["fingerprint"] == whole.fingerprint
