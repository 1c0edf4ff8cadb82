"""Trainings of a few steps: the run folder, and going on after kill -9."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import get_worker_info

from apercu import MaskExplainer, open_classifier, open_images
from apercu.errors import ConfigError, ImagesError, RunError
from apercu.explainers.embedding_training import EmbeddingPhase
from apercu.explainers.mask.settings import MASK_PRESETS, MaskSettings
from apercu.explainers.mask.training import MaskTraining
from apercu.explainers.train import build_network, train_explainer
from apercu.images import ImageSource, Item, Planted
from apercu.networks.gate import ALWAYS_OPEN
from apercu.run_record import Phase
from apercu.training.data import TrainingImages
from apercu.training.trainer import Hardware, Trainer

SPEC = "planted:size=32,images=24,classes=3,difficulty=0"
STEPS, KILLED, SAVED = 6, 5, 2
SETTINGS = {
    "preset": "small",
    "decoder": {"width": 16},
    "embedding": {"steps": 3, "batch": 4},
    "schedule": {"steps": STEPS, "batch": 4, "save_every": SAVED},
}

VICTIM = f"""
import os, signal, sys
from apercu.explainers.mask.training import MaskTraining
log_terms = MaskTraining.log_terms
def die(self, *args):
    if self.global_step == {KILLED}:
        os.kill(os.getpid(), signal.SIGKILL)
    log_terms(self, *args)
MaskTraining.log_terms = die
from pathlib import Path
from apercu import open_classifier, open_images
from apercu.explainers.train import train_explainer
from apercu.training.trainer import Hardware, Trainer
from apercu.explainers.mask.settings import MASK_PRESETS
classifier = open_classifier(sys.argv[1])
trainer = Trainer(classifier, open_images("{SPEC}"), Path(sys.argv[2]), Hardware("cpu"))
train_explainer(MASK_PRESETS.parse({SETTINGS!r}), trainer, classifier)
"""


def _train(card: Path, run: Path, *, settings: dict | None = None, seed: int = 0) -> MaskExplainer:
    classifier = open_classifier(card)
    fit = Trainer(
        classifier, open_images(SPEC), run, Hardware("cpu"), seed=seed, say=lambda line: None
    )
    return train_explainer(MASK_PRESETS.parse(settings or SETTINGS), fit, classifier)


@pytest.fixture(scope="module")
def trained(
    tiny_card: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MaskExplainer, Path]:
    """A training that nothing interrupted: what it returned, and its folder."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return _train(tiny_card, run), run


@pytest.fixture(scope="module")
def whole(trained: tuple[MaskExplainer, Path]) -> Path:
    """The folder of a training that nothing interrupted."""
    return trained[1]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights.safetensors")


def _assert_equal(run: Path, other: Path) -> None:
    first, second = _weights(run), _weights(other)
    assert first.keys() == second.keys()
    for name, weights in first.items():
        assert torch.equal(weights, second[name]), name


def test_where_all_classes_are_likely_no_mask_is_closed_and_the_rest_stays(
    tiny_card: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    facts = _train(tiny_card, run, settings={**SETTINGS, "close_absent": True}).facts
    usual, closing = _weights(whole), _weights(run)
    assert float(closing.pop("gate.z_threshold")) == ALWAYS_OPEN and "z_threshold" not in facts
    assert usual.keys() == closing.keys()
    for name, weights in closing.items():
        assert torch.equal(weights, usual[name]), name


def test_the_run_folder_holds_what_is_promised(whole: Path) -> None:
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "classifier.json",
        "facts.json",
        "card.md",
        "weights.safetensors",
        "checkpoints/last.ckpt",
        "logs/metrics.csv",
        "dial.csv",
    } <= names
    assert any(name.startswith("logs/events.out.tfevents") for name in names)
    assert any(name.startswith("samples/pass-") for name in names)
    facts = json.loads((whole / "facts.json").read_text())
    assert facts["steps"] == STEPS
    assert (facts["training_images"], facts["measured_images"]) == (23, 1)
    assert 0 < facts["area_true"] < 1
    card = (whole / "card.md").read_text()
    assert "| training images, no labels used | 23 |" in card
    assert f"| region at level 0.5, predicted class | {facts['area_true']:.3f} |" in card
    config = MaskSettings.model_validate_json((whole / "config.json").read_text())
    assert config == MASK_PRESETS.parse(SETTINGS)


def test_a_run_opens_as_what_was_trained(trained: tuple[MaskExplainer, Path]) -> None:
    explainer, opened = trained[0], MaskExplainer.from_pretrained(trained[1])
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(explainer.attribute(images, "dots"), opened.attribute(images, 1))
    assert opened.facts == explainer.facts


def test_kill_9_and_resume_is_the_training_that_nothing_interrupted(
    tiny_card: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    died = subprocess.run([sys.executable, "-c", VICTIM, str(tiny_card), str(run)])
    assert died.returncode == -signal.SIGKILL
    assert not (run / "weights.safetensors").exists()
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == KILLED // SAVED * SAVED
    _train(tiny_card, run)
    _assert_equal(run, whole)


def test_killed_after_the_last_step_it_only_finishes(
    tiny_card: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in ("weights.safetensors", "facts.json", "dial.csv"):
        (run / name).unlink()
    _train(tiny_card, run)
    _assert_equal(run, whole)
    assert json.loads((run / "facts.json").read_text())["steps"] == STEPS


def test_another_seed_is_another_training(tiny_card: Path, tmp_path: Path, whole: Path) -> None:
    _train(tiny_card, tmp_path / "run", seed=1)
    first, second = _weights(tmp_path / "run"), _weights(whole)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_finished_run_is_not_trained_again(tiny_card: Path, whole: Path) -> None:
    with pytest.raises(RunError, match="holds a finished training"):
        _train(tiny_card, whole)


def test_other_settings_do_not_go_on(tiny_card: Path, tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    other = {**SETTINGS, "schedule": {"steps": 3}}
    with pytest.raises(RunError, match=r"had schedule\.steps 6, now 3"):
        _train(tiny_card, tmp_path / "run", settings=other)


def test_another_classifier_does_not_go_on(tiny_card: Path, tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    shutil.copytree(tiny_card.parent, tmp_path / "other")
    card = json.loads(tiny_card.read_text())
    card["input"]["std"] = [0.25, 0.25, 0.25]
    (tmp_path / "other" / "card.json").write_text(json.dumps(card))
    with pytest.raises(RunError, match="the training begun here had classifier"):
        _train(tmp_path / "other" / "card.json", tmp_path / "run")


@pytest.mark.parametrize(
    ("lost", "match"),
    [
        ("weights.safetensors", "training has not finished"),
        ("config.json", "expected a run folder"),
        ("classifier.json", "classifier.json: missing, though it was saved here; copy the run"),
    ],
)
def test_a_half_written_run_is_an_error(tmp_path: Path, whole: Path, lost: str, match: str) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / lost).unlink()
    with pytest.raises(RunError, match=match) as error:
        MaskExplainer.from_pretrained(tmp_path / "run")
    assert error.value.exit_code == 2


def test_cut_off_weights_are_an_error(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match="damaged"):
        MaskExplainer.from_pretrained(tmp_path / "run")


def test_labels_are_never_looked_at(tiny_card: Path, tmp_path: Path, whole: Path) -> None:
    class Unlabelled(ImageSource):
        name, class_names, labelled = "unlabelled", None, False
        inner = open_images(SPEC)
        names = inner.names

        def __len__(self) -> int:
            return len(self.inner)

        def __getitem__(self, index: int):
            from dataclasses import replace

            return replace(self.inner[index], label=None, boxes=None, region=None)

    classifier = open_classifier(tiny_card)
    fit = Trainer(
        classifier, Unlabelled(), tmp_path / "run", Hardware("cpu"), say=lambda line: None
    )
    train_explainer(MASK_PRESETS.parse(SETTINGS), fit, classifier)
    _assert_equal(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"schedule": {"stpes": 3}}, "schedule.stpes is no setting; did you mean steps"),
        ({"encodr": "own"}, "encodr is no setting; did you mean encoder"),
        ({"steps": 30}, "steps is no setting; did you mean embedding.steps or schedule.steps?"),
        ({"decoder": {"widht": 3}}, "did you mean width"),
        ({"preset": "papre"}, "no preset 'papre', .*did you mean paper"),
        ({"schedule": {"steps": 0}}, "schedule.steps"),
        ({"objective": {"form": "dail"}}, "objective"),
    ],
)
def test_every_mistake_is_found_before_the_first_step(content: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        MASK_PRESETS.parse(content)


def test_settings_lie_over_a_preset(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("preset: release\nschedule: {steps: 7}\n")
    result = MASK_PRESETS.read(tmp_path / "s.yaml")
    assert result.schedule.steps == 7
    assert result.schedule.batch == MASK_PRESETS.presets["release"].schedule.batch
    assert result.objective == MASK_PRESETS.presets["release"].objective
    assert MASK_PRESETS.read("paper") == MASK_PRESETS.presets["paper"]
    assert MASK_PRESETS.read(None) == MASK_PRESETS.presets["lean"]
    (tmp_path / "s.yaml").write_text("objective: {area: 2.0}\n")  # written when light was first
    assert MASK_PRESETS.read(tmp_path / "s.yaml").decoder == MASK_PRESETS.presets["light"].decoder


def test_a_decoder_without_a_form_is_gated():
    """As runs have it that were written before there was another."""
    stored = MASK_PRESETS.presets["light"].model_dump()
    del stored["decoder"]["form"]
    assert MaskSettings.model_validate(stored) == MASK_PRESETS.presets["light"]


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"form": "shraed"}, "decoder: .*'shraed'.*'gated', 'shared'"),
        ({"form": "shared", "filtres": 3}, "filtres is no setting; did you mean filters"),
        ({"filters": 3}, "filters is no setting"),
    ],
)
def test_a_wrong_decoder_is_told(decoder, message):
    with pytest.raises(ConfigError, match=message):
        MASK_PRESETS.parse({"decoder": decoder})


@pytest.mark.parametrize("preset", MASK_PRESETS.presets)
def test_a_preset_survives_its_own_file(preset: str) -> None:
    text = MASK_PRESETS.presets[preset].model_dump_json()
    assert MaskSettings.model_validate_json(text) == MASK_PRESETS.presets[preset]


@pytest.mark.parametrize("form", ["dial", "printed", "released"])
def test_every_objective_trains_in_mixed_precision(
    form: str, tiny_card: Path, tmp_path: Path
) -> None:
    classifier = open_classifier(tiny_card)
    machine = Hardware("cpu", precision="bf16-mixed")
    fit = Trainer(classifier, open_images(SPEC), tmp_path / "run", machine, say=lambda line: None)
    settings = {**SETTINGS, "objective": {"form": form}, "schedule": {"steps": 2, "batch": 4}}
    train_explainer(MASK_PRESETS.parse(settings), fit, classifier)
    assert all(weights.isfinite().all() for weights in _weights(tmp_path / "run").values())


def test_two_devices_share_one_run(tiny_card: Path, tmp_path: Path) -> None:
    command = ["train", "mask", "--classifier", str(tiny_card), "--images", SPEC]
    options = ["--config", str(tmp_path / "s.json"), "--out", str(tmp_path / "run")]
    (tmp_path / "s.json").write_text(json.dumps(SETTINGS))
    done = subprocess.run(
        [sys.executable, "-m", "apercu", *command, *options, "--device", "cpu", "--devices", "2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    opened = MaskExplainer.from_pretrained(tmp_path / "run")
    assert opened.facts["steps"] == STEPS
    order = json.loads((tmp_path / "run" / "order.json").read_text())
    assert order["devices"] == 2


def test_unusable_images_are_counted(tiny_card: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(12):
        Image.new("RGB", (32, 32), (20 * index, 50, 90)).save(folder / f"{index:02}.png")
    (folder / "05.png").write_bytes(b"no image")
    heard: list[str] = []
    classifier = open_classifier(tiny_card)
    fit = Trainer(
        classifier, open_images(folder), tmp_path / "run", Hardware("cpu"), say=heard.append
    )
    train_explainer(
        MASK_PRESETS.parse({**SETTINGS, "encoder": "own", "frozen": True}), fit, classifier
    )
    assert any("warning: 1 images cannot be used" in line and "05.png" in line for line in heard)


def test_a_random_encoder_is_not_frozen() -> None:
    with pytest.raises(ConfigError, match="frozen: false"):
        MASK_PRESETS.parse({"encoder": "small"})


def _train_on(card: Path, run: Path, steps: int) -> MaskExplainer:
    settings = MASK_PRESETS.parse(SETTINGS).with_schedule(steps=steps, begun=STEPS)
    trainer = Trainer(
        open_classifier(card), open_images(SPEC), run, Hardware("cpu"), say=lambda line: None
    )
    return train_explainer(settings, trainer)


def test_a_finished_training_goes_on_with_more_steps(
    tiny_card: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, longer = tmp_path / "run", STEPS + 3
    shutil.copytree(whole, run)
    rates: dict[int, float] = {}
    log_terms = MaskTraining.log_terms

    def note_rate(self: MaskTraining, *arguments: object) -> None:
        rates[self.global_step] = self.optimizers().param_groups[0]["lr"]
        log_terms(self, *arguments)

    monkeypatch.setattr(MaskTraining, "log_terms", note_rate)
    explainer = _train_on(tiny_card, run, longer)
    continued = dict(rates)
    rates.clear()
    _train_on(tiny_card, tmp_path / "one_go", longer)
    assert list(continued) == [6, 7, 8]
    assert continued == {step: rates[step] for step in continued}  # as in one go from there on
    assert explainer.facts["steps"] == longer
    assert json.loads((run / "config.json").read_text())["schedule"]["steps"] == longer
    assert json.loads((run / "facts.json").read_text())["steps"] == longer
    with (run / "logs" / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(longer))
    embedded = "checkpoints/embedded.safetensors"
    assert (run / embedded).read_bytes() == (whole / embedded).read_bytes()
    first, second = _weights(run), _weights(whole)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert MaskExplainer.from_pretrained(run).facts == explainer.facts


def test_what_is_interrupted_while_it_goes_on_stays_usable(
    tiny_card: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "run", tmp_path / "straight"
    for run in runs:
        shutil.copytree(whole, run)
    log_terms = MaskTraining.log_terms

    def stop(self: MaskTraining, *arguments: object) -> None:
        if self.global_step == STEPS + 3:
            raise RuntimeError("stopped")
        log_terms(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(MaskTraining, "log_terms", stop)
        _train_on(tiny_card, runs[0], STEPS + 4)
    assert MaskExplainer.from_pretrained(runs[0]).facts["steps"] == STEPS
    with pytest.raises(RunError, match="continue it with --resume and a larger --steps"):
        _train(tiny_card, runs[0])
    for run in runs:
        _train_on(tiny_card, run, STEPS + 4)
    _assert_equal(*runs)


def test_more_steps_are_done_than_are_asked_for(
    tiny_card: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    path = run / "checkpoints" / "last.ckpt"
    torch.save({**torch.load(path, weights_only=True), "global_step": STEPS + 4}, path)
    before = {name: (run / name).read_bytes() for name in ("config.json", "weights.safetensors")}
    with pytest.raises(RunError, match=r"10 steps of .* more than 8; continue it with --steps 10"):
        _train_on(tiny_card, run, STEPS + 2)
    assert before == {name: (run / name).read_bytes() for name in before}


def test_the_last_step_is_kept_whatever_the_interval(tiny_run: Path) -> None:
    schedule = json.loads((tiny_run / "config.json").read_text())["schedule"]
    assert schedule["steps"] == 2 and schedule["save_every"] >= 50
    saved = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2


def test_fewer_steps_shorten_the_phases_before() -> None:
    light, small = MASK_PRESETS.presets["light"], MASK_PRESETS.presets["small"]
    short = small.with_schedule(steps=11)
    assert (short.schedule.steps, short.embedding.steps) == (11, 60)
    assert light.with_schedule(steps=2).embedding.images == 64
    assert light.with_schedule(steps=2000).embedding == light.embedding
    assert light.with_schedule(batch=3).embedding == light.embedding
    paper = MASK_PRESETS.presets["paper"].with_schedule(steps=2)
    assert paper.embedding.steps == 5
    begun = small.with_schedule(steps=22, begun=11)
    assert (begun.schedule.steps, begun.embedding) == (22, short.embedding)


@pytest.mark.parametrize(
    ("embedding", "extra"),
    [
        ({"steps": 4, "batch": 4}, {}),
        ({"form": "labels", "steps": 4, "batch": 4}, {}),
        ({"images": 22}, {"encoder": "own", "frozen": True}),
        (
            {"form": "masked", "images": 22, "masks": 2, "steps": 6, "batch": 4},
            {"encoder": "own", "frozen": True},
        ),
    ],
)
def test_an_interrupted_class_embedding_goes_on_where_it_was(
    embedding: dict, extra: dict, tiny_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apercu.run_record.SAVE_EVERY", 0.0)
    settings = MASK_PRESETS.parse({**SETTINGS, "embedding": embedding, **extra})
    classifier = open_classifier(tiny_card)
    images = TrainingImages(open_images(SPEC), classifier)
    counts: list[int] = []

    def embed(folder: Path, stop: bool) -> dict[str, torch.Tensor]:
        def report(name: str, done: int, total: int) -> None:
            if name.startswith("embedding"):
                counts.append(done)
                if stop and done >= total / 2:
                    raise KeyboardInterrupt

        network = build_network(settings, classifier, seed=0)
        phase = EmbeddingPhase(classifier, images, 0, folder, lambda line: None, report)
        phase.run(network, settings.embedding)
        return network.state_dict()

    whole = embed(tmp_path / "whole", stop=False)
    every, expected = list(counts), sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert expected == ["embedded.safetensors"]
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "parts", stop=True)
    queries = classifier.queries
    counts.clear()
    parts = embed(tmp_path / "parts", stop=False)
    assert 0 < counts[0] < every[-1] and counts == [n for n in every if n >= counts[0]]
    assert classifier.queries - queries < queries
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == expected
    for name, weights in whole.items():
        assert torch.equal(weights, parts[name]), name


def test_a_damaged_checkpoint_of_a_phase_is_one_line(tmp_path: Path) -> None:
    phase = Phase("steps", path=tmp_path / "state.ckpt", key="a")
    phase.save({"step": 3, "values": [torch.ones(2)]})
    assert phase.load()["step"] == 3
    assert Phase("steps", path=phase.path, key="b").load() == {}
    content = (tmp_path / "state.ckpt").read_bytes()
    for damaged in (content[:-40], b"", b"PK\x03\x04 nothing", b"no archive"):
        (tmp_path / "state.ckpt").write_bytes(damaged)
        with pytest.raises(RunError, match="damaged; remove it, and this part begins anew"):
            phase.load()
    phase.remove()
    assert phase.load() == {}


def test_a_flipped_bit_in_the_index_of_an_archive_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "state.ckpt"
    phase = Phase("work", path=path, key="same")
    torch.save({"key": "same", "state": {"weights": torch.rand(1000)}}, path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    while entry >= 0:  # says "deflated" of what is stored
        content[entry + 10] |= 8
        entry = content.find(b"PK\x01\x02", entry + 4)
    path.write_bytes(content)
    with pytest.raises(RunError, match="damaged; remove it, and this part begins anew"):
        phase.load()


@dataclass(frozen=True, eq=False)
class FailingImages(Planted):
    """Planted images that fail in the process that reads them for a training."""

    fail: Callable[[], None] = field(default=lambda: None, kw_only=True)

    def __getitem__(self, index: int) -> Item:
        if get_worker_info() is not None:
            self.fail()
        return super().__getitem__(index)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _refuse() -> None:
    raise ImagesError("films: cannot be read: on fire")


def _err() -> None:
    raise ZeroDivisionError("of ours")


LOST = r"run: a process that reads images was killed; .* --resume goes on$"
IN_EMBEDDING = {"steps": 3, "batch": 4}
IN_TRAINING = {"form": "answers", "steps": 2, "images": 16}
"""Settings with which the embedding, or else the training after it, is first to read images so."""


@pytest.mark.parametrize(
    ("embedding", "fail", "error", "message"),
    [
        (IN_EMBEDDING, _kill, RunError, LOST),
        (IN_TRAINING, _end, RunError, LOST),
        (IN_TRAINING, _refuse, ImagesError, r"^planted:.* images in a row .* on fire$"),
        (IN_TRAINING, _err, ZeroDivisionError, r"Caught ZeroDivisionError .*of ours"),
    ],
)
def test_what_happens_to_a_process_that_reads_images_is_one_line(
    tiny_card: Path,
    tmp_path: Path,
    embedding: dict[str, object],
    fail: Callable[[], None],
    error: type[Exception],
    message: str,
) -> None:
    source = FailingImages(size=32, images=24, classes=3, fail=fail)
    settings = MASK_PRESETS.parse({**SETTINGS, "embedding": embedding})
    classifier = open_classifier(tiny_card)
    trainer = Trainer(classifier, source, tmp_path / "run", Hardware("cpu"), say=lambda line: None)
    with pytest.raises(error, match=re.compile(message, re.S)) as raised:
        train_explainer(settings, trainer, classifier)
    assert error is ZeroDivisionError or "\n" not in str(raised.value)
