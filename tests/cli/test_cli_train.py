from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml

from apercu.classifiers import StudentSettings, open_classifier
from apercu.cli.options import name_trust
from apercu.errors import ClassifierError, RunError
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.student import StudentPlan, distil_student, plan_student
from apercu.images import open_images

SPEC = "planted:size=32,images=24,classes=3,difficulty=0"
SETTINGS = {
    "preset": "small",
    "decoder": {"width": 16},
    "embedding": {"steps": 2, "batch": 4},
    "schedule": {"steps": 50, "batch": 4, "save_every": 1},
}


@pytest.fixture
def command(tiny_card: Path, tmp_path: Path) -> list[str | Path]:
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    return [
        *("train", "mask", "--classifier", tiny_card, "--images", SPEC, "--device", "cpu"),
        *("--config", tmp_path / "settings.yaml", "--out", tmp_path / "run"),
    ]


def test_a_training_leaves_a_run_and_says_where(apercu, command, tmp_path) -> None:
    result = apercu(*command, "--steps", "2", "--batch", "3")
    assert (result.code, result.err) == (0, "")
    for words in (str(tmp_path / "run"), "2 steps", "of the image for the predicted class, "):
        assert words in result.out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["schedule"]["steps"], config["schedule"]["batch"]) == (2, 3)
    again = apercu(*command, "--steps", "2", "--batch", "3", "--resume")
    assert again.code == 2
    assert "holds a finished training; continue it with --resume and a larger --steps" in again.err


FACTORY = """
from torch import nn

def make():
    layers = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    for value in network.parameters():
        nn.init.constant_(value, 0.1)
    network.input = {"size": 32}
    return network
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A function of the user's own, which a run folder may not call by itself."""
    (tmp_path / "typed_net.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return "typed_net:make"


@pytest.mark.parametrize(("trust", "option"), [((), "--classifier"), (("--trust",), "--trust")])
def test_the_next_command_of_a_run_works(
    apercu, command, factory: str, tmp_path, monkeypatch, trust, option: str
) -> None:
    command[command.index("--classifier") + 1] = factory
    result = apercu(*command, "--encoder", "own", "--steps", "2", "--batch", "3", *trust)
    line = result.out.splitlines()[-1]
    value = f" {factory}" if option == "--classifier" else ""
    assert line == f"next: apercu explain {tmp_path / 'run'} IMAGE --out maps {option}{value}"
    monkeypatch.setattr("apercu.classifiers.trust._TYPED", set())
    refused = apercu("explain", tmp_path / "run", "planted:size=32,images=1", "--out", "maps")
    assert refused.code == 2 and "refused, because it would call" in refused.err
    words = line.removeprefix("next: apercu ").replace("IMAGE", "planted:size=32,images=1")
    assert apercu(*words.split()).code == 0


def test_a_card_that_calls_a_function_is_named_with_trust(tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    assert name_trust(card, "a:make") == ""
    for content, option in (
        ({"source": "timm/resnet18"}, ""),
        ({"source": "apercu.classifiers.colour:Coloured", "options": {"backbone": "a"}}, ""),
        ({"source": "a:make"}, " --classifier a:make"),
        ({"source": "a:make", "options": {"width": 2}}, " --trust"),
        ({"source": "b:make"}, " --trust"),
    ):
        card.write_text(json.dumps(content))
        assert name_trust(card, "a:make") == option
    assert name_trust(card) == " --trust"


def test_a_short_training_is_shortened_throughout_and_goes_on(apercu, command, tmp_path) -> None:
    run = tmp_path / "run"
    result = apercu(*command, "--steps", "2")
    assert f"warning: {run}: does not look trained: it had 2 steps of 4 images" in result.out
    assert "train on with --resume and a larger --steps" in result.out
    config = json.loads((run / "config.json").read_text())
    assert config["embedding"]["steps"] == 1  # 2 of 50 steps, and 2 of the embedding
    facts = json.loads((run / "facts.json").read_text())
    assert (facts["steps"], facts["looks_trained"]) == (2, 0)
    assert "| looks trained | no |" in (run / "card.md").read_text()
    result = apercu(*command, "--steps", "4", "--resume")
    assert result.code == 0 and "4 steps" in result.out, result.err
    assert json.loads((run / "facts.json").read_text())["steps"] == 4
    assert json.loads((run / "config.json").read_text())["embedding"]["steps"] == 1


def test_a_log_file_shows_every_part_of_a_training(apercu, command, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("apercu.progress.FIRST_LINE", 0.0)  # as if each part took long
    settings = StudentSettings(steps=50, width=4, floor=0.0)
    monkeypatch.setattr("apercu.explainers.train.StudentSettings", lambda: settings)
    command[command.index("--classifier") + 1] = f"{__name__}:Answering"
    said = apercu(*command, "--steps", "2")
    assert said.code == 0, said.err
    parts = [line.partition(":")[0] for line in said.err.splitlines() if " so far" not in line]
    assert parts == [
        "reading images",
        "classifier's logits",
        "student steps",
        "reading images",
        "classifier's logits",
        "embedding steps",
        "training steps",
        "measuring levels",
        "measuring regions",
        "measuring absent classes",
        "measuring doubtful masks",
    ]
    assert re.search(r"^training steps: 2 of 2, in \d+ s$", said.err, re.MULTILINE)


def test_an_explainer_that_does_not_look_trained_is_said_wherever_it_is_used(
    apercu, command, tmp_path
) -> None:
    from PIL import Image

    from apercu.explainers.run_folder import load_doubts, load_explainer

    apercu(*command, "--steps", "2")
    run = tmp_path / "run"
    Image.new("RGB", (32, 32), (90, 20, 30)).save(tmp_path / "image.png")
    result = apercu("explain", run, tmp_path / "image.png", "--out", tmp_path / "maps")
    assert result.code == 0
    line = f"{run}: does not look trained: it had 2 steps of 4 images, and 1100 of 12 are usual; "
    assert result.err.startswith(f"warning: {line}")
    assert str(load_doubts(run)).startswith(line)
    assert load_explainer(run).doubts == ("it had 2 steps of 4 images, and 1100 of 12 are usual",)
    facts = json.loads((run / "facts.json").read_text())
    del facts["looks_trained"]
    (run / "facts.json").write_text(json.dumps(facts))
    assert load_doubts(run) is None and load_doubts(tmp_path) is None


def test_a_begun_training_goes_on_only_when_asked_and_as_it_was(
    apercu, command, tmp_path, monkeypatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("apercu.explainers.mask.levels.measure_levels", stopped)
        result = apercu(*command, "--steps", "2")
    assert result.code == 130
    kept = "keeps what was done; continue with the same command and --resume"
    assert result.err == f"error: interrupted; {tmp_path / 'run'} {kept}\n"
    assert "continue it with --resume" in apercu(*command, "--steps", "2").err
    assert "had seed 0, now 1" in apercu(*command, "--resume", "--seed", "1").err
    assert "had schedule.steps 2, now 1" in apercu(*command, "--resume", "--steps", "1").err
    plain = [word for word in command if word != "--config"]
    plain.remove(tmp_path / "settings.yaml")
    result = apercu(*plain, "--resume")
    assert (result.code, result.err) == (0, "")
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_a_misspelt_setting_suggests_the_nearest(apercu, command, tmp_path) -> None:
    wrong = {**SETTINGS, "schedule": {"stesp": 3}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(wrong))
    result = apercu(*command)
    assert result.code == 2
    assert "schedule.stesp is no setting; did you mean steps?" in result.err
    assert not (tmp_path / "run").exists()


def test_a_preset_that_does_not_exist(apercu, tiny_card, tmp_path) -> None:
    result = apercu(
        *("train", "mask", "--classifier", tiny_card, "--images", SPEC),
        *("--config", "ligth", "--out", tmp_path / "run"),
    )
    assert result.code == 2
    assert "did you mean light?" in result.err


def test_overrides() -> None:
    light = MASK_PRESETS.presets["light"]
    assert light.with_schedule() == light
    longer = light.with_schedule(steps=7).with_encoder("small")
    assert (longer.schedule.steps, longer.schedule.batch) == (7, light.schedule.batch)
    assert (longer.encoder, longer.frozen) == ("small", False)
    assert light.with_encoder("timm/resnet18").frozen


class Answering:
    """A plain callable: the mean of each colour decides."""

    input: ClassVar = {"size": [32, 32]}
    classes = ("red", "green", "blue")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return 20 * images.mean((2, 3))


def test_a_student_is_kept_in_the_run_and_found_again(tmp_path: Path) -> None:
    teacher = open_classifier(f"{__name__}:Answering")
    source = open_images("planted:size=32,images=40")
    settings = StudentSettings(steps=30, width=4, floor=0.0)
    student, agreement = distil_student(teacher, source, tmp_path, settings)
    queries = teacher.queries
    again, state = distil_student(teacher, source, tmp_path, settings)
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(student(images), again(images))
    assert (state, teacher.queries) == (agreement, queries)
    teacher.fingerprint = "another"
    distil_student(teacher, source, tmp_path, settings)
    assert teacher.queries > queries


def test_a_student_below_the_floor_is_refused(tmp_path: Path) -> None:
    teacher = open_classifier(f"{__name__}:Answering")
    settings = StudentSettings(steps=1, width=4, floor=1.0)
    with pytest.raises(ClassifierError, match="below the floor"):
        distil_student(teacher, open_images("planted:size=32,images=40"), tmp_path, settings)
    assert not (tmp_path / "student").exists()


def test_a_black_box_is_trained_for_through_its_student(
    apercu, command, tmp_path, monkeypatch
) -> None:
    settings = StudentSettings(steps=75, width=4, floor=0.0)
    monkeypatch.setattr("apercu.explainers.train.StudentSettings", lambda: settings)
    command[command.index("--classifier") + 1] = f"{__name__}:Answering"
    result = apercu(*command, "--steps", "2")
    assert (result.code, result.err) == (0, "")
    assert "a student is trained to predict the same" in result.out
    facts = json.loads((tmp_path / "run" / "facts.json").read_text())
    assert 0 <= facts["student_agreement"] <= 1
    plan = json.loads((tmp_path / "run" / "checkpoints" / "student.json").read_text())
    assert (plan["steps"], plan["student"]["steps"]) == (2, 3)  # 2 of 50 steps
    passport = json.loads((tmp_path / "run" / "classifier.json").read_text())
    assert passport["spec"] == f"{__name__}:Answering"


def test_the_student_of_a_short_training_is_short_and_grows_with_it(tmp_path: Path) -> None:
    full = StudentPlan(1100, StudentSettings())
    assert plan_student(tmp_path / "a", full, 1100) == StudentSettings()
    assert plan_student(tmp_path / "a", full, 5000) == StudentSettings()
    short = plan_student(tmp_path / "b", full, 11)
    assert (short.steps, short.floor) == (160, 0.0)
    stored = StudentPlan(11, StudentSettings())  # as a resumed training has it from its own config
    assert plan_student(tmp_path / "b", stored, 11) == short
    assert plan_student(tmp_path / "b", stored, 22).steps == 320
    assert plan_student(tmp_path / "b", stored, 1100) == StudentSettings()
    (tmp_path / "b" / "checkpoints" / "student.json").write_text("{}")
    with pytest.raises(RunError, match="cannot be read"):
        plan_student(tmp_path / "b", full, 3)
