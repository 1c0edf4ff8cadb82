"""Guards in use: what people name, what every verb says with one, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import apercu
from apercu.classifiers import Classifier, open_classifier, save_classifier
from apercu.classifiers.names import TOP_INDEX
from apercu.cli.root import main
from apercu.deploy.export.graphs import check_page_guard
from apercu.deploy.export.settings import ExportSettings
from apercu.deploy.inference import open_engine
from apercu.deploy.inference.torch_engine import TorchEngine
from apercu.deploy.serving.worker import WorkerSetup, open_explainer
from apercu.deploy.video.explain_video import open_video_engine
from apercu.errors import (
    ClassifierError,
    ConfigError,
    ImageError,
    ImagesError,
    InputError,
    RunError,
)
from apercu.explain.options import ExplainOptions, TargetSelector
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.encoder import Predictor
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.kind import build_mask_network
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.run_folder import load_explainer
from apercu.guard.observe import Observer
from apercu.guard.use import attach_guard, check_files, choose_guard, open_guard
from apercu.networks.graph_encoder import GraphEncoder
from apercu.robustness.guards.kinds import NoiseImages
from apercu.types import Images
from apercu.verdicts import CANNOT_JUDGE, COLUMNS, SignalWords, Trust, VerdictFormat

FORMAT = VerdictFormat(
    signals=(
        SignalWords(name="noise", question="tampered", phrase="its noise is odd"),
        SignalWords(name="energy", question="unknown", phrase="it is vague"),
        SignalWords(name="certainty", question="tampered", phrase="it is too certain"),
    ),
    false_alarms=0.05,
    calibrated=True,
)


@pytest.fixture(scope="module")
def classifier(tiny_card: Path) -> Classifier:
    return open_classifier(tiny_card)


@pytest.fixture(scope="module")
def other_card(tmp_path_factory: pytest.TempPathFactory, tiny_card: Path) -> Path:
    """The card of another classifier: the same network with a temperature."""
    folder = tmp_path_factory.mktemp("other") / "card"
    shutil.copytree(tiny_card.parent, folder)
    content = json.loads((folder / "card.json").read_text()) | {"temperature": 2.0}
    (folder / "card.json").write_text(json.dumps(content))
    return folder / "card.json"


@pytest.fixture
def images() -> Images:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a picture, and a file that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    (folder / "wrong.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line; gives exit code, stdout and stderr."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return call


def test_numbers_become_an_answer() -> None:
    usual = FORMAT.read([0.4, 0.95, 0.8, 1.0, 2.0, 3.0])
    assert usual == Trust(
        tampered=0.4, unknown=0.95, confidence=0.8, why="like 95% of the clean images"
    )
    assert usual.is_good
    alarm = FORMAT.read([0.99, 0.96, 0.8, 1.0, 2.0, 3.0])
    assert alarm.alarms == ("tampered", "unknown")
    assert alarm.why == "tampered: it is too certain; unknown: it is vague"
    assert not alarm.is_good
    assert alarm.line.startswith("trust: ALARM, tampered: it is too certain")


def test_numbers_that_are_not_finite_are_no_answer() -> None:
    for number in (float("nan"), float("inf"), -float("inf")):
        for column in range(6):
            row = [0.99, 0.4, 0.8, 1.0, 2.0, 3.0]
            row[column] = number
            answer = FORMAT.read(row)
            assert (answer.tampered, answer.unknown, answer.confidence) == (None, None, None)
            assert answer.alarms == () and answer.why == CANNOT_JUDGE
            assert not answer.is_good


def test_the_confidence_of_a_guard_without_labels_is_not_given() -> None:
    format = FORMAT.model_copy(update={"calibrated": False})
    assert format.read([0.4, 0.4, 0.8, 0.0, 0.0, 0.0]).confidence is None


def test_a_guard_is_fitted_attached_and_asked(guarded_card: Path, pictures: Path, run) -> None:
    assert json.loads(guarded_card.read_text())["guard"] == "guard"
    code, out, err = run("guard", "check", guarded_card, pictures / "noise.png")
    assert (code, err) == (0, "")
    assert out.startswith("noise.png: ") and "trust: " in out and out.count("\n") == 1
    code, out, _ = run("guard", "check", guarded_card, pictures / "noise.png", "--json")
    answer = json.loads(out)
    expected = open_guard(guarded_card).check(open_image(guarded_card, pictures / "noise.png"))
    assert answer["trust"] == expected[0].to_record()
    assert set(answer["trust"]) == {*COLUMNS, "alarms", "why"}


def open_image(card: Path, path: Path) -> Images:
    return open_classifier(card).prepare(apercu.read_picture(path))[None]


def test_a_broken_image_has_a_line_of_its_own(guarded_card: Path, pictures: Path, run) -> None:
    code, out, err = run("guard", "check", guarded_card, pictures)
    assert code == 2
    assert out.startswith("noise.png: ") and out.count("\n") == 1
    assert "wrong.png: not an image" in err and "1 of 2 images could not be checked" in err
    code, out, err = run("guard", "check", guarded_card, pictures, "--json")
    assert code == 2
    assert ["error" in json.loads(line) for line in out.splitlines()] == [False, True]


def test_fit_on_the_command_line_says_what_it_did(
    tiny_card: Path, tiny_run: Path, tmp_path: Path, honest_images: str, run
) -> None:
    card = shutil.copytree(tiny_card.parent, tmp_path / "card") / "card.json"
    words = ("guard", "fit", card, "--images", honest_images, "--explainer", tiny_run, "--attach")
    code, out, err = run(*words, "--out", tmp_path / "elsewhere", "--false-alarms", "0.1")
    assert code == 2
    assert err.startswith(f"error: attach: {tmp_path / 'elsewhere'} is not inside")
    assert not (tmp_path / "elsewhere" / "guard.json").exists()
    code, out, err = run(*words, "--out", card.parent / "mine", "--false-alarms", "0.1")
    assert code == 0
    assert "fitted to 50 clean images, thresholds from 25 others" in out
    assert "explanation" in out
    assert open_classifier(card).guard_folder == card.parent / "mine"
    code, out, err = run("guard", "check", card, "planted:size=32,images=2")
    assert code == 2 and "was fitted with an explainer" in err
    code, out, _ = run("guard", "check", card, "planted:size=32,images=2", "--explainer", tiny_run)
    assert code == 0 and out.count("trust: ") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--false-alarms", "0"), "false_alarms: expected a fraction above 0 and below 0.5"),
        (("--false-alarms", "0.7"), "false_alarms: expected a fraction above 0 and below 0.5"),
        (("--limit", "59"), "expected at least 60 clean images to learn what is usual, got 59"),
        (("--false-alarms", "0.01"), "0.01 cannot be measured with 25 images"),
        (("--explainer", "nowhere"), "nowhere"),
    ],
)
def test_a_fit_that_cannot_be_is_refused(
    words: tuple[str, str], message: str, tiny_card: Path, honest_images: str, tmp_path, run
) -> None:
    out = tmp_path / "guard"
    code, _said, err = run(
        "guard", "fit", tiny_card, "--images", honest_images, "--out", out, *words
    )
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not (out / "guard.json").exists()


@pytest.mark.usefixtures("shapes_unchecked")
def test_a_run_and_a_saved_classifier_are_no_place_for_a_guard(
    tiny_run: Path, tiny_card: Path, honest_images: str, tmp_path: Path, run
) -> None:
    """Their list of digests would be lost."""
    for folder in (tiny_run, tiny_card.parent):
        out = shutil.copytree(folder, tmp_path / folder.name)
        before = (out / "sha256.json").read_bytes()
        code, _, err = run("guard", "fit", tiny_card, "--images", honest_images, "--out", out)
        assert code == 2 and f"a folder of its own, such as --out {out / 'guard'}" in err
        assert (out / "sha256.json").read_bytes() == before
        assert not (out / "guard.json").exists()


def test_a_saved_classifier_and_a_guard_are_no_place_for_a_run(
    tiny_run: Path, tiny_card: Path, tiny_guard: Path, honest_images: str, tmp_path: Path
) -> None:
    """Their list of digests would be lost, and the weights of the classifier."""
    explainer = load_explainer(tiny_run)
    for folder in (tiny_card.parent, tiny_guard):
        out = shutil.copytree(folder, tmp_path / folder.name)
        before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
        with pytest.raises(RunError, match=f"a run would replace; .* such as {out / 'run'}"):
            explainer.save_pretrained(out)
        with pytest.raises(RunError, match=f"a run would replace; .* such as --out {out / 'mask'}"):
            apercu.train(tiny_card, honest_images, out)
        after = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
        assert after == before
    again = shutil.copytree(tiny_run, tmp_path / "again")
    explainer.save_pretrained(again)
    load_explainer(again)


def test_a_guard_with_an_explainer_is_not_replaced_by_one_without(
    tiny_guard: Path, tiny_card: Path, honest_images: str, tmp_path: Path, run
) -> None:
    out = shutil.copytree(tiny_guard, tmp_path / "guard")
    code, _, err = run("guard", "fit", tiny_card, "--images", honest_images, "--out", out)
    assert code == 2 and "holds a guard that was fitted with an explainer" in err
    assert (out / "guard.json").read_bytes() == (tiny_guard / "guard.json").read_bytes()


def test_pictures_in_a_list_are_refused_in_one_line(
    guarded_card: Path, tmp_path: Path, shapes_unchecked: None
) -> None:
    pictures: list[object] = [np.zeros((8, 8, 3), np.uint8)] * 60
    with pytest.raises(InputError, match="images: expected the path of a file or a folder"):
        apercu.fit_guard(guarded_card, pictures, tmp_path / "guard")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="images: expected the path of a file or a folder"):
        apercu.measure_guard(guarded_card, pictures, tmp_path / "out")  # type: ignore[arg-type]


def test_images_that_look_attacked_are_refused(tmp_path: Path) -> None:
    """The classifier is wrong on all of them."""

    def classify(images: Images) -> torch.Tensor:
        bright = images.mean((1, 2, 3))
        return torch.stack([bright, 1 - bright, bright * 2, bright + 5], 1)

    names = ["stripes", "dots", "rings", "another"]
    misled = open_classifier(classify, size=32, classes=names)
    source = apercu.open_images("planted:size=32,images=75,classes=3")
    with pytest.raises(ImagesError, match="the classifier is right on 0% of them only, as after"):
        apercu.fit_guard(misled, source, tmp_path / "guard", false_alarms=0.1)
    assert not (tmp_path / "guard" / "guard.json").exists()


@pytest.mark.parametrize("part", ["images", "calibration"])
def test_images_on_which_a_sure_classifier_is_mostly_wrong_are_refused(
    part: str, tmp_path: Path
) -> None:
    """One step of an attack leaves some predictions right, and the classifier sure of all."""
    source = apercu.open_images("planted:size=32,images=75,classes=6")
    others = NoiseImages(3, (32, 32))
    given = {"images": source} if part == "images" else {"images": others, "calibration": source}

    def open_sure(strength: float) -> Classifier:
        def classify(images: Images) -> torch.Tensor:
            vague = images.mean((2, 3)).repeat(1, 2)
            return torch.cat([vague[:, :1] + strength, vague[:, 1:]], 1)

        return open_classifier(classify, size=32, classes=list(source.class_names or ()))

    match = r"the classifier is right on 1\d% of them only, .* its probabilities promise 9\d%"
    with pytest.raises(ImagesError, match=match):
        apercu.fit_guard(open_sure(5.0), out=tmp_path / "guard", false_alarms=0.1, **given)
    assert not (tmp_path / "guard" / "guard.json").exists()
    apercu.fit_guard(open_sure(0.5), out=tmp_path / "unsure", false_alarms=0.1, **given)


def test_a_guard_of_another_classifier_is_refused(
    guarded_card: Path, other_card: Path, tiny_guard: Path, tiny_run: Path, pictures: Path, run
) -> None:
    guard = guarded_card.parent / "guard"
    code, _, err = run("guard", "check", other_card, pictures / "noise.png", "--guard", guard)
    assert code == 2 and err.count("\n") == 1
    assert "guards" in err and "fit a guard for it" in err
    with pytest.raises(RunError, match="not the classifier of"):
        attach_guard(other_card, shutil.copytree(guard, other_card.parent / "guard"))
    opened = apercu.load_guard(guard, guarded_card)
    with pytest.raises(RunError, match="fit a guard for it"):
        choose_guard(opened, open_classifier(other_card))


def test_a_guard_of_another_explainer_is_refused(
    tiny_card: Path, tiny_run: Path, tiny_guard: Path, tmp_path: Path, classifier: Classifier
) -> None:
    explainer = load_explainer(tiny_run)
    parameter = next(iter(explainer.network.decoder.parameters()))
    with torch.no_grad():
        parameter.add_(0.1)
    explainer.save_pretrained(tmp_path / "other")
    for use in (
        lambda: open_engine(tmp_path / "other", classifier, guard=tiny_guard),
        lambda: apercu.load_guard(tiny_guard, classifier, tmp_path / "other"),
        lambda: choose_guard(
            apercu.load_guard(tiny_guard, classifier, tiny_run), classifier, explainer
        ),
        lambda: load_explainer(tmp_path / "other").explain(
            torch.rand(3, 32, 32), classifier=classifier, guard=tiny_guard
        ),
    ):
        with pytest.raises(RunError, match="another explainer"):
            use()


def test_what_is_no_guard_is_refused(
    guarded_card: Path, tiny_run: Path, pictures: Path, tmp_path: Path, run
) -> None:
    code, _, err = run("guard", "check", guarded_card, pictures, "--guard", pictures)
    assert code == 2 and err.count("\n") == 1 and "expected a guard, found no guard.json" in err
    code, _, err = run("guard", "check", guarded_card, pictures, "--guard", tmp_path / "nowhere")
    assert code == 2 and "expected a guard, found no guard.json" in err
    for name in ("guard.json", "guard.safetensors"):
        copy = shutil.copytree(guarded_card.parent / "guard", tmp_path / name)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        code, _, err = run("guard", "check", guarded_card, pictures, "--guard", copy)
        assert code == 2 and err.count("\n") == 1 and f"{name}: damaged" in err


def test_a_card_without_a_guard_and_an_explainer_without_its_classifier_are_refused(
    tiny_card: Path, tiny_run: Path, tiny_guard: Path, pictures: Path, run
) -> None:
    code, _, err = run("guard", "check", tiny_card, pictures / "noise.png")
    assert code == 2 and "names none; give --guard GUARD, or fit one" in err
    with pytest.raises(ConfigError, match="give --classifier SPEC"):
        open_engine(tiny_run, guard=tiny_guard)
    assert open_engine(tiny_run).has_guard is False


@pytest.fixture
def break_guard(guarded_card: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a copy of a card whose guard is gone, a file, a folder without one, or not whole."""

    def make(fault: str) -> Path:
        card = shutil.copytree(guarded_card.parent, tmp_path / fault) / guarded_card.name
        guard = card.parent / "guard"
        if fault == "damaged":
            (guard / "guard.safetensors").write_bytes(b"other")
            return card
        if fault == "lost":
            (guard / "guard.safetensors").unlink()
            return card
        shutil.rmtree(guard)
        if fault == "file":
            guard.write_text("a file")
        elif fault == "empty":
            guard.mkdir()
        return card

    return make


FAULTS = {
    "gone": "expected a guard, found no guard.json, as there is no such folder; fit one with",
    "file": "expected a guard, found no guard.json, as this is a file; fit one with",
    "empty": "expected a guard, found no guard.json; fit one with",
    "damaged": "guard.safetensors: damaged, or not the file that was saved here; fit it again",
    "lost": "guard.safetensors: missing, though it was saved here; fit it again",
}
"""What is said of a guard that cannot be opened."""
WITHOUT = 'or leave it out with --guard none (in Python guard="none")'


@pytest.mark.parametrize("fault", FAULTS)
def test_a_card_whose_guard_cannot_be_opened_is_used_without_it(
    fault: str, break_guard: Callable[[str], Path], tiny_run: Path, pictures: Path, tmp_path, run
) -> None:
    card = break_guard(fault)
    words = ("explain", tiny_run, pictures / "noise.png", "--out", tmp_path / "out")
    code, _, err = run(*words, "--classifier", card)
    (line,) = drop_warnings(err)
    assert code == 2 and line.endswith(WITHOUT)
    assert line.startswith(f"error: {card}: guard {card.parent / 'guard'}")
    assert FAULTS[fault] in line
    code, out, err = run(*words, "--classifier", card, "--guard", "none")
    assert (code, drop_warnings(err)) == (0, []) and "trust" not in out
    code, _, err = run("guard", "check", card, pictures / "noise.png")
    assert code == 2 and err.count("\n") == 1 and FAULTS[fault] in err
    assert "--guard none" not in err  # there is nothing to check then


def drop_warnings(text: str) -> list[str]:
    """The lines that are no warnings, such as that the explainer does not look trained."""
    return [line for line in text.splitlines() if not line.startswith("warning: ")]


def explain(run: Path, card: Path, out: Path, guard: str | None) -> object:
    image = torch.rand(3, 32, 32)
    explainer = load_explainer(run)
    return explainer.explain(image, classifier=open_classifier(card), guard=guard).trust


def serve(run: Path, card: Path, out: Path, guard: str | None) -> object:
    explainer = open_explainer(WorkerSetup(run, str(card), 1_000_000, guard=guard))
    return explainer.engine.guard


def export(run: Path, card: Path, out: Path, guard: str | None) -> object:
    manifest = apercu.export(run, out, combined=False, classifier=card, guard=guard)
    return manifest.guard


def explain_batch(run: Path, card: Path, out: Path, guard: str | None) -> object:
    source = "planted:size=32,images=2,classes=3"
    apercu.explain_dataset(run, source, out, classifier=card, workers=1, guard=guard)
    return json.loads((out / "manifest.json").read_text())["explainer"].get("guard")


USES = {
    "explain": explain,
    "serve": serve,
    "export": export,
    "batch": explain_batch,
    "video": lambda run, card, _, guard: open_video_engine(run, card, guard=guard).guard,
    "engine": lambda run, card, _, guard: open_engine(run, card, guard=guard).guard,
}
"""What uses the guard of a card, and gives what there is of one."""


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_verb_goes_on_without_a_guard_that_is_gone(
    use: Callable[..., object],
    break_guard: Callable[[str], Path],
    tiny_run: Path,
    tiny_export: Path,
    copy_graphs,
    tmp_path: Path,
) -> None:
    card = break_guard("gone")
    with pytest.raises(RunError, match=re.escape(FAULTS["gone"])) as caught:
        use(tiny_run, card, tmp_path / "out", None)
    assert str(caught.value).endswith(WITHOUT)
    with copy_graphs(tiny_export):
        assert use(tiny_run, card, tmp_path / "out", "none") is None


def test_a_guard_that_is_gone_is_attached_again(
    guarded_card: Path, break_guard: Callable[[str], Path]
) -> None:
    card = break_guard("gone")
    attach_guard(card, shutil.copytree(guarded_card.parent / "guard", card.parent / "again"))
    assert open_guard(card).record == open_guard(guarded_card).record


def test_an_encoder_is_saved_without_the_guard_of_its_classifier(
    guarded_card: Path, tmp_path: Path
) -> None:
    """A guard that was fitted with another explainer would keep the run from being opened."""
    classifier = open_classifier(guarded_card)
    saved = GraphEncoder(classifier, classifier.network.input).save(tmp_path / "encoder")
    assert open_classifier(saved).guard_folder is None
    assert sorted(path.name for path in saved.parent.iterdir() if path.is_dir()) == []


def test_a_saved_classifier_takes_its_guard_along(guarded_card: Path, tmp_path: Path) -> None:
    saved = save_classifier(open_classifier(guarded_card), tmp_path / "saved")
    images = torch.rand(2, 3, 32, 32)
    assert open_guard(saved).check(images) == open_guard(guarded_card).check(images)


@pytest.mark.parametrize("named", [False, True])
def test_a_page_for_browsers_refuses_a_guard_in_one_line(
    named: bool, guarded_card: Path, tiny_card: Path, tiny_run: Path, tiny_guard, tmp_path, run
) -> None:
    words = ("--classifier", tiny_card, "--guard", tiny_guard) if named else ()
    words = words or ("--classifier", guarded_card)
    code, out, err = run("export", tiny_run, "--out", tmp_path / "o", "--format", "web", *words)
    assert (code, drop_warnings(out)) == (2, [])
    assert err == (
        "error: guard: a page of format web shows no guard; serve it with `apercu serve`, "
        f"{WITHOUT}\n"
    )
    assert not (tmp_path / "o").exists()


def test_a_page_for_browsers_is_written_without_one(guarded_card: Path) -> None:
    classifier = open_classifier(guarded_card)
    for guard, whose, formats in (
        ("none", classifier, ("web",)),
        (None, classifier.without_guard(), ("web",)),
        (None, None, ("web",)),
        (None, classifier, ("onnx",)),
    ):
        check_page_guard(guard, whose, ExportSettings(formats))


def test_an_image_that_the_classifier_refuses_stays_an_error(guarded_card: Path) -> None:
    guard = open_guard(guarded_card)
    with pytest.raises(ImageError, match=r"expected pixels in \[0, 1\], got \[nan, nan\]"):
        guard.check(torch.full((1, 3, 32, 32), float("nan")))
    with pytest.raises(ImageError, match="expected batch × 3 × 32 × 32, got 1 × 1 × 32 × 32"):
        guard.check(torch.rand(1, 1, 32, 32))


def test_an_engine_judges_its_own_pass(
    classifier: Classifier, tiny_run: Path, tiny_guard: Path, images: Images, monkeypatch
) -> None:
    engine = open_engine(tiny_run, classifier, guard=tiny_guard)
    guard = apercu.load_guard(tiny_guard, classifier, tiny_run)
    expected = guard.check(images)
    passes: list[int] = []
    original = Predictor.__call__
    monkeypatch.setattr(
        Predictor,
        "__call__",
        lambda self, batch: passes.append(len(batch)) or original(self, batch),
    )
    for target in (TOP_INDEX, 0):  # of a class that is not predicted, too
        trust = engine(images, target).trust
        assert trust is not None
        for one, other in zip(trust, expected, strict=True):
            assert one.alarms == other.alarms and one.why == other.why
            assert one.tampered == pytest.approx(other.tampered, abs=1e-6)
    assert passes == [4, 4]  # nothing is computed twice
    assert engine.info.guard is not None
    assert open_engine(tiny_run, classifier).info.guard is None


def test_a_guard_without_an_explainer_makes_a_pass_where_the_encoder_is_another_network(
    guarded_card: Path, tiny_run: Path, images: Images, monkeypatch
) -> None:
    classifier = open_classifier(guarded_card)
    settings = MASK_PRESETS.parse({"preset": "light", "decoder": {"width": 8}})
    info = ClassifierInfo.from_classifier(classifier)
    own = MaskExplainer(build_mask_network(settings, info, classifier), info, settings, {})
    expected = open_guard(guarded_card).check(images)
    passes: list[int] = []
    original = Observer.observe
    monkeypatch.setattr(
        Observer,
        "observe",
        lambda self, batch: passes.append(len(batch)) or original(self, batch),
    )
    for explainer, shows_classifier in ((own, True), (load_explainer(tiny_run), False)):
        engine = TorchEngine.from_explainer(explainer, classifier)
        assert engine.predictor.shows_classifier == shows_classifier
        passes.clear()
        trust = engine(images).trust
        assert trust is not None and passes == ([] if shows_classifier else [len(images)])
        for one, other in zip(trust, expected, strict=True):
            assert (one.alarms, one.why) == (other.alarms, other.why)
            assert one.tampered == pytest.approx(other.tampered, abs=1e-6)
            assert one.unknown == pytest.approx(other.unknown, abs=1e-6)
    assert open_engine(tiny_run, guarded_card, guard="none")(images).trust is None


def test_explanations_say_whether_to_believe_them(
    guarded_card: Path, classifier: Classifier, tiny_run: Path, tiny_guard: Path, pictures: Path
) -> None:
    explainer = load_explainer(tiny_run)
    path = pictures / "noise.png"
    image = open_image(guarded_card, path)
    explanation = explainer.explain(path, classifier=classifier, guard=tiny_guard)
    (expected,) = apercu.load_guard(tiny_guard, classifier, explainer).check(image)
    assert explanation.trust is not None and explanation.trust.why == expected.why
    assert explanation.trust.tampered == pytest.approx(expected.tampered, abs=1e-6)
    assert expected.line in explanation.summary and "trust: " in explanation._repr_html_()
    own = explainer.explain(path, target=0, classifier=open_classifier(guarded_card))
    assert own.trust == open_guard(guarded_card).check(image)[0]
    assert explainer.explain(path, classifier=classifier).trust is None
    assert "trust" not in "".join(explainer.explain(path, classifier=classifier).summary)


def test_the_verb_explain_says_it_too(
    classifier: Classifier,
    tiny_card: Path,
    tiny_run: Path,
    tiny_guard: Path,
    pictures,
    tmp_path,
    run,
) -> None:
    out = tmp_path / "maps"
    words = ("explain", tiny_run, pictures / "noise.png", "--out", out, "--classifier", tiny_card)
    code, said, _ = run(*words, "--guard", tiny_guard)
    assert code == 0 and "; trust: " in said and ".; " not in said
    answer = json.loads((out / "explain.json").read_text())["images"][0]["answers"][0]
    assert set(answer["trust"]) == {*COLUMNS, "alarms", "why"}
    code, said, _ = run(*words)
    assert code == 0 and "trust" not in said
    answer = json.loads((out / "explain.json").read_text())["images"][0]["answers"][0]
    assert "trust" not in answer


def test_what_cannot_be_judged_is_said_so(
    classifier: Classifier, tiny_run: Path, tiny_guard: Path, images: Images
) -> None:
    explainer = load_explainer(tiny_run)
    guard = apercu.load_guard(tiny_guard, classifier, explainer)
    guard.network.signals[0].mean.fill_(float("nan"))
    engine = open_engine(explainer, classifier, guard=guard)
    trust = engine(images).trust
    assert trust is not None and {one.why for one in trust} == {CANNOT_JUDGE}
    selector = TargetSelector(explainer, ExplainOptions(), classifier, guard)
    logits, features = selector.predict_with_features(images[:1])
    answer = selector.judge(images[:1], logits, features)
    assert answer is not None and answer.tampered is None and CANNOT_JUDGE in answer.line


def test_a_guard_is_measured_in_python_as_on_the_command_line(
    guarded_card: Path, tmp_path: Path, run
) -> None:
    honest = "planted:size=32,images=12,classes=3,seed=9"
    rows = apercu.measure_guard(
        guarded_card, honest, tmp_path / "a", unknown=["noise"], attacks="fgsm", epsilons="8/255",
        limit=12,
    )  # fmt: skip
    words = ("guard", "measure", guarded_card, "--images", honest, "--unknown", "noise")
    more = ("--attacks", "fgsm", "--epsilons", "8/255", "--limit", "12")
    code, out, err = run(*words, *more, "--out", tmp_path / "b")
    assert code == 0 and str(rows) in out
    first, second = (
        json.loads((tmp_path / name / "guard_results.json").read_text()) for name in "ab"
    )
    assert first["rows"] == second["rows"] and len(first["rows"]) == len(rows)
    assert first["images"] == {"honest": first["images"]["honest"], "noise": "noise:seed=0"}
    assert second["command"].split()[0] == "apercu" and first["command"] == ""
    guard = open_guard(guarded_card)
    kinds = {"made": NoiseImages(3, (32, 32))}
    options = {"attacks": "none", "limit": 12}
    again = apercu.measure_guard(
        guard.observer.classifier, apercu.open_images(honest), tmp_path / "c", guard=guard,
        unknown=kinds, **options,
    )  # fmt: skip
    expected = [row._replace(images="made") for row in rows if row.images == "noise"]
    assert [row for row in again if row.images == "made"] == expected
    code, out, err = run(*words, *more[:-1], "9", "--out", tmp_path / "d")
    assert code == 2 and err.count("\n") == 1
    assert "expected at least 10 clean images to measure false alarms with, got 9" in err
    with pytest.raises(ConfigError, match="attacks"):
        apercu.measure_guard(guarded_card, honest, tmp_path / "d", attacks="")


def test_a_black_box_is_not_attacked_unless_attacks_are_named(
    tmp_path: Path, honest_images: str, caplog: pytest.LogCaptureFixture
) -> None:
    def classify(images: Images) -> np.ndarray:
        means = np.asarray(images).mean((2, 3))
        return means - means.mean(1, keepdims=True)

    box = open_classifier(classify, size=32, classes=["a", "b", "c"])
    assert not box.differentiable
    guard = apercu.fit_guard(box, honest_images, tmp_path / "guard", false_alarms=0.1)
    caplog.clear()
    options = {"guard": guard, "limit": 12}
    rows = apercu.measure_guard(box, honest_images, tmp_path / "out", **options)
    assert {row.images for row in rows} == {"honest"}
    assert "has no gradients, so it is not attacked; choose attacks" in caplog.text
    with pytest.raises(ClassifierError, match="fgsm need gradients"):
        apercu.measure_guard(box, honest_images, tmp_path / "no", attacks="fgsm", **options)


def test_files_are_checked_in_python(guarded_card: Path, pictures: Path) -> None:
    first, second = check_files(open_guard(guarded_card), [pictures])
    assert first.error is None and first.trust is not None and first.name == "noise.png"
    assert second.trust is None and second.error is not None
    assert second.to_record().keys() == {"image", "error"}
