"""`apercu pretrain`: a run that timm, evaluate-features and train mask can open; bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from apercu import open_classifier
from apercu.pretraining.train import PretrainTraining

BACKBONE = "timm/test_resnet"


@pytest.fixture(scope="module")
def stamps(tmp_path_factory) -> Path:
    """Stars of several magnitudes on a noisy sky, in three bands, and a catalogue of them."""
    folder = tmp_path_factory.mktemp("stamps")
    draw = np.random.default_rng(0)
    magnitudes = draw.uniform(15, 20, 60)
    across = np.arange(32) - 15.5
    profile = np.exp(-(across[:, None] ** 2 + across**2) / 8)
    flux = 10 ** (-0.4 * (magnitudes - 25)) / profile.sum()
    pixels = 300 + 4 * draw.standard_normal((60, 3, 32, 32)) + flux[:, None, None, None] * profile
    pixels[7] = np.nan
    np.savez(folder / "stamps.npz", stamps=pixels.astype("f4"), ids=np.arange(100, 160))
    with (folder / "catalogue.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "mag", "bright", "missing"])
        for number, magnitude in enumerate(magnitudes):
            missing = -999 if number % 2 else f"{magnitude:.4f}"
            writer.writerow([100 + number, f"{magnitude:.4f}", magnitude < 17.5, missing])
    return folder


def _options(stamps: Path, out: Path, *further: object) -> list[object]:
    return ["--images", stamps / "stamps.npz", "--out", out, "--backbone", BACKBONE, *further]


def test_a_run_from_stamps_to_features(apercu, stamps, tmp_path) -> None:
    run, joined = tmp_path / "run", ("--catalogue", stamps / "catalogue.csv", "--id", "name")
    options = _options(stamps, run, *joined, "--target", "mag,missing", "--batch", "8")
    result = apercu("pretrain", "magnitudes", *options, "--steps", "12", "--test", options[1])
    assert result.code == 0, result.err
    assert "59 of 60 images can be read, 1 are left out" in result.out
    assert "107" in result.err
    facts = json.loads((run / "facts.json").read_text())
    assert {"held_out_mag", "test_mag", "test_missing", "test_constant_mag"} <= facts.keys()
    network = timm.create_model(
        "test_resnet", num_classes=0, checkpoint_path=str(run / "weights.safetensors")
    )
    opened = open_classifier(run / "card.json")
    images = opened.prepare(torch.full((3, 32, 32), 300.0))[None]
    expected = network.eval()(opened.normalise(images))
    torch.testing.assert_close(opened(images), expected)
    assert opened.network.output == "features"
    out = tmp_path / "features"
    result = apercu(
        *(
            "evaluate-features",
            "--network",
            f"mine={run / 'card.json'}",
            "--images",
            stamps / "stamps.npz",
        ),
        *("--test", stamps / "stamps.npz", *joined, "--label", "bright", "--out", out),
        *("--heads", "nearest:neighbours=1,fine_tuning:steps=4", "--fractions", "0.5,1"),
        *("--draws", "2", "--anew"),
    )
    assert result.code == 0, result.err
    rows = json.loads((out / "features.json").read_text())["rows"]
    assert {row["start"] for row in rows} == {"mine", "mine, anew"}
    own = [r["value"] for r in rows if r["start"] == "mine" and r["fraction"] == 1.0]
    assert own[0] == 1  # each is its own neighbour
    page = (out / "report.html").read_text()
    assert "mine with random weights" in page and "mine, anew" not in page


@pytest.mark.parametrize(
    ("pretext", "settings"),
    [
        ("transformation", ""),
        ("clusters", "pretext: {clusters: 3, refine_from: 0.3, every: 2, rotation: 0}\n"),
    ],
)
def test_a_training_goes_on_as_if_it_had_not_stopped(
    apercu, stamps, tmp_path, pretext, settings
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("schedule: {steps: 6, batch: 8, save_every: 2}\n" + settings)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = ["pretrain", pretext]
    assert apercu(*command, *_options(stamps, whole, "--config", config)).code == 0

    def stopped(self: PretrainTraining, batch: Any, index: int) -> torch.Tensor:
        if self.global_step == 5:
            raise KeyboardInterrupt
        return learnt(self, batch, index)

    learnt = PretrainTraining.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainTraining, "training_step", stopped)
        result = apercu(*command, *_options(stamps, parts, "--config", config))
    assert result.code == 130
    assert "continue with the same command and --resume" in result.err
    wrong = apercu(
        *command, *_options(stamps, parts, "--config", config, "--seed", "1", "--resume")
    )
    assert wrong.code == 2
    assert apercu(*command, *_options(stamps, parts, "--resume")).code == 0
    one, other = (load_file(run / "weights.safetensors") for run in (whole, parts))
    for key, value in one.items():
        torch.testing.assert_close(other[key], value)
    finished = apercu(*command, *_options(stamps, parts, "--resume"))
    assert finished.code == 2 and "a larger --steps" in finished.err
    longer = apercu(*command, *_options(stamps, parts, "--resume", "--steps", "8"))
    assert longer.code == 0 and "8 steps" in longer.out, longer.err
    facts = json.loads((parts / "facts.json").read_text())
    assert facts["steps"] == 8
    assert json.loads((parts / "config.json").read_text())["schedule"]["steps"] == 8
    changed = load_file(parts / "weights.safetensors")
    assert any(not torch.equal(changed[key], value) for key, value in one.items())


def test_a_batch_of_one_is_refused_in_one_line(apercu, stamps, tmp_path) -> None:
    result = apercu("pretrain", "contrastive", *_options(stamps, tmp_path / "run", "--batch", "1"))
    assert result.code == 2 and result.err.count("\n") == 1
    assert "batch: input should be greater than or equal to 2, got 1" in result.err
    assert not (tmp_path / "run").exists()


def test_a_training_goes_on_with_the_same_targets_only(apercu, stamps, tmp_path) -> None:
    options = _options(stamps, tmp_path / "run", "--batch", "4", "--steps", "2")
    joined = ("--catalogue", stamps / "catalogue.csv", "--id", "name", "--target")
    assert apercu("pretrain", "magnitudes", *options, *joined, "mog").code == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainTraining, "training_step", _stopped)
        assert apercu("pretrain", "magnitudes", *options, *joined, "mag").code == 130
    result = apercu("pretrain", "magnitudes", *options, *joined, "missing", "--resume")
    assert result.code == 2
    assert "the training begun here had count 59, now 30" in result.err
    assert apercu("pretrain", "magnitudes", *options, *joined, "mag", "--resume").code == 0


def _stopped(self: PretrainTraining, batch: Any, index: int) -> torch.Tensor:
    raise KeyboardInterrupt


def test_the_backbone_becomes_an_encoder(apercu, stamps, tmp_path, tiny_card) -> None:
    run = tmp_path / "run"
    options = ["--images", "planted:size=32,images=24,classes=3", "--out", run, "--size", "32"]
    apercu(
        "pretrain", "contrastive", *options, "--backbone", BACKBONE, "--steps", "2", "--batch", "8"
    )
    result = apercu(
        *(
            "train",
            "mask",
            "--classifier",
            tiny_card,
            "--images",
            "planted:size=32,images=24,classes=3",
        ),
        *(
            "--encoder",
            run / "card.json",
            "--out",
            tmp_path / "mask",
            "--steps",
            "2",
            "--batch",
            "4",
        ),
    )
    assert result.code == 0, result.err
    assert "trained in" in result.out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["magnitude"], "did you mean magnitudes"),
        (
            ["adios", "--catalogue", "CATALOGUE", "--target", "mag", "--id", "name"],
            "adios needs none",
        ),
        (["magnitudes", "--target", "mag"], "expected --catalogue FILE"),
        (["magnitudes", "--catalogue", "CATALOGUE"], "expected columns of magnitudes"),
        (["magnitudes", "--catalogue", "CATALOGUE", "--target", "mog", "--id", "name"], "mag"),
        (
            ["magnitudes", "--catalogue", "CATALOGUE", "--target", "mag", "--id", "mag"],
            "matched 0 of",
        ),
        (
            ["magnitudes", "--catalogue", "CATALOGUE", "--target", "mag"],
            "whose headers hold positions",
        ),
        (["magnitudes", "--stretch", "none"], "holds raw counts; choose a --stretch"),
        (["transformation", "--backbone", "torchvision/resnet18"], "expected timm/NAME"),
        (["transformation", "--backbone", "timm/resnet18x"], "no such model"),
        (["transformation", "--channels", "4"], "4"),
        (["colour"], "did you mean colours"),
        (["clusters", "--catalogue", "CATALOGUE", "--target", "mag"], "clusters needs none"),
    ],
)
def test_bad_input(apercu, stamps, tmp_path, typed, message) -> None:
    words = [stamps / "catalogue.csv" if word == "CATALOGUE" else word for word in typed]
    base = _options(stamps, tmp_path / "run")
    if "--backbone" in words:
        base = base[:-2]
    result = apercu("pretrain", words[0], *base, *words[1:])
    assert result.code == 2
    assert message in result.err
    assert result.err.count("error:") == 1


def test_hidden_bands_and_joined_features(apercu, stamps, tmp_path) -> None:
    """Band 1 is predicted from the others, never seen, and joined with a network that sees it."""
    runs = {"others": [1], "band": [0, 2]}
    for name, hidden in runs.items():
        config = tmp_path / f"{name}.yaml"
        config.write_text(f"pretext: {{hidden: {hidden}, side: 8}}\n")
        options = _options(stamps, tmp_path / name, "--config", config, "--batch", "8")
        result = apercu("pretrain", "colours", *options, "--steps", "4")
        assert result.code == 0, result.err
        facts = json.loads((tmp_path / name / "facts.json").read_text())
        assert {"held_out_colour", "held_out_constant_colour"} <= facts.keys()
        opened = open_classifier(tmp_path / name / "card.json")
        images = torch.rand(2, 3, 32, 32)
        changed = images.clone()
        changed[:, hidden] = 0
        assert torch.equal(opened(images), opened(changed))
        changed[:, [band for band in range(3) if band not in hidden]] = 0
        assert not torch.equal(opened(images), opened(changed))
    networks = [f"--network={name}={tmp_path / name / 'card.json'}" for name in runs]
    out, command = tmp_path / "features", ["evaluate-features", *networks]
    data = ["--images", stamps / "stamps.npz", "--test", stamps / "stamps.npz"]
    labels = ["--catalogue", stamps / "catalogue.csv", "--id", "name", "--label", "bright"]
    options = ["--fractions", "1", "--draws", "1", "--out", out]
    heads = ["--heads", "nearest:neighbours=1,clusters,fine_tuning:steps=2"]
    result = apercu(*command, *data, *labels, *options, *heads, "--join", "both=others,band")
    assert result.code == 0, result.err
    results = json.loads((out / "features.json").read_text())
    assert results["joined"] == {"both": ["others", "band"]}
    rows = [row for row in results["rows"] if row["start"] == "both"]
    assert {row["head"] for row in rows} == {
        "nearest:neighbours=1",
        "clusters",
        "fine_tuning:steps=2",
    }
    for join, message in (
        ("both=others", "expected NAME=A,B"),
        ("band=others,band", "expected a new name"),
        ("both=others,bend", "did you mean band"),
    ):
        result = apercu(*command, *data, *labels, *options, "--join", join)
        assert result.code == 2 and message in result.err, result.err


def test_regions_of_a_short_training(apercu, stamps, tmp_path) -> None:
    pytest.importorskip("lightly")
    options = _options(stamps, tmp_path / "run", "--batch", "8", "--steps", "2")
    result = apercu("pretrain", "regions", *options)
    assert result.code == 0, result.err
    facts = json.loads((tmp_path / "run" / "facts.json").read_text())
    assert 0 <= facts["held_out_mistaken"] <= 1
