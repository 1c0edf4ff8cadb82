"""Fit a guard to clean images of a classifier, part by part, and keep it in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F

from apercu.classifiers import Classifier
from apercu.classifiers.calibration import fit_temperature, measure_reliability
from apercu.classifiers.decisions import Decision
from apercu.devices import enable_gradients
from apercu.errors import ConfigError, ImagesError, RunError, describe_interrupt
from apercu.explainers.base import AnyExplainer
from apercu.explainers.run_folder import digest_run, open_both
from apercu.guard.guard import Guard, GuardRecord, read_guard_record
from apercu.guard.network import GuardNetwork
from apercu.guard.observe import (
    FEWEST_LABELS,
    PARTS,
    Classified,
    ObservedImages,
    Observer,
    classify_images,
    observe_images,
)
from apercu.guard.signals import DEEP_FEATURES, fit_signal
from apercu.guard.use import check_attachable, name_in_card
from apercu.images import ImageSource, check_images
from apercu.images.stream import SkippingReader, list_left_out
from apercu.io import check_digests, check_writable
from apercu.log import warn
from apercu.networks.gate import GatedNetwork
from apercu.option_strings import MAX_SEED
from apercu.progress import ProgressCallback, ProgressOption, open_progress
from apercu.run_record import lock_folder
from apercu.statistics import wilson_interval
from apercu.verdicts import GUARD_FILES, GUARD_FOLDER

FEWEST: Final = 60
"""Smallest number of clean images."""
HELD_OUT: Final = 1 / 3
"""Fraction of the images that no signal is fitted to; they say what is usual."""
LEAST_ACCURACY: Final = 0.1
"""Accuracy, or chance where that is larger, below which images are not honest."""
LEAST_TRUTH: Final = 0.4
"""Accuracy, as a fraction of the mean probability of the predictions, below which images are not
honest: one step of an attack leaves up to a fifth, and clean photographs have 0.8 or more."""


class GuardSettings(NamedTuple):
    """How a guard is fitted.

    Attributes:
        false_alarms: fraction of clean images that may raise an alarm, for each question.
        limit: largest number of images, drawn at random; None for all.
        seed: seed of the draw and of the split.
    """

    false_alarms: float
    limit: int | None
    seed: int


@enable_gradients()
def fit_guard(
    classifier: Classifier | str | Path,
    images: ImageSource | str | Path,
    out: str | Path,
    *,
    explainer: AnyExplainer | str | Path | None = None,
    calibration: ImageSource | str | Path | None = None,
    false_alarms: float = 0.05,
    limit: int | None = None,
    seed: int = 0,
    attach: bool = False,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
) -> Guard:
    """Learn from clean images alone what is usual for a classifier, as `apercu guard fit` does.

    Two thirds of the images fit the signals; the others, which no signal was fitted to, say what
    is usual, set the thresholds, and with labels the temperature of the confidence; without
    labels the confidence is that of the card's temperature, where the card has one. A classifier
    is too sure of images that it was trained on, so their temperature is too low: where `images`
    are such images, others can set it. What was observed is kept, so that the same call after an
    interruption goes on.

    >>> import apercu
    >>> guard = apercu.fit_guard(  # doctest: +SKIP
    ...     "runs/films/card.json", "films/", "runs/films/guard", attach=True
    ... )
    >>> guard.check([picture])[0].alarms  # doctest: +SKIP
    ()

    Args:
        classifier: the classifier or its SPEC.
        images: clean images, at least 60; labels are used for the confidence where there are any.
        out: folder of the guard.
        explainer: an explainer with an encoder that was trained for the classifier, or its run
            folder. Its encoder is observed; the masks of a mask explainer, for the predicted
            classes, are a further signal.
        calibration: images with labels that the classifier was not trained on, which alone
            calibrate the confidence; None for those of `images` that no signal is fitted to.
        false_alarms: fraction of clean images that may raise an alarm, for each question.
        limit: largest number of images, drawn at random; None for all.
        seed: seed of the draw and of the split.
        attach: whether the card of the classifier names the guard from now on.
        device: `auto`, `cpu`, `cuda` or `mps`, where the classifier computes.
        trust: whether a card or a run may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.

    Returns:
        The guard.

    Raises:
        ImageError: no image can be read; some that cannot are left out with a warning.
        ImagesError: there are too few images, or too few labels to calibrate with, or labels show
            that the classifier is wrong on almost all images, or far more often than its
            probabilities say, as on attacked ones. Without labels nothing shows this.
        ConfigError: a number is out of range, there are too few images for so few false alarms,
            the explainer has no encoder, or the guard is not in the folder of the card.
        RunError: the explainer was trained for another classifier, another process works in the
            folder, or it holds a run, a saved classifier, the guard of another one, or without
            `explainer` a guard that was fitted with one.
        OutputError: the folder cannot be written.
    """
    settings, out = _make_settings(false_alarms, limit, seed), Path(out)
    check_images(images, calibration)
    card = check_attachable(classifier, out) if attach else None
    opened, explainer = open_both(classifier, explainer, device=device, trust=trust)
    source = opened.open_images(images)
    others = None if calibration is None else opened.open_images(calibration)
    opened.require_classes()
    _check_observable(explainer)
    chosen = _choose_images(len(source), source.name, settings)
    check_writable(out)
    _check_own_folder(out, opened, explainer)
    observer = Observer(opened, explainer)
    kept = describe_interrupt(f"{out} keeps what was observed; the same call goes on")
    with kept, lock_folder(out), open_progress(progress) as report:
        run = None if explainer is None else digest_run(explainer)
        key = f"{opened.fingerprint} {run}"
        readers = [SkippingReader(each) for each in (source, others) if each is not None]
        known = None if others is None else _classify(observer, readers[1], report)
        observed = observe_images(observer, readers[0], chosen, out / PARTS, key, report)
        _check_count(len(observed.images.labels), source.name, settings)
        _warn_of_gaps(observed, source)
        _check_accuracy(observed.images, source.name, opened.decision)
        guard = _fit(observer, observed, readers, settings, run, known)
        guard.save(out)
        shutil.rmtree(out / PARTS, ignore_errors=True)
    if card is not None:
        name_in_card(card, out)
    return guard


def _make_settings(false_alarms: float, limit: int | None, seed: int) -> GuardSettings:
    """Return the settings of a fit; raise ConfigError for a number that is out of range."""
    if not 0 < false_alarms < 0.5:
        raise ConfigError(
            f"false_alarms: expected a fraction above 0 and below 0.5, got {false_alarms:g}"
        )
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected at least 1 image, got {limit}")
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed: expected a number from 0 to {MAX_SEED}, got {seed}")
    return GuardSettings(false_alarms=false_alarms, limit=limit, seed=seed)


def _check_observable(explainer: AnyExplainer | None) -> None:
    """Raise ConfigError for an explainer without an encoder: nothing of it can be observed."""
    if explainer is not None and not isinstance(explainer.network, GatedNetwork):
        raise ConfigError(
            f"explainer: a {explainer.kind} explainer has no encoder that could be observed; leave "
            "it out, or give a run of another kind"
        )


def _check_own_folder(out: Path, classifier: Classifier, explainer: AnyExplainer | None) -> None:
    """Raise RunError if a folder holds a run, a saved classifier, or a guard of something else."""
    check_digests(out, GUARD_FILES, "a guard", f"--out {out / GUARD_FOLDER}")
    try:
        record = read_guard_record(out)
    except RunError:  # there is none, or it is damaged and is to be fitted again
        return
    if record.fingerprint != classifier.fingerprint:
        raise RunError(
            f"{out}: holds the guard of {record.classifier}, another classifier (fingerprint "
            f"{record.fingerprint[:12]}, not {classifier.fingerprint[:12]}); choose another --out, "
            "or remove it"
        )
    if record.run is not None and explainer is None:
        raise RunError(
            f"{out}: holds a guard that was fitted with an explainer, which would be lost; give "
            "--explainer, choose another --out, or remove it"
        )


def _classify(observer: Observer, reader: SkippingReader, report: ProgressCallback) -> Classified:
    """Classify the images that calibrate the confidence."""
    classified = classify_images(observer, reader, report)
    if (known := int((classified.labels >= 0).sum())) < FEWEST_LABELS:
        raise ImagesError(
            f"{reader.source.name}: expected at least {FEWEST_LABELS} images whose label is a "
            f"class of the classifier, to calibrate with, got {known}"
        )
    _check_accuracy(classified, reader.source.name, observer.classifier.decision)
    return classified


def _choose_images(count: int, name: str, settings: GuardSettings) -> list[int]:
    """Return the indices of the images in a random order."""
    _check_count(min(count, settings.limit or count), name, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    chosen: list[int] = torch.randperm(count, generator=generator)[: settings.limit].tolist()
    return chosen


def _check_count(count: int, name: str, settings: GuardSettings) -> None:
    """Raise an error if there are too few images, at first of all, then of those that were read."""
    if count < FEWEST:
        raise ImagesError(
            f"{name}: expected at least {FEWEST} clean images to learn what is usual, got {count}"
        )
    held_out = count - _count_fitted(count)
    if held_out * settings.false_alarms < 1:
        raise ConfigError(
            f"false_alarms: {settings.false_alarms:g} cannot be measured with {held_out} images "
            f"that are held out; expected at least {1 / held_out:.3g}, or more images"
        )


def _count_fitted(count: int) -> int:
    return count - int(count * HELD_OUT)


def _warn_of_gaps(observed: ObservedImages, source: ImageSource) -> None:
    """Warn of what cannot be judged: images whose labels are no classes, and layers."""
    count = len(observed.images.labels)
    if (missing := int((observed.images.labels < 0).sum())) and source.labelled:
        warn(
            f"{source.name}: {missing} of {count} images have no label that is a class, and do not "
            "calibrate the confidence"
        )
    if not any(kind.name == DEEP_FEATURES.name for kind in observed.kinds):
        warn(
            "the classifier shows no layers, so unknown images are judged by the logits alone; "
            "give --explainer"
        )


def _check_accuracy(images: Classified, name: str, decision: Decision) -> None:
    """Raise ImagesError if labels show that the classifier is wrong on almost all images.

    So it is where it is right far less often than its own probabilities say, as after one step of
    an attack, which leaves some predictions right by chance.
    """
    logits, labels = images.select_labelled()
    if not len(labels):
        return  # nothing tells
    sureness = float(decision.probabilities(logits).amax(1).mean())
    correct = (logits.argmax(1) == labels).double().numpy()
    least = max(LEAST_ACCURACY, 1 / logits.shape[1], LEAST_TRUTH * sureness)
    if wilson_interval(correct)[1] < least:
        raise ImagesError(
            f"{name}: the classifier is right on {correct.mean():.0%} of them only, as after an "
            f"attack, while its probabilities promise {sureness:.0%}; expected clean images that "
            "it knows"
        )


def _fit(
    observer: Observer,
    observed: ObservedImages,
    readers: Sequence[SkippingReader],
    settings: GuardSettings,
    run: str | None,
    calibration: Classified | None,
) -> Guard:
    """Fit a guard to what was observed, and calibrate its confidence."""
    classifier, source = observer.classifier, readers[0].source
    count = len(observed.images.logits)
    fitted = _count_fitted(count)
    network = _fit_network(observed, source, classifier, fitted)
    labelled = calibration or observed.images.leave_out(fitted)
    facts = _calibrate_confidence(network, classifier, labelled)
    is_value = classifier.output.name == "value"
    has_confidence = "temperature" in facts or classifier.output.temperature is not None
    record = GuardRecord(
        classifier=classifier.spec,
        fingerprint=classifier.fingerprint,
        run=run,
        signals=tuple(kind.name for kind in observed.kinds),
        false_alarms=settings.false_alarms,
        calibrated=has_confidence and not is_value,
        images=source.name,
        fitted=fitted,
        held_out=count - fitted,
        facts=facts,
        left_out=list_left_out(*readers),
    )
    digests = [observed.images.digests, *([] if calibration is None else [calibration.digests])]
    return Guard(record, network, observer, torch.unique(torch.cat(digests)))


def _fit_network(
    observed: ObservedImages, source: ImageSource, classifier: Classifier, fitted: int
) -> GuardNetwork:
    """Fit each signal to the first images, and learn from the others which values are usual."""
    pairs = list(zip(observed.kinds, observed.summaries, strict=True))
    for kind, summary in pairs:
        if not bool(summary.isfinite().all()):
            raise ImagesError(
                f"{source.name}: {kind.name} is no finite number for some images, so they cannot "
                "say what is usual"
            )
    signals = [fit_signal(kind, summary[:fitted]) for kind, summary in pairs]
    count = len(observed.images.logits)
    network = GuardNetwork(signals, classifier.decision, count - fitted).eval()
    scores = [
        signal.measure(summary[fitted:])
        for signal, summary in zip(signals, observed.summaries, strict=True)
    ]
    network.calibrate(torch.stack(scores, 1))
    return network


def _calibrate_confidence(
    network: GuardNetwork, classifier: Classifier, images: Classified
) -> dict[str, float]:
    """Fit the temperature of the confidence, and measure its error by two halves.

    Args:
        network: receives the temperature.
        classifier: the classifier.
        images: images to which no signal was fitted.

    Returns:
        What was measured; nothing where no class is known, and only the number of images whose
        class is known where it is too small.
    """
    logits, labels = images.select_labelled()
    if len(labels) < FEWEST_LABELS:
        return {"calibration_images": float(len(labels))} if len(labels) else {}
    targets = F.one_hot(labels, logits.shape[1]).to(logits)
    decision = classifier.decision
    correct = logits.argmax(1) == labels
    before, after = decision.probabilities(logits), torch.zeros_like(logits)
    half = torch.arange(len(labels)) % 2 == 0
    for part in (half, ~half):  # each half is measured with the temperature of the other
        temperature = fit_temperature(logits[~part], targets[~part], decision)
        after[part] = decision.probabilities(logits[part] / temperature)
    temperature = fit_temperature(logits, targets, decision)
    network.temperature.fill_(temperature)
    earlier, later = (
        measure_reliability(probabilities, targets, is_multiple=False)
        for probabilities in (before, after)
    )
    return {
        "accuracy": float(correct.float().mean()),
        "temperature": temperature,
        "calibration_images": float(len(labels)),
        "calibration_error_before": earlier.error,
        "calibration_error": later.error,
        "calibration_error_by_chance": later.chance_error,
    }
