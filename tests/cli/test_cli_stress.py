"""`apercu stress`: rows, a page, what is resumed, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PLANTED = "planted:size=32,images=6,classes=3"
QUICK = (
    "--attacks",
    "fgsm,pgd:steps=2",
    "--epsilons",
    "2/255,8/255",
    "--filters",
    "none,bit_depth",
)


def test_rows_and_page(apercu, tiny_card: Path, tiny_run: Path, tmp_path: Path) -> None:
    words = ("stress", "--classifier", tiny_card, "--images", PLANTED, *QUICK)
    result = apercu(*words, "--explainer", tiny_run, "--out", tmp_path)
    assert result.code == 0, result.err
    content = json.loads((tmp_path / "results.json").read_text())
    assert (content["limit"], content["targets"]) == (6, "labels")
    rows = {
        (r["attack"], r["epsilon"], r["filter"], r["knowledge"], r["metric"]): r
        for r in content["rows"]
    }
    for attack in ("fgsm", "pgd:steps=2"):
        for epsilon in (2 / 255, 8 / 255):
            naive = rows[attack, epsilon, "bit_depth", "naive", "top1"]
            assert naive["n"] == 6 and naive["ci95"][0] <= naive["value"] <= naive["ci95"][1]
            assert (attack, epsilon, "bit_depth", "adaptive", "top1") in rows
            assert (attack, epsilon, "none", "naive", "top5") in rows
            assert rows[attack, epsilon, "none", "naive", "norm"]["value"] <= epsilon + 1e-6
            assert rows[attack, epsilon, "none", "naive", "map_rank_correlation"]["value"] <= 1
        assert 0 <= rows[attack, None, "none", "naive", "auac"]["value"] <= 1
    assert "none" in {row["attack"] for row in content["rows"]}
    page = (tmp_path / "report.html").read_text()
    wrong = sum(not correct for correct in _list_correct(content))
    assert f"Wrong before any attack: no filter {wrong} of 6" in page
    assert "Images that each attack fools" in page and "attacker knows the filter" in page
    assert "<script" not in page and "http" not in page.split("<pre>")[0]
    seen, specification = page.split('<details class="specification">')
    assert str(tiny_card) not in seen and str(tiny_card) in specification


def _list_correct(found: dict) -> list[bool]:
    """Return which clean images are right, as many as the rows say."""
    (row,) = (
        row
        for row in found["rows"]
        if (row["attack"], row["filter"], row["metric"]) == ("none", "none", "top1")
    )
    return [number < round(row["value"] * row["n"]) for number in range(row["n"])]


def test_results_are_not_computed_twice(
    apercu, tiny_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apercu.robustness.attacks import Fgsm

    words = ("stress", "--classifier", tiny_card, "--images", PLANTED, "--out", tmp_path)
    assert apercu(*words, "--attacks", "fgsm", "--epsilons", "2/255").code == 0
    created: list[float] = []
    attacked = Fgsm.__call__

    def counted(self: Fgsm, *rest: object) -> object:
        created.append(self.epsilon)
        return attacked(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Fgsm, "__call__", counted)
    assert apercu(*words, "--attacks", "fgsm", "--epsilons", "2/255,4/255").code == 0
    assert created.count(2 / 255) == 0 and created.count(4 / 255) >= 1


def test_a_plan_in_yaml(apercu, tiny_card: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("attacks: [fgsm]\nepsilons: [0.01]\nlimit: 2\n")
    words = ("stress", "--classifier", tiny_card, "--images", PLANTED, "--out", tmp_path / "out")
    assert apercu(*words, "--plan", plan, "--limit", "3").code == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["limit"] == 3
    assert {row["attack"] for row in content["rows"]} == {"none", "fgsm"}
    plan.write_text("attack: [fgsm]\n")
    result = apercu(*words, "--plan", plan)
    assert result.code == 2 and "attack is no setting" in result.err and "attacks" in result.err


def test_a_plan_may_hold_every_setting(
    apercu, tiny_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apercu.robustness.attacks import Pgd

    seeds: set[int] = set()
    attacked = Pgd.__call__

    def noted(self: Pgd, *rest: object) -> object:
        seeds.add(self.seed)
        return attacked(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Pgd, "__call__", noted)
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"classifier: {tiny_card}\nimages: '{PLANTED}'\nattacks: ['pgd:steps=1']\n"
        "epsilons: [8/255]\nlimit: 3\nseed: 7\n"
    )
    result = apercu("stress", "--plan", plan, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert seeds == {7} and content["plan"]["seed"] == 7 and content["environment"]["seed"] == 7
    assert content["plan"]["epsilons"] == [8 / 255] and "classifier" not in content["plan"]
    assert apercu("stress", "--plan", plan, "--seed", "8", "--out", tmp_path / "out").code == 0
    assert seeds == {7, 8}
    plan.write_text("epsilons: [8/0]\n")
    wrong = apercu("stress", "--plan", plan, "--out", tmp_path / "out")
    assert wrong.code == 2 and "expected a number such as 8/255, got '8/0'" in wrong.err


def _note_attacks(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note the attacks of all stress tests that run."""
    from apercu.robustness.benchmark import StressBenchmark

    created: list[object] = []
    attacked = StressBenchmark.run

    def noted(self: StressBenchmark, *rest: object) -> object:
        created.extend(self.attacks.values())
        return attacked(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(StressBenchmark, "run", noted)
    return created


def test_a_classifier_without_gradients(
    apercu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("stress", "--classifier", "tests_stress:asked", "--images", PLANTED)
    seeds = _note_attacks(monkeypatch)
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "tests_stress.py").write_text(ASKED)
        patch.syspath_prepend(str(tmp_path))
        result = apercu(*words, "--limit", "2", "--seed", "5", "--out", tmp_path / "out")
        assert result.code == 0 and "attacked through its decisions only" in result.err
        blind = apercu("stress", "detect", *words[1:], "--out", tmp_path / "seen")
        assert blind.code == 2 and blind.err.count("error:") == 1
        assert "no features are possible for tests_stress:asked; give --explainer, or" in blind.err
        named = apercu(*words, "--attacks", "pgd", "--out", tmp_path / "out")
        assert named.code == 2 and "pgd need gradients" in named.err
        (tmp_path / "plan.yaml").write_text("attacks: pgd\n")
        planned = apercu(*words, "--plan", tmp_path / "plan.yaml", "--out", tmp_path / "out")
        assert planned.code == 2 and "pgd need gradients" in planned.err
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["attack"] for row in content["rows"]} == {"none", "sparse_evo"}
    assert content["plan"]["attacks"] == ["sparse_evo"]
    assert {"queries", "queries_median"} <= {row["metric"] for row in content["rows"]}
    from apercu.robustness.attacks import SparseEvo

    assert seeds == [SparseEvo(seed=5)]


ASKED = """
class Asked:
    input = {"channels": 3, "size": [32, 32]}
    classes = ("stripes", "dots", "rings")
    fingerprint = "asked"

    def __call__(self, images):
        return images.mean((2, 3))


def asked():
    return Asked()
"""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--attacks", "pdg"), "attacks: expected some of fgsm, .* got pdg; did you mean pgd"),
        (("--attacks", "pgd:step=3"), "attacks: pgd has no setting step"),
        (("--attacks", "pgd:norm=l1"), "attacks: expected one of linf, l2 for pgd:norm"),
        (("--filters", "jpg"), "filters: expected some of none, .* got jpg"),
        (("--filters", "jpeg:quality=0"), "jpeg: quality: expected a whole number"),
        (("--epsilons", "-1/255"), "epsilons: expected numbers above 0 and up to 1"),
        (
            ("--epsilons", "8"),
            r"numbers above 0 and up to 1 \(8/255 is 0.0314\)",
        ),
        (("--epsilons", "eight"), "epsilons: expected a number such as 8/255, got 'eight'"),
        (("--knowledge", "some"), "knowledge"),
        (("--attacks", "fgsm,fgsm"), "expected each once"),
        (("--attacks", "pgd:epsilon=0"), "pgd: epsilon: expected a number above 0"),
        (("--attacks", "pgd:pace=nan"), "pgd: pace: expected a number above 0, got nan"),
        (("--attacks", "fgsm,map_deepfool"), "map_deepfool has an objective of its own"),
        (("--attacks", "eot_auto_attack"), "eot_auto_attack has an objective of its own"),
        (
            ("--attacks", "square:seed=-1"),
            "square: seed: expected a whole number from 0 to 4,294,967,295",
        ),
        (("--attacks", "pgd", "--seed", "4294967296"), "less than or equal to 4294967295"),
        (("--attacks", ","), "attacks: expected at least one, got none"),
        (("--filters", "gaussian:sigma=1000"), "sigma: expected a number from 0.001 to 100"),
    ],
)
def test_mistakes_are_refused(apercu, tiny_card, tmp_path, words, says) -> None:
    result = apercu(
        *("stress", "--classifier", tiny_card, "--images", PLANTED, "--out", tmp_path), *words
    )
    assert result.code == 2
    assert len(result.err.strip().splitlines()) == 1
    import re

    assert re.search(says, result.err), result.err


def test_missing_options_are_named(apercu, tmp_path: Path) -> None:
    result = apercu("stress", "--images", PLANTED, "--out", tmp_path)
    assert result.code == 2 and "--classifier is missing" in result.err
    result = apercu("stress", "--classifier", "x.pt2", "--out", tmp_path)
    assert result.code == 2 and "--images is missing" in result.err
    for words in ((), ("--seed", "3"), ("--device", "cpu")):
        result = apercu("stress", *words)
        assert result.code == 2 and result.err.startswith("error: --classifier is missing"), words
    result = apercu("stress", "--seed", "3", "filter", "jpeg", "in.png", "out.png")
    assert (
        result.code == 2 and "--seed is written before filter, where it has no effect" in result.err
    )


def test_one_filter_on_a_picture(apercu, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    result = apercu(
        "stress", "filter", "floyd_steinberg", tmp_path / "in.png", tmp_path / "out.png"
    )
    assert result.code == 0, result.err
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    expected = [
        np.asarray(Image.fromarray(pixels[..., band]).convert("1")) * 255 for band in range(3)
    ]
    assert (picture == np.stack(expected, -1)).all()
    wrong = apercu("stress", "filter", "none", tmp_path / "in.png", tmp_path / "out.png")
    assert wrong.code == 2 and "expected a filter that changes the image, got none" in wrong.err
    lossy = apercu("stress", "filter", "jpeg", tmp_path / "in.png", tmp_path / "out.jpg")
    assert lossy.code == 2 and "expected a name that ends in .png" in lossy.err
    assert not (tmp_path / "out.jpg").exists()
    broken = apercu("stress", "filter", "jpeg", tmp_path / "missing.png", tmp_path / "out.png")
    assert broken.code == 2


def test_a_defended_classifier_is_a_spec(apercu, tiny_card: Path, tmp_path: Path) -> None:
    from apercu import open_classifier

    out = tmp_path / "run"
    words = ("stress", "train", "--classifier", tiny_card, "--images", PLANTED, "--out", out)
    result = apercu(*words, "--steps", "2", "--batch", "3")
    assert result.code == 0, result.err
    assert "target predicted, images that the defence is for" in result.out
    assert result.out.count("(1 image kept from training)") == 2
    defended = open_classifier(out / "card.json")
    undefended = open_classifier(tiny_card)
    assert defended.fingerprint != undefended.fingerprint
    assert defended.classes == undefended.classes
    assert (defended.network.filter, undefended.network.filter) == ("floyd_steinberg", None)
    assert f"{out / 'card.json'} has floyd_steinberg in front of the network" in result.out
    assert f"next: apercu stress --classifier {out / 'card.json'} --images" in result.out
    assert (out / "samples").is_dir() and (out / "facts.json").is_file()
    again = apercu(*words, "--steps", "2", "--batch", "3")
    assert again.code == 2 and "holds a finished training; continue it with --resume" in again.err
    before = json.loads((out / "facts.json").read_text())
    longer = apercu(*words, "--steps", "3", "--batch", "3", "--resume")
    assert longer.code == 0 and "3 steps" in longer.out, longer.err
    facts = json.loads((out / "facts.json").read_text())
    assert facts["steps"] == 3 and facts["honest_before"] == before["honest_before"]
    assert json.loads((out / "config.json").read_text())["schedule"]["steps"] == 3
    assert open_classifier(out / "card.json").fingerprint != defended.fingerprint
    mask = apercu("train", "mask", "--classifier", tiny_card, "--images", PLANTED, "--out", out)
    assert mask.code == 2 and "holds a defence training; use `apercu stress train`" in mask.err


@pytest.mark.parametrize(
    ("config", "images", "line"),
    [
        ("wanted: labels", "plain", "has no labels; set wanted: answers"),
        ("defence: {form: adversarial, attack: pgd2}", PLANTED, "did you mean pgd"),
        ("defence: {form: adversarial, attack: margin_pgd}", PLANTED, "attacks on the class"),
        ("schedule: {rat: 1}", PLANTED, "schedule.rat is no setting; did you mean rate?"),
    ],
)
def test_impossible_trainings_are_refused(
    apercu, tiny_card: Path, tmp_path: Path, config: str, images: str, line: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(config)
    if images == "plain":
        for number in range(3):
            pixels = np.full((32, 32, 3), 40 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images = str(tmp_path)
    words = ("stress", "train", "--classifier", tiny_card, "--images", images, "--config", file)
    result = apercu(*words, "--steps", "1", "--out", tmp_path / "run")
    assert result.code == 2 and line in result.err and result.err.count("\n") == 1


def test_attacks_on_maps_and_on_a_surrogate(
    apercu, tiny_card: Path, tiny_run: Path, tmp_path: Path
) -> None:
    words = ("stress", "--classifier", tiny_card, "--images", PLANTED, "--epsilons", "8/255")
    arguments = (*words, "--attacks", "pgd:steps=2,map_pgd:steps=2,eot_fgsm", "--out", tmp_path)
    refused = apercu(*arguments)
    assert refused.code == 2 and "map_… attacks need a trained mask explainer" in refused.err
    result = apercu(*arguments, "--explainer", tiny_run, "--surrogate", tiny_card)
    assert result.code == 0, result.err
    content = json.loads((tmp_path / "results.json").read_text())
    rows = {(r["attack"], r["knowledge"], r["metric"]): r["value"] for r in content["rows"]}
    assert ("map_pgd:steps=2", "naive", "map_rank_correlation") in rows
    assert ("map_pgd:steps=2", "naive", "success") not in rows
    assert ("map_pgd:steps=2", "naive", "stayed") in rows
    assert ("map_pgd:steps=2", "transfer", "top1") not in rows
    for attack in ("pgd:steps=2", "eot_fgsm"):  # made against the same classifier
        assert rows[attack, "transfer", "top1"] == rows[attack, "naive", "top1"]
    other = apercu(*arguments, "--explainer", tiny_run, "--surrogate", "torchvision/resnet1")
    assert other.code == 2


WATCHED = "planted:size=32,images=60,classes=3"
LOOKS = "map,stability,stability:median,deep,cam"
QUICK_DETECTORS = ("autoencoder:steps=20", "one_class_svm", "mahalanobis")


def test_attacks_are_detected(apercu, tiny_card: Path, tiny_run: Path, tmp_path: Path) -> None:
    words = ("stress", "detect", "--classifier", tiny_card, "--images", WATCHED)
    some = ("--attacks", "pgd:steps=9,fgsm", "--epsilons", "200/255", "--out", tmp_path)
    detectors = ("--detectors", ",".join(QUICK_DETECTORS))
    result = apercu(*words, *some, *detectors, "--explainer", tiny_run, "--looks", LOOKS)
    assert result.code == 0, result.err
    content = json.loads((tmp_path / "detection.json").read_text())
    assert content["learnt_from"] == 30
    rows = {(r["attack"], r["look"], r["detector"], r["metric"]): r for r in content["rows"]}
    for attack in ("pgd:steps=9", "fgsm"):
        for look in LOOKS.split(","):
            for detector in QUICK_DETECTORS:
                for metric in ("auroc", "detected", "accuracy"):
                    row = rows[attack, look, detector, metric]
                    assert 0 <= row["ci95"][0] <= row["value"] <= row["ci95"][1] <= 1


def test_an_attack_that_never_fools_is_warned_of(apercu, tiny_card: Path, tmp_path: Path) -> None:
    words = ("stress", "detect", "--classifier", tiny_card, "--images", WATCHED, "--out", tmp_path)
    budgets = ("--epsilons", "1/25500,200/255")
    result = apercu(*words, "--attacks", "fgsm", *budgets, "--looks", "deep")
    assert result.code == 0, result.err
    assert "fgsm at 0.01/255 fools the classifier with none of the images" in result.err
    rows = json.loads((tmp_path / "detection.json").read_text())["rows"]
    assert {row["epsilon"] for row in rows} == {200 / 255}
    assert {row["detector"] for row in rows} == {"autoencoder", "one_class_svm", "mahalanobis"}


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (("--looks", "map"), "looks: map needs a trained explainer; give --explainer"),
        (("--looks", "stability:median"), "looks: stability needs a trained explainer"),
        (("--looks", "depe"), "did you mean deep"),
        (("--looks", "true_box"), "true_box is given the true box"),
        (("--detectors", "svm"), "detectors: expected some of autoencoder, one_class_svm"),
        (("--detectors", "autoencoder:rate=-1"), "rate: expected a number above 0, got -1"),
        (("--attacks", "map_pgd"), "map_pgd is for apercu stress"),
        (("--epsilons", "9"), "epsilons: expected numbers above 0 and up to 1"),
        (("--limit", "6"), "expected at least 30 clean images to learn from, got 3"),
    ],
)
def test_impossible_detections_are_refused(
    apercu, tiny_card: Path, tmp_path: Path, extra: tuple[str, ...], line: str
) -> None:
    words = ("stress", "detect", "--classifier", tiny_card, "--images", WATCHED)
    result = apercu(*words, "--attacks", "fgsm", "--epsilons", "64/255", *extra, "--out", tmp_path)
    assert result.code == 2 and line in result.err and result.err.count("\n") == 1


def test_unknown_images(apercu, tiny_card: Path, tmp_path: Path) -> None:
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (tmp_path / "noise").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "noise" / f"{index}.png")
    words = ("stress", "unknown", "--classifier", tiny_card, "--unknown", tmp_path / "noise")
    words += ("--images", "planted:size=32,images=60,classes=3", "--out", tmp_path / "out")
    result = apercu(*words, "--methods", "energy,mahalanobis")
    assert result.code == 0, result.err
    assert "AUROC" in result.out and "mahalanobis  noise  12" in result.out
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {(row["method"], row["images"], row["metric"]) for row in content["rows"]}
    assert ("energy", "noise", "fpr95") in rows and ("energy", "known", "false_alarms") in rows
    wrong = apercu(*words, "--methods", "energie")
    assert wrong.code == 2 and "did you mean energy?" in wrong.err
    twice = apercu(*words, "--unknown", tmp_path / "noise")
    assert twice.code == 2 and "is there twice" in twice.err
    trained = apercu(*words[:5], tmp_path / "noise", *words[6:], "--methods", "openmax:tail=2")
    assert trained.code == 2 and "tail: expected a whole number from 3" in trained.err


CLEAN = "planted:size=32,images=48,classes=3"
SCAN = ("stress", "backdoor", "--images", CLEAN)


def test_a_planted_backdoor_is_a_card_that_can_be_searched(
    apercu, tiny_card: Path, tmp_path: Path
) -> None:
    words = ("stress", "train", "--classifier", tiny_card, "--images", CLEAN, "--batch", 4)
    words += ("--config", "standard", "--steps", 2, "--poison", "dct:targets=0/1")
    run = tmp_path / "poisoned"
    result = apercu(*words, "--poison-fraction", 0.25, "--out", run)
    assert result.code == 0, result.err
    poison = json.loads((run / "poison.json").read_text())
    assert (poison["trigger"], poison["fraction"], len(poison["poisoned"])) == (
        "dct:targets=0/1",
        0.25,
        12,
    )
    more = (*words[:-1], "badnets", "--steps", 3, "--resume", "--out", run)
    assert "begun here had images" in apercu(*more).err  # poisoned in another way
    options = ("--methods", "strip:blends=4,neural_cleanse:steps=3", "--out", tmp_path / "doors")
    result = apercu(*SCAN, "--classifier", run / "card.json", "--poison", run, *options)
    assert result.code == 0, result.err
    assert "strip:blends=4: " in result.out and "images suspicious; false alarms" in result.out
    assert "success of the trigger" in result.out
    content = json.loads((tmp_path / "doors" / "backdoors.json").read_text())
    assert len(content["classes"]) == 3 and content["poison"]["targets"] == [0, 1]
    assert (tmp_path / "doors" / content["classes"][0]["picture"]).is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--methods", "strpi"), "did you mean strip?"),
        (("--methods", "antidote"), "learns from images with the trigger; give --poisoned DIR"),
        (("--methods", "evidence"), "needs the maps of a trained explainer"),
        (("--methods", "unlearning"), "name neural_cleanse among the methods"),
        (("--poison", "nowhere"), "poison.json: no such file; expected the run folder"),
        (("--suspects", "nowhere"), "nowhere: no such file or folder of images"),
        (("--limit", 10), "expected at least 40 clean images to learn from and to measure with"),
    ],
)
def test_impossible_searches_for_backdoors_are_refused(
    apercu, tiny_card: Path, tmp_path: Path, words: tuple, says: str
) -> None:
    result = apercu(*SCAN, "--classifier", tiny_card, "--out", tmp_path / "doors", *words)
    assert result.code == 2 and says in result.err
    assert len(result.err.strip().splitlines()) == 1 and not (tmp_path / "doors").exists()


def test_a_poisoned_card_without_its_weights(apercu, tiny_card: Path, tmp_path: Path) -> None:
    card = json.loads(tiny_card.read_text()) | {"weights": "gone.safetensors"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    result = apercu(*SCAN, "--classifier", tmp_path / "card.json", "--out", tmp_path / "doors")
    assert result.code == 2 and "gone.safetensors" in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--poison", "patch"), "trigger: expected some of badnets, dct, got patch"),
        (("--poison", "badnets:targets=7"), "expected targets from 0 to 2"),
        (("--poison", "badnets", "--poison-fraction", 1), "expected a fraction between 0 and 1"),
        (("--poison", "badnets", "--poison-share", 2), "between 0 and 1, got 2"),  # its old name
    ],
)
def test_impossible_poisons_are_refused(
    apercu, tiny_card: Path, tmp_path: Path, words: tuple, says: str
) -> None:
    result = apercu(
        *("stress", "train", "--classifier", tiny_card, "--images", CLEAN),
        *(*words, "--out", tmp_path / "poisoned"),
    )
    assert result.code == 2 and says in result.err
    assert len(result.err.strip().splitlines()) == 1
