"""Purifiers: what they owe as filters, what they learn, and the card that has one in front."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from apercu import open_classifier
from apercu.classifiers import Classifier, save_classifier
from apercu.cli import main
from apercu.errors import ClassifierError, ConfigError, UntrustedError
from apercu.filters import FILTERS, Filter, FilterLayer, parse_filter
from apercu.filters.base import format_cache_key
from apercu.filters.purifier import Purifier, write_purifier
from apercu.filters.quantised_autoencoder import STEP, QuantisedAutoencoderNetwork
from apercu.filters.stochastic_student import (
    LEAST_NOISE,
    MOST_NOISE,
    StochasticStudent,
    StochasticStudentNetwork,
)
from apercu.robustness.attack_runner import build_logits_fn
from apercu.robustness.attacks import Pgd
from apercu.robustness.defences.purifier import (
    PurifierDefence,
    PurifierTraining,
    QuantisedAutoencoderDefence,
    StochasticStudentDefence,
    find_purifier_doubts,
)
from apercu.robustness.defences.settings import DEFENCES
from apercu.robustness.objectives import Untargeted

DEFENCE: dict[str, PurifierDefence] = {
    "quantised_autoencoder": QuantisedAutoencoderDefence(width=8, code=6, decision=0.05),
    "stochastic_student": StochasticStudentDefence(width=8, decision=0.05, noise=0.02),
}
every_purifier = pytest.mark.parametrize("name", DEFENCE)
PLANTED = "planted:size=32,images=24,classes=3,difficulty=0"


@pytest.fixture
def purifier(name: str, tmp_path: Path) -> Filter:
    """A filter with an untrained network of three channels."""
    network, sizes = DEFENCE[name].build_network(3, seed=0), DEFENCE[name].find_sizes(3)
    write_purifier(network, name, sizes, tmp_path / "purifier")
    return FILTERS[name](folder=str(tmp_path / "purifier"))  # type: ignore[call-arg]


def test_all_purifiers_are_in_this_file() -> None:
    kinds = {name for name, kind in FILTERS.items() if issubclass(kind, Purifier)}
    assert kinds == set(DEFENCE) <= set(DEFENCES.presets)


@every_purifier
class TestEvery:
    @pytest.mark.parametrize("size", [(8, 8), (13, 21)])
    def test_images_stay_images_and_a_batch_equals_its_singles(
        self, name: str, purifier: Filter, size: tuple[int, int]
    ) -> None:
        images = torch.rand(5, 3, *size, generator=torch.Generator().manual_seed(0))
        images.requires_grad_()
        result = purifier(images)
        assert result.shape == images.shape and not result.requires_grad
        assert result.amin() >= 0 and result.amax() <= 1
        alone = torch.cat([purifier(image) for image in images.split(1)])
        torch.testing.assert_close(result, alone, atol=1e-5, rtol=0)
        assert torch.equal(purifier(images), result)

    def test_the_surrogate_is_the_filter_with_gradients(self, name: str, purifier: Filter) -> None:
        images = torch.rand(2, 3, 16, 16).requires_grad_()
        surrogate = purifier.apply_surrogate(images)
        torch.testing.assert_close(surrogate.clamp(0, 1), purifier(images))
        (gradient,) = torch.autograd.grad(surrogate.square().sum(), images)
        assert gradient.isfinite().all() and (gradient.abs() > 1e-6).float().mean() > 0.9
        double = purifier(images.detach().double())
        assert double.dtype == torch.float64

    def test_other_weights_are_another_filter_and_another_folder_the_same(
        self, name: str, purifier: Filter, tmp_path: Path
    ) -> None:
        before = format_cache_key(purifier)
        shutil.copytree(tmp_path / "purifier", tmp_path / "copy")
        moved = parse_filter(f"{name}:folder={tmp_path / 'copy'}")
        assert format_cache_key(moved) == before and "folder" not in before
        write_purifier(
            DEFENCE[name].build_network(3, seed=1),
            name,
            DEFENCE[name].find_sizes(3),
            tmp_path / "copy",
        )
        assert format_cache_key(moved) != before

    def test_a_wrong_folder_is_one_clear_line(
        self, name: str, purifier: Filter, tmp_path: Path
    ) -> None:
        images, folder = torch.rand(1, 3, 8, 8), tmp_path / "purifier"
        with pytest.raises(ConfigError, match=f"{name}: expected folder=FOLDER.*stress train"):
            parse_filter(name)
        absent = parse_filter(f"{name}:folder={tmp_path / 'nothing'}")
        with pytest.raises(ConfigError, match=r"purifier.json: no such file; train it with"):
            absent(images)  # type: ignore[misc]
        with pytest.raises(ConfigError, match="takes 3 channels, got 1"):
            purifier(images[:, :1])
        other = next(iter(set(DEFENCE) - {name}))
        with pytest.raises(ConfigError, match=f"of this filter, got one of {name}"):
            parse_filter(f"{other}:folder={folder}")(images)  # type: ignore[misc]
        (folder / "purifier.json").write_text(
            json.dumps({"filter": name, "options": {"channels": 3, "width": 10**9}})
        )
        with pytest.raises(ConfigError, match="expected whole numbers from 1 to 1024"):
            purifier(images)
        (folder / "purifier.json").write_text("[1]")
        with pytest.raises(ConfigError, match=r"purifier.json: damaged"):
            purifier(images)


def test_codes_are_rounded_to_the_levels_and_gradients_pass() -> None:
    network = QuantisedAutoencoderNetwork(1, 4, 2, 4)
    codes = torch.linspace(-3, 3, 61, requires_grad=True)
    rounded = network.quantise(codes)
    assert set(rounded.tolist()) == {-1.5 * STEP, -0.5 * STEP, 0.5 * STEP, 1.5 * STEP}
    inside = codes.abs() < 1.5 * STEP
    assert (rounded - codes)[inside].abs().max() <= STEP / 2 + 1e-6
    (gradient,) = torch.autograd.grad(rounded.sum(), codes)
    assert torch.equal(gradient, torch.ones(61))


@every_purifier
def test_no_purifier_has_a_graph(name: str, purifier: Filter) -> None:
    """Neither is exported: noise depends on a digest, and the autoencoder was not tried."""
    assert purifier.graph_obstacle


def test_noise_depends_on_the_image_and_the_seed_alone(tmp_path: Path) -> None:
    network = StochasticStudentNetwork(3, 8)
    write_purifier(network, "stochastic_student", {"channels": 3, "width": 8}, tmp_path)
    filter, images = StochasticStudent(str(tmp_path)), (255 * torch.rand(2, 3, 8, 8)).round() / 255
    noise = filter.draw_noise(images)
    assert torch.equal(filter.draw_noise(images.flip(0)), noise.flip(0))
    assert torch.equal(filter.draw_noise(images + 1e-6), noise)  # the same bytes
    assert not torch.equal(filter.draw_noise(images + 0.02), noise)
    assert not torch.equal(StochasticStudent(str(tmp_path), seed=1).draw_noise(images), noise)
    strength = network.choose_strength(images)
    assert strength.amin() >= LEAST_NOISE and strength.amax() <= MOST_NOISE
    assert strength.shape == (2, 1, 8, 8)


class Checkerboard(nn.Module):
    """Tells red from blue, and is misled by a checkerboard that no clean image has."""

    def __init__(self) -> None:
        super().__init__()
        rows = torch.arange(16)
        board = 1.0 - 2.0 * ((rows[:, None] + rows) % 2)
        self.weights = nn.Parameter(torch.stack([board, board, board]) * 60 / 256)

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean((2, 3))
        logit = 30 * (means[:, 0] - means[:, 2]) + (images * self.weights).sum((1, 2, 3))
        return torch.stack([logit, -logit], 1)


@pytest.fixture
def classifier() -> Classifier:
    return open_classifier(Checkerboard(), size=16, classes=["red", "blue"])


def draw_smooth_images(count: int, seed: int) -> Tensor:
    """Coloured gradients without detail, more red or more blue."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 3, 2, 2, generator=generator) * 0.3 + 0.3
    side = torch.where(torch.rand(count, generator=generator) < 0.5, -0.06, 0.06)
    corners[:, 0] += side[:, None, None]
    corners[:, 2] -= side[:, None, None]
    return nn.functional.interpolate(corners, (16, 16), mode="bilinear", align_corners=True)


@every_purifier
def test_a_pattern_is_removed_and_an_attack_through_the_filter_does_better(
    name: str, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defence = DEFENCE[name]
    network = defence.build_network(3, seed=0)
    settings = DEFENCES.presets[name]
    module = PurifierTraining(network, classifier, settings, 0, defence, settings.views)
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(module, "step_generator", lambda: generator)
    monkeypatch.setattr(module, "log_terms", lambda terms, figures: None)
    optimiser = torch.optim.AdamW(network.parameters(), 4e-3)
    for step in range(60):
        loss = module.training_step(draw_smooth_images(16, seed=step), step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    write_purifier(network, name, defence.find_sizes(3), tmp_path)
    filter = FILTERS[name](folder=str(tmp_path))  # type: ignore[call-arg]
    clean = draw_smooth_images(48, seed=999)
    labels = classifier(clean).argmax(1)
    defended = build_logits_fn(classifier, filter, "surrogate")
    attack = Pgd(epsilon=12 / 255, steps=8)
    naive = attack(Untargeted(classifier, labels), clean)
    adaptive = attack(Untargeted(defended, labels), clean)

    def right(images: Tensor) -> float:
        with torch.no_grad():
            return float((defended(images).argmax(1) == labels).float().mean())

    assert (classifier(naive).argmax(1) == labels).float().mean() < 0.2
    assert right(clean) > 0.9
    assert right(naive) > 0.7
    assert right(adaptive) < right(naive) - 0.2


@every_purifier
def test_a_training_leaves_a_card_with_the_filter_in_front(
    name: str, tiny_card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    config = tmp_path / "settings.yaml"
    config.write_text(f"preset: {name}\ndefence: {{width: 4}}\nschedule: {{steps: 2, batch: 4}}\n")
    words = ("--classifier", tiny_card, "--images", PLANTED, "--out", out, "--config", config)
    with pytest.raises(SystemExit) as stop:
        main(["stress", "train", *map(str, words), "--device", "cpu"])
    assert not stop.value.code
    assert f"{name}:folder=" in capsys.readouterr().out
    card = json.loads((out / "card.json").read_text())
    assert card["filter"] == f"{name}:folder=purifier"
    defended, bare = open_classifier(out / "card.json"), open_classifier(tiny_card)
    images = torch.rand(2, 3, 32, 32)
    assert defended.without_filter().fingerprint == bare.fingerprint
    assert defended.filter is not None
    torch.testing.assert_close(defended(images), bare(defended.filter(images)))
    assert defended.fingerprint != bare.fingerprint
    facts = json.loads((out / "facts.json").read_text())
    assert {"honest", "hard", "honest_before", "hard_before", "steps"} <= facts.keys()
    assert facts["measured_images"] == 1
    shutil.move(out, tmp_path / "moved")
    again = open_classifier(tmp_path / "moved" / "card.json")
    assert again.fingerprint == defended.fingerprint
    save_classifier(again, tmp_path / "saved")
    shutil.rmtree(tmp_path / "moved")
    assert open_classifier(tmp_path / "saved" / "card.json").fingerprint == defended.fingerprint
    (tmp_path / "saved" / "purifier" / "purifier.safetensors").unlink()
    with pytest.raises(ClassifierError, match=r"purifier.safetensors: no such file"):
        open_classifier(tmp_path / "saved" / "card.json")


def test_a_card_may_not_name_a_purifier_outside_of_its_folder(
    tiny_card: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_card.parent, tmp_path / "card")
    write_purifier(
        StochasticStudentNetwork(3, 4),
        "stochastic_student",
        {"channels": 3, "width": 4},
        tmp_path / "other",
    )
    path = tmp_path / "card" / tiny_card.name
    content = json.loads(path.read_text())
    content["filter"] = "stochastic_student:folder=../other,seed=3"
    path.write_text(json.dumps(content))
    with pytest.raises(UntrustedError, match=r"filter .* leads out of the folder of the card"):
        open_classifier(path)
    trusted = open_classifier(path, trust=True)
    assert isinstance(trusted.filter, StochasticStudent) and trusted.filter.seed == 3
    layer = FilterLayer(trusted.filter, "surrogate")
    assert layer(torch.rand(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_a_folder_with_a_comma_is_refused_before_the_training(
    tiny_card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--classifier", tiny_card, "--images", PLANTED, "--out", tmp_path / "a,b")
    with pytest.raises(SystemExit) as stop:
        main(["stress", "train", *map(str, words), "--config", "stochastic_student"])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert "expected a path without a comma" in captured.out + captured.err


def test_settings_without_an_effect_are_refused() -> None:
    for change in ({"scratch": True}, {"wanted": "labels"}):
        with pytest.raises(ConfigError, match="the classifier stays as it is"):
            DEFENCES.parse({"preset": "stochastic_student", **change})


def test_doubts_say_why() -> None:
    good = {"honest": 0.9, "hard": 0.6, "hard_before": 0.1}
    assert find_purifier_doubts(good) == []
    assert "few decisions" in find_purifier_doubts({**good, "honest": 0.2})[0]
    assert "is not weaker behind it" in find_purifier_doubts({**good, "hard": 0.1})[0]
