"""Guards: signals against closed forms, what is recognised, and what cannot be judged."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from apercu import open_images
from apercu.classifiers import Classifier, ClassifierCard, InputSpec, wrap_module
from apercu.classifiers.calibration import fit_temperature
from apercu.errors import ConfigError, ImageError, ImagesError, RunError
from apercu.guard import Guard, fit_guard, load_guard
from apercu.guard.network import NORMAL_QUARTILE, GuardNetwork
from apercu.guard.observe import PARTS, Observer
from apercu.guard.signals import COLOUR_NOISE, DEEP_FEATURES, ENERGY, NOISE, fit_signal
from apercu.guard.summaries import (
    FIFTH_ORDER,
    STEPS,
    Observation,
    measure_certainty,
    measure_energy,
    summarise_colour_noise,
    summarise_contrast,
    summarise_noise,
)
from apercu.images.source import ChosenImages
from apercu.log import redirect_warnings
from apercu.robustness.attacks import Fgsm, Pgd
from apercu.robustness.guards.kinds import NoiseImages, find_background, open_kind
from apercu.robustness.guards.measure import GuardMeasurement, run_measurement
from apercu.robustness.guards.report import draw_curves
from apercu.robustness.guards.results import Verdicts, find_alarms
from apercu.robustness.objectives import GuardEvasion, Untargeted
from apercu.verdicts import COLUMNS, QUESTIONS, VerdictFormat
from apercu_runtime.manifest import _parse_guard

SIDE = 24


class Blobs(nn.Module):
    """Tells whether the upper or the lower half is brighter, from two feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.second(torch.relu(self.first(images))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def draw_photographs(count: int, seed: int) -> Tensor:
    """Smooth pictures whose channels change together, with a little common noise, in 8 bit."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")
    noise = 0.01 * torch.randn(count, 1, SIDE, SIDE, generator=generator)
    return ((0.2 + 0.6 * smooth + noise).clamp(0, 1) * 255).round() / 255


def write_folder(folder: Path, images: Tensor, labels: Tensor) -> Path:
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / ("one", "two")[int(label)]
        place.mkdir(parents=True, exist_ok=True)
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(place / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def blobs() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Blobs()
    with torch.no_grad():  # both classes are predicted
        logits = network(2 * draw_photographs(50, 20) - 1)
        network.head.bias[0] -= (logits[:, 0] - logits[:, 1]).median()
    spec = InputSpec(size=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
    return wrap_module(
        network, ClassifierCard(source="memory/blobs", input=spec, classes=("one", "two"))
    )


@pytest.fixture(scope="module")
def photographs(blobs: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = draw_photographs(120, 0)
    with torch.no_grad():
        labels = blobs(images).argmax(1)
    return write_folder(tmp_path_factory.mktemp("honest"), images, labels)


@pytest.fixture(scope="module")
def guard(blobs: Classifier, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Guard:
    source = open_images(photographs, channels=3)
    return fit_guard(blobs, source, tmp_path_factory.mktemp("guard"))


def test_noise_is_what_neighbours_do_not_predict() -> None:
    images = draw_photographs(2, 1)
    numbers = summarise_noise(Observation(images, torch.zeros(2, 3)))
    kernel = np.array(FIFTH_ORDER) / np.abs(FIFTH_ORDER).sum()
    pixels = images.double().numpy()
    residual = np.zeros((2, 3, SIDE - 4, SIDE - 4))
    for row in range(SIDE - 4):  # a literal correlation
        for column in range(SIDE - 4):
            window = pixels[:, :, row : row + 5, column : column + 5]
            residual[:, :, row, column] = (window * kernel).sum((2, 3))
    fractions = np.stack([(np.abs(residual) < s / 255).mean((1, 2, 3)) for s in STEPS], 1)
    expected = np.log((fractions + 1e-3) / (1 - fractions + 1e-3))
    np.testing.assert_allclose(numbers[:, : len(STEPS)], expected, atol=1e-3)  # also in float32
    variance = np.log((residual**2).mean((1, 2, 3)) + 1e-8)
    np.testing.assert_allclose(numbers[:, len(STEPS)], variance, rtol=1e-3)
    pair = (residual[:, 0] * residual[:, 1]).mean((1, 2))
    lengths = np.sqrt((residual[:, 0] ** 2).mean((1, 2)) * (residual[:, 1] ** 2).mean((1, 2)))
    np.testing.assert_allclose(numbers[:, len(STEPS) + 1], pair / lengths, rtol=2e-2)


def test_summaries_have_closed_forms() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0]])
    grey = torch.full((1, 3, SIDE, SIDE), 0.4)
    one, two, three = (Observation(grey[:, :count], logits) for count in (1, 2, 3))
    assert torch.allclose(summarise_colour_noise(three)[:, -1].exp(), torch.tensor(1e-8))
    assert summarise_noise(one).shape == (1, len(STEPS) + 1)  # no pair of channels
    assert summarise_noise(two).shape == (1, len(STEPS) + 2)
    assert measure_certainty(logits).tolist() == [1.0]
    assert measure_energy(logits).item() == pytest.approx(-np.log(np.exp([2, 0, 1]).sum()))
    features = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    assert summarise_contrast(features).item() == pytest.approx(np.log(1 + 1e-3), rel=1e-3)


def test_a_signal_is_a_mahalanobis_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(200, 5, generator=generator) * torch.tensor([1.0, 10, 0.1, 3, 1])
    signal = fit_signal(DEEP_FEATURES, honest)
    others = 3 * honest[:7] + 1
    numbers, scale = honest.double().numpy(), honest.double().std(0).numpy()
    fitted = LedoitWolf().fit((numbers - numbers.mean(0)) / scale)
    expected = fitted.mahalanobis((others.double().numpy() - numbers.mean(0)) / scale)
    np.testing.assert_allclose(
        signal.measure(others).numpy(), np.log(expected / 5 + 1e-6) / 2, rtol=1e-3, atol=1e-3
    )


def test_signals_are_put_together_by_their_positive_squares() -> None:
    signals = [fit_signal(ENERGY, torch.zeros(1, 1)), fit_signal(ENERGY, torch.zeros(1, 1))]
    from apercu.classifiers.decisions import ONE_CLASS

    network = GuardNetwork(signals, ONE_CLASS, 4)
    scores = torch.tensor([[0.0, 0.0], [1.0, -5.0], [2.0, 1.0], [3.0, 2.0], [4.0, 9.0]])
    network.calibrate(scores)
    assert network.centre.tolist() == [2.0, 1.0]
    assert network.spread.tolist() == pytest.approx([1 / NORMAL_QUARTILE] * 2)
    standardised = (scores - network.centre) / network.spread
    totals = network.combine(standardised)[:, 1]
    expected = [sum(max(0.0, v) ** 2 for v in row) for row in standardised.tolist()]
    assert totals.tolist() == pytest.approx(expected)
    assert network.ranks.shape == (2, 5) and network.ranks[1].tolist() == sorted(totals.tolist())


def test_honest_images_are_believed_and_others_are_not(guard: Guard) -> None:
    honest = guard.check(draw_photographs(60, 2))
    assert sum(not answer.is_good for answer in honest) <= 12  # 5 % for each question, small set
    noise = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    for answer in guard.check(noise):
        assert answer.alarms and answer.tampered == 1.0 and not answer.is_good
        assert answer.why.startswith("tampered: ")
    stripes = torch.zeros(4, 3, SIDE, SIDE)
    stripes[..., ::2] = 1
    assert all("unknown" in answer.alarms for answer in guard.check(stripes))
    assert all(0 <= (answer.confidence or 0) <= 1 for answer in honest)


def test_an_attack_of_one_step_is_recognised(guard: Guard) -> None:
    classifier, images = guard.observer.classifier, draw_photographs(16, 4)
    with torch.no_grad():
        predicted = classifier(images).argmax(1)
    attacked = Fgsm(4 / 255)(Untargeted(classifier, predicted), images)
    answers = guard.check((attacked * 255).round() / 255)
    assert sum("tampered" in answer.alarms for answer in answers) >= 14
    assert all("noise" in a.why for a in answers if "tampered" in a.alarms)


def test_who_knows_of_the_guard_gets_a_smaller_total(guard: Guard) -> None:
    classifier, images = guard.observer.classifier, draw_photographs(12, 5)
    with torch.no_grad():
        predicted = classifier(images).argmax(1)
    network = guard.network

    def compute_excess(attacked: Tensor) -> float:
        standardised = network(guard.observer(attacked))[:, len(COLUMNS) :]
        limits = network.find_limits(0.05)
        return float((network.combine(standardised) - limits).clamp(min=0).detach().sum())

    plain = Pgd(8 / 255, steps=20)(Untargeted(classifier, predicted), images)
    aware = Pgd(8 / 255, steps=20)(GuardEvasion(guard, predicted), images)
    assert compute_excess(aware) < 0.7 * compute_excess(plain)


@pytest.mark.parametrize("false_alarms", [0.01, 0.02, 0.05, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("held_out", [20, 25, 50, 99, 100, 333])
def test_all_places_raise_the_same_alarms_and_never_too_many(
    guard: Guard, false_alarms: float, held_out: int
) -> None:
    network = GuardNetwork([*guard.network.signals], guard.network.decision, held_out)
    network.ranks = torch.arange(1.0, held_out + 1).repeat(len(QUESTIONS), 1)
    record = guard.record.model_copy(update={"false_alarms": false_alarms})
    other = Guard(record, network, guard.observer)
    totals = torch.arange(held_out + 1.0) + 0.5  # exceeds none of the clean images, one, … all
    ranks = (totals[:, None] > network.ranks[:1]).float().mean(1)
    columns = len(COLUMNS) + len(record.signals)
    verdicts = torch.zeros(held_out + 1, columns)
    verdicts[:, 0] = verdicts[:, 1] = ranks
    measured = find_alarms(other, verdicts, "tampered").tolist()
    assert measured == ["tampered" in trust.alarms for trust in other.read_verdicts(verdicts)]
    assert measured == (totals > network.find_limits(false_alarms)[0]).tolist()
    content = other.verdict_format.model_dump(mode="json")
    exported, older = _parse_guard(content), _parse_guard(content | {"held_out": None})
    assert exported is not None and older is not None
    rows = verdicts.numpy()
    assert measured == ["tampered" in exported.read(row)["alarms"] for row in rows]
    expected = sum(measured) / (held_out + 1)  # each rank is as probable for a clean image
    assert false_alarms - 1 / (held_out + 1) < expected <= false_alarms + 1e-9
    without = VerdictFormat.model_validate(content | {"held_out": None})
    counted = ["tampered" in without.read(row).alarms for row in verdicts.tolist()]
    assert counted == ["tampered" in older.read(row)["alarms"] for row in rows]
    above = round(held_out * (1 - false_alarms), 6)  # as exports of older versions say
    assert counted == [count > above for count in range(held_out + 1)]


def test_batches_do_not_matter(guard: Guard) -> None:
    images = draw_photographs(5, 6)
    together = guard.network(guard.observer(images))
    alone = torch.cat([guard.network(guard.observer(image[None])) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
    assert together.shape == (5, len(COLUMNS) + len(guard.record.signals))


def test_a_guard_is_kept_and_opened(guard: Guard, blobs: Classifier, tmp_path: Path) -> None:
    guard.save(tmp_path / "guard")
    opened = load_guard(tmp_path / "guard", blobs)
    images = draw_photographs(4, 7)
    assert opened.check(images) == guard.check(images)
    assert opened.record == guard.record
    assert {path.suffix for path in (tmp_path / "guard").iterdir()} <= {".json", ".safetensors"}


def test_an_interrupted_fit_goes_on(
    blobs: Classifier, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_images(photographs, channels=3)
    monkeypatch.setattr("apercu.guard.observe.PART", 40)
    fitted = fit_guard(blobs, source, tmp_path / "whole")

    def stop(title: str, done: int, total: int) -> None:
        if done == 80:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_guard(blobs, source, tmp_path / "cut", progress=stop)
    assert len(list((tmp_path / "cut" / PARTS).iterdir())) == 2
    observe, passes = Observer.observe, []

    def count(observer: Observer, images: Tensor) -> Any:
        passes.append(len(images))
        return observe(observer, images)

    monkeypatch.setattr(Observer, "observe", count)
    again = fit_guard(blobs, source, tmp_path / "cut")
    assert (
        sum(passes) == 1 + 40
    )  # one image for the kinds of signals, and the part that was missing
    assert not (tmp_path / "cut" / PARTS).exists()
    for name, tensor in fitted.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])


def test_images_that_changed_are_looked_at_again(blobs: Classifier, tmp_path: Path) -> None:
    def write(seed: int) -> Any:
        images = draw_photographs(60, seed)
        with torch.no_grad():
            write_folder(tmp_path / "images", images, torch.zeros(60))
        return open_images(tmp_path / "images", channels=3)

    first = write(30)
    with torch.no_grad():
        right = float(
            (blobs(torch.stack([i.picture for i in first])).argmax(1) == 0).float().mean()
        )
    assert right > 0.2  # enough for clean images
    before = fit_guard(blobs, first, tmp_path / "guard", seed=1)
    noise = NoiseImages(3, (SIDE, SIDE))
    measured = run_measurement(GuardMeasurement(before, first, {"noise": noise}), tmp_path / "out")
    changed = write(31)
    after = fit_guard(blobs, changed, tmp_path / "guard", seed=1)
    assert after.digest != before.digest
    again = run_measurement(GuardMeasurement(before, changed, {"noise": noise}), tmp_path / "out")
    fresh = run_measurement(GuardMeasurement(before, changed, {"noise": noise}), tmp_path / "fresh")
    assert again == fresh != measured
    swapped = GuardMeasurement(before, noise, {"photographs": changed})
    assert run_measurement(swapped, tmp_path / "out")


def test_folders_that_are_no_classes_are_no_labels(
    blobs: Classifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for day, seed in (("monday", 32), ("tuesday", 33)):
        (tmp_path / "images" / day).mkdir(parents=True)
        for index, image in enumerate(draw_photographs(30, seed)):
            pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(tmp_path / "images" / day / f"{index}.png")
    source = open_images(tmp_path / "images", channels=3)
    fitted = fit_guard(blobs, source, tmp_path / "guard")
    assert not fitted.record.calibrated
    assert "60 of 60 images have no label that is a class" in caplog.text


def test_the_confidence_is_calibrated_by_labels(guard: Guard, blobs: Classifier) -> None:
    facts = guard.record.facts
    assert guard.record.calibrated and facts["accuracy"] == 1.0
    images = draw_photographs(3, 8)
    expected = torch.softmax(blobs(images) / facts["temperature"], 1).amax(1)
    found = [answer.confidence for answer in guard.check(images)]
    assert found == pytest.approx(expected.tolist(), rel=1e-4)


def test_other_images_calibrate_the_confidence(
    blobs: Classifier, photographs: Path, tmp_path: Path
) -> None:
    images = draw_photographs(40, 11)
    with torch.no_grad():
        logits = blobs(images)
    labels = logits.argmax(1)
    labels[::3] = 1 - labels[::3]  # a third is wrong, as the classifier knows them less well
    others = open_images(write_folder(tmp_path / "others", images, labels), channels=3)
    source = open_images(photographs, channels=3)
    facts = fit_guard(blobs, source, tmp_path / "guard", calibration=others).record.facts
    order = [int(Path(name).stem) for name in others.names]
    targets = nn.functional.one_hot(labels[order], 2).float()
    expected = fit_temperature(logits[order], targets, blobs.decision)
    assert facts["temperature"] == pytest.approx(expected, rel=1e-3)
    assert facts["calibration_images"] == 40 and facts["accuracy"] == pytest.approx(26 / 40)
    few = open_images(write_folder(tmp_path / "few", images[:9], labels[:9]), channels=3)
    with pytest.raises(ImagesError, match=r"at least 20 images whose label is a class .* got 9"):
        fit_guard(blobs, source, tmp_path / "none", calibration=few)


def test_what_calibrated_a_confidence_is_said(
    guard: Guard, blobs: Classifier, photographs: Path, tmp_path: Path
) -> None:
    """By labels, by the card's temperature, or not, and then why."""
    facts = guard.record.facts
    assert guard.calibration_line.startswith(
        f"calibration error of the confidence {facts['calibration_error']:.3f}, before"
    )
    images = draw_photographs(60, 9)
    write_folder(tmp_path / "one", images, torch.zeros(60))
    unlabelled = open_images(tmp_path / "one" / "one", channels=3)
    plain = fit_guard(blobs, unlabelled, tmp_path / "plain")
    assert plain.calibration_line.endswith("as the images have no labels that are classes")
    warm = Classifier(replace(blobs.network, temperature=2.0, resolved_output=None))
    fitted = fit_guard(warm, unlabelled, tmp_path / "warm")
    assert fitted.record.calibrated and fitted.record.facts == {}
    expected = "the confidence is calibrated by the card's temperature (2.00) alone"
    assert fitted.calibration_line == expected
    (trust,) = fitted.check(images[:1])
    assert trust.confidence == pytest.approx(float(warm.predict_probabilities(images[:1]).max()))
    few = tmp_path / "few"
    with torch.no_grad():
        labels = blobs(images).argmax(1)
    write_folder(few, images[:30], labels[:30])
    (few / "monday").mkdir()
    for path in (tmp_path / "one" / "one").iterdir():
        if int(path.stem) >= 30:
            shutil.copy(path, few / "monday" / path.name)
    scarce = fit_guard(blobs, open_images(few, channels=3), tmp_path / "scarce")
    count = int(scarce.record.facts["calibration_images"])
    assert 0 < count < 20 and not scarce.record.calibrated
    assert f"as only {count} of the 20 images that were held out" in scarce.calibration_line
    assert scarce.check(images[:1])[0].confidence is None


def test_a_measurement_counts_the_images_that_the_guard_was_fitted_to(
    guard: Guard, blobs: Classifier, photographs: Path, tmp_path: Path, caplog
) -> None:
    same = open_images(photographs, channels=3)
    guard.save(tmp_path / "guard")
    opened = load_guard(tmp_path / "guard", blobs)
    mixed = write_folder(tmp_path / "mixed", draw_photographs(18, 40), torch.zeros(18))
    for path in sorted(photographs.rglob("*.png"))[:7]:
        shutil.copy(path, mixed / "one" / f"again-{path.name}")
    fresh = write_folder(tmp_path / "fresh", draw_photographs(12, 41), torch.zeros(12))

    def measure(judge: Guard, folder: Path, out: str) -> tuple[Any, str]:
        caplog.clear()
        run_measurement(GuardMeasurement(judge, open_images(folder, channels=3)), tmp_path / out)
        content = json.loads((tmp_path / out / "guard_results.json").read_text())
        return content["fitted"], (tmp_path / out / "report.html").read_text()

    claim = "that nothing was fitted to"
    fitted, page = measure(opened, mixed, "a")
    assert fitted == 7 and claim not in page
    assert "The guard was fitted to 7 of these 25 clean images" in page
    assert "the guard was fitted to 7 of the 25 clean images" in caplog.text
    fitted, page = measure(opened, fresh, "b")
    assert fitted == 0 and claim in page and "was fitted to 0" not in page and not caplog.text
    older = replace(opened, digests=None)
    older.save(tmp_path / "older")
    older = load_guard(tmp_path / "older", blobs)
    fitted, page = measure(older, mixed, "c")
    assert fitted is None and claim not in page and "does not say which images" in page
    assert measure(guard, photographs, "d")[0] == len(same)
    other = fit_guard(blobs, same, tmp_path / "other", calibration=open_images(mixed, channels=3))
    assert measure(other, mixed, "e")[0] == 25  # calibrated with them


def test_each_curve_of_a_report_is_named(guard: Guard) -> None:
    columns = len(COLUMNS) + len(guard.record.signals)
    attacks = tuple(f"pgd {number}/255" for number in range(8))
    unknown = ("noise", "films")
    rows = {name: torch.rand(5, columns) for name in ("honest", *unknown, *attacks)}
    rows["pgd 7/255"] = rows["pgd 7/255"][:0]  # fools on no image
    counts = dict.fromkeys(rows, 5)
    charts = draw_curves(guard, Verdicts(rows, counts, {}, attacks))
    for question in QUESTIONS:
        named = {c["title"]: list(c["names"]) for c in charts if c["title"].startswith(question)}
        assert named == {
            f"{question}: attacks (1 of 2)": list(attacks[:6]),
            f"{question}: attacks (2 of 2)": [attacks[6]],
            f"{question}: unknown kinds": list(unknown),
        }
    for chart in charts:
        assert chart["drawing"].count("<polyline") == len(chart["names"])
        assert 'class="rest"' not in chart["drawing"]
    assert draw_curves(guard, Verdicts({"honest": rows["honest"]}, {"honest": 5}, {})) == []


def test_images_of_an_unknown_kind_have_the_bands_of_the_classifier(
    blobs: Classifier, tmp_path: Path
) -> None:
    from astropy.io import fits

    planes = [np.full((SIDE, SIDE), value, np.float32) for value in (0.1, 0.2, 0.3)]
    stored = [fits.ImageHDU(plane, name=name) for plane, name in zip(planes, "BGR", strict=True)]
    (tmp_path / "films").mkdir()
    fits.HDUList([fits.PrimaryHDU(), *stored]).writeto(tmp_path / "films" / "a.fits")
    spec = InputSpec(size=(SIDE, SIDE), bands=("R", "G", "B"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        card = ClassifierCard(source="memory/bands", input=spec, classes=("one", "two"))
        classifier = wrap_module(Blobs(), card)
    honest = NoiseImages(3, (SIDE, SIDE))
    kind = open_kind(str(tmp_path / "films"), honest, classifier)
    assert kind[0].picture.mean((1, 2)).tolist() == pytest.approx([0.3, 0.2, 0.1])
    stored_order = open_kind(str(tmp_path / "films"), honest, blobs)
    assert stored_order[0].picture.mean((1, 2)).tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_too_few_honest_images_are_refused(guard: Guard, photographs: Path, tmp_path: Path) -> None:
    measurement = GuardMeasurement(guard, open_images(photographs, channels=3), limit=9)
    with pytest.raises(ImagesError, match=r"expected at least 10 clean images to measure .* got 9"):
        run_measurement(measurement, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_labels_no_confidence(blobs: Classifier, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index, image in enumerate(draw_photographs(60, 9)):
        pixels = (image * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    fitted = fit_guard(blobs, open_images(tmp_path / "images", channels=3), tmp_path / "guard")
    assert not fitted.record.calibrated and fitted.record.facts == {}
    assert fitted.check(draw_photographs(1, 1))[0].confidence is None


def test_what_cannot_be_judged_is_said(guard: Guard) -> None:
    verdicts = torch.full((1, len(COLUMNS) + len(guard.record.signals)), float("nan"))
    (answer,) = guard.read_verdicts(verdicts)
    assert answer.tampered is answer.unknown is answer.confidence is None
    assert not answer.is_good and "cannot be judged" in answer.why
    with pytest.raises(ImageError, match="expected pixels in"):
        guard.check(torch.full((1, 3, SIDE, SIDE), 7.0))
    with pytest.raises(ImageError, match="expected batch"):
        guard.check(torch.zeros(1, 3, SIDE, 2))
    with pytest.raises(ImageError, match=r"expected pixels"):
        guard.check(torch.full((1, 3, SIDE, SIDE), float("nan")))


def test_bad_images_and_settings(blobs: Classifier, photographs: Path, tmp_path: Path) -> None:
    source = open_images(photographs, channels=3)
    with pytest.raises(ImagesError, match=r"expected at least 60 clean images .* got 20"):
        fit_guard(blobs, source, tmp_path / "few", limit=20)
    with pytest.raises(ConfigError, match=r"false_alarms: 0.01 cannot be measured with 40 images"):
        fit_guard(blobs, source, tmp_path / "few", false_alarms=0.01)
    assert not (tmp_path / "few").exists()


def test_attacked_images_are_refused(blobs: Classifier, tmp_path: Path) -> None:
    images = draw_photographs(60, 10)
    with torch.no_grad():
        labels = blobs(images).argmax(1)
    attacked = Pgd(32 / 255, steps=10)(Untargeted(blobs, labels), images)
    folder = write_folder(tmp_path / "attacked", attacked, labels)
    source = open_images(folder, channels=3)
    with pytest.raises(ImagesError, match=r"right on \d+% of them only, as after an attack"):
        fit_guard(blobs, source, tmp_path / "guard")
    assert not (tmp_path / "guard" / "guard.json").exists()


def test_a_guard_belongs_to_its_classifier(guard: Guard, tmp_path: Path) -> None:
    folder = tmp_path / "guard"
    guard.save(folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = Blobs()
    spec = InputSpec(size=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
    stranger = wrap_module(
        other, ClassifierCard(source="memory/other", input=spec, classes=("a", "b"))
    )
    with pytest.raises(RunError, match=r"guards memory/blobs .* not memory/other"):
        load_guard(folder, stranger)
    with pytest.raises(RunError, match=r"expected a guard, found no guard.json"):
        load_guard(tmp_path, stranger)
    content = json.loads((folder / "guard.json").read_text())
    (folder / "guard.json").write_text(json.dumps(content | {"false_alarms": 0.2}))
    with pytest.raises(RunError, match="damaged, or not the file that was saved here"):
        load_guard(folder, guard.observer.classifier)


def test_the_guard_of_another_classifier_is_not_overwritten(
    guard: Guard, blobs: Classifier, photographs: Path, tmp_path: Path
) -> None:
    guard.save(tmp_path / "guard")
    before = (tmp_path / "guard" / "guard.json").read_bytes()
    other = Classifier(replace(blobs.network, temperature=2.0, resolved_output=None))
    source = open_images(photographs, channels=3)
    message = (
        r"holds the guard of memory/blobs, another classifier .*; choose another --out, or remove"
    )
    with pytest.raises(RunError, match=message):
        fit_guard(other, source, tmp_path / "guard")
    assert (tmp_path / "guard" / "guard.json").read_bytes() == before
    (tmp_path / "guard" / "guard.safetensors").write_bytes(b"damaged")
    again = fit_guard(blobs, source, tmp_path / "guard", false_alarms=0.2)  # its own
    assert load_guard(tmp_path / "guard", blobs).record == again.record != guard.record


def test_a_measurement_compares_kinds_and_goes_on(
    guard: Guard, photographs: Path, tmp_path: Path
) -> None:
    honest = open_images(photographs, channels=3)
    noise = open_kind("noise", honest, guard.observer.classifier)
    attacks: dict[Any, Any] = {
        ("fgsm", 8 / 255): Fgsm(8 / 255),
        ("aware_pgd", 8 / 255): Pgd(8 / 255),
    }
    measurement = GuardMeasurement(guard, honest, {"noise": noise}, attacks, limit=24)
    rows = run_measurement(measurement, tmp_path)
    cells = {(row.images, row.question, row.metric): row.value for row in rows}
    assert cells["noise", "either", "auroc"] == 1.0 == cells["noise", "tampered", "alarms"]
    assert cells["honest", "tampered", "alarms"] <= 0.25
    assert cells["fgsm 8/255", "tampered", "auroc"] > 0.95
    assert cells["fgsm 8/255", "tampered", "accuracy"] > 0.85
    assert cells["honest", "confidence", "accuracy"] == 1.0  # the labels are the predictions
    confidences = [a.confidence for a in guard.check(draw_photographs(120, 0))]
    gap = 1 - float(np.mean([c for c in confidences if c is not None]))
    assert cells["honest", "confidence", "calibration_error"] == pytest.approx(gap, abs=0.05)
    content = json.loads((tmp_path / "guard_results.json").read_text())
    assert len(content["rows"]) == len(rows) and content["environment"]["seed"] == 0
    page = (tmp_path / "report.html").read_text()
    assert "clean images raise an alarm" in page and "fgsm 8/255" in page
    assert "noise" in str(rows) and "<table" in rows._repr_html_()
    asked: list[str] = []
    again = run_measurement(measurement, tmp_path, progress=lambda title, *_: asked.append(title))
    assert again == rows and asked == []


def test_backgrounds_touch_no_box() -> None:
    boxes = torch.tensor([[0.0, 0.0, 60.0, 100.0]])
    part = find_background(boxes, (100, 100))
    assert part is not None
    top, left, side = part
    assert left >= 60 and 33 <= side <= 40 and top + side <= 100 and left + side <= 100
    assert find_background(torch.tensor([[0.0, 0.0, 100.0, 100.0]]), (100, 100)) is None
    assert find_background(torch.zeros(0, 4), (100, 50)) == (0, 0, 50)
    noise = NoiseImages(3, (4, 4))
    assert torch.equal(noise[3].picture, noise[3 - len(noise)].picture)
    with pytest.raises(IndexError):
        noise[len(noise)]


def test_every_question_has_signals(guard: Guard) -> None:
    assert {kind.question for kind in guard.network.kinds} == set(QUESTIONS)
    assert {NOISE.name, COLOUR_NOISE.name} <= set(guard.record.signals)


def test_a_guard_opened_in_inference_mode_is_attacked(
    guard: Guard, blobs: Classifier, photographs: Path, tmp_path: Path
) -> None:
    honest = open_images(photographs, channels=3)
    guard.save(tmp_path / "guard")
    attacks: dict[Any, Any] = {("aware_pgd", 0.05): Pgd(0.05, steps=2)}
    with torch.inference_mode():
        opened = load_guard(tmp_path / "guard", blobs)
        rows = run_measurement(GuardMeasurement(opened, honest, {}, attacks, 10), tmp_path / "out")
    again = run_measurement(GuardMeasurement(guard, honest, {}, attacks, 10), tmp_path / "again")
    assert rows == again


def test_images_that_cannot_be_read_are_left_out(
    blobs: Classifier, photographs: Path, damage_images: Any, tmp_path: Path
) -> None:
    source, lines = open_images(photographs, channels=3), list[str]()
    damaged, whole = damage_images(source, {5, 70}), damage_images(source, range(len(source)))
    few = damage_images(ChosenImages(source, tuple(range(14))), {5, 9})
    with redirect_warnings(lines.append):
        guard = fit_guard(blobs, damaged, tmp_path / "guard")
        attacks: dict[Any, Any] = {("fgsm", 0.1): Fgsm(0.1)}
        measurement = GuardMeasurement(guard, few, {"others": few}, attacks)
        rows = run_measurement(measurement, tmp_path / "out")
    record = load_guard(tmp_path / "guard", blobs).record
    assert record.left_out == {source.name: [source.names[5], source.names[70]]}
    assert record.fitted + record.held_out == 118
    content = json.loads((tmp_path / "out" / "guard_results.json").read_text())
    assert content["left_out"] == {source.name: [source.names[5], source.names[9]]}
    assert source.names[9] in (tmp_path / "out" / "report.html").read_text()
    assert {row.n for row in rows if row.images in ("honest", "others")} == {12}
    about = [line.split(": ")[1] for line in lines if "left out" in line]
    count = "{} images cannot be read and are left out, the first because " + source.names[5]
    assert about == [count.format("2 of 120"), *[count.format("2 of 14")] * 2]
    for run in (
        lambda: fit_guard(blobs, whole, tmp_path / "none"),
        lambda: fit_guard(blobs, source, tmp_path / "none", calibration=whole),
        lambda: run_measurement(GuardMeasurement(guard, whole), tmp_path / "none"),
        lambda: run_measurement(GuardMeasurement(guard, few, {"o": whole}), tmp_path / "none"),
    ):
        with pytest.raises(ImageError, match=r"png: damaged or cut short$"):
            run()
    few = damage_images(ChosenImages(source, tuple(range(60))), {5})
    with pytest.raises(ImagesError, match=r"at least 60 clean images .* got 59"):
        fit_guard(blobs, few, tmp_path / "few", false_alarms=0.2)
