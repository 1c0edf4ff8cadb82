"""Fit a guard to honest images of a classifier, part by part, and keep it in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.calibration import fit_temperature, measure_reliability
from apercu.devices import enable_gradients
from apercu.errors import ConfigError, ImagesError, RunError, describe_interrupt, name_images
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.run_folder import digest_run
from apercu.guard.guard import Guard, GuardRecord, read_guard_record
from apercu.guard.network import GuardNetwork
from apercu.guard.observe import (
    BATCH,
    FEWEST_LABELS,
    Classified,
    Observer,
    classify_images,
    digest_batches,
    digest_images,
    find_labels,
)
from apercu.guard.signals import DEEP_FEATURES, SignalKind, fit_signal, list_kinds
from apercu.guard.summaries import Observation
from apercu.images import Batch, ImageSource
from apercu.images.stream import SkippingReader, list_left_out
from apercu.io import check_writable, write_file
from apercu.log import warn
from apercu.option_strings import MAX_SEED
from apercu.progress import ProgressCallback, show_in_notebook
from apercu.run_record import lock_folder
from apercu.statistics import wilson_interval

PARTS: Final = "observed"
"""Folder of what was observed, which makes an interrupted fit go on."""
DIGESTS: Final = "digests"
"""Name of the digests of images in a file in `PARTS`."""
PART: Final = 128
"""Images of one file in `PARTS`."""
FEWEST: Final = 60
"""Smallest number of honest images."""
HELD_OUT: Final = 1 / 3
"""Fraction of the images that no signal is fitted to; they say what is usual."""
TITLE: Final = "honest images"
LEAST_ACCURACY: Final = 0.1
"""Accuracy, or chance where that is larger, below which images are not honest."""


class GuardSettings(BaseModel):
    """How a guard is fitted.

    Attributes:
        false_alarms: fraction of honest images that may raise an alarm, for each question.
        limit: largest number of images, drawn at random.
        seed: seed of the draw and of the split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    false_alarms: float = Field(0.05, gt=0, lt=0.5)
    limit: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, le=MAX_SEED)


DEFAULT_SETTINGS: Final = GuardSettings()


@enable_gradients()
def fit_guard(
    classifier: Classifier,
    source: ImageSource,
    out: str | Path,
    *,
    explainer: TrainedExplainer[Any, Any] | None = None,
    calibration: ImageSource | None = None,
    settings: GuardSettings = DEFAULT_SETTINGS,
    progress: ProgressCallback | None = None,
) -> Guard:
    """Learn from honest images alone what is usual for a classifier, and write it to a folder.

    Two thirds of the images fit the signals; the others, which no signal was fitted to, say what
    is usual, set the thresholds, and with labels the temperature of the confidence; without
    labels the confidence is that of the card's temperature, where the card has one. A classifier
    is too sure of images that it was trained on, so their temperature is too low: where `source`
    holds such images, others can set it. What was observed is kept, so that the same call after an
    interruption goes on.

    Args:
        classifier: the classifier that is guarded.
        source: honest images; labels are used for the confidence where there are any.
        out: folder of the guard.
        explainer: an explainer that was trained for the classifier. Its encoder is observed, and
            its masks of the predicted classes are a further signal.
        calibration: images with labels that the classifier was not trained on, which alone set the
            temperature; None for those of `source` that no signal is fitted to.
        settings: how many false alarms there may be, and which images are used.
        progress: receives a title, the number of finished images, and that of all; None shows it
            in notebooks only.

    Returns:
        The guard.

    Raises:
        ImageError: no image can be read; some that cannot are left out with a warning.
        ImagesError: there are too few images, or too few labels to calibrate with, or labels show
            that the classifier is wrong on almost all images, as on attacked ones. Without labels
            nothing shows this.
        ConfigError: there are too few images for so few false alarms.
        RunError: the explainer was trained for another classifier, another process works in the
            folder, or it holds the guard of another classifier.
        OutputError: the folder cannot be written.
    """
    classifier.require_classes()
    out = Path(out)
    chosen = _choose_images(len(source), source.name, settings)
    check_writable(out)
    _check_own_folder(out, classifier)
    observer = Observer(classifier, explainer)
    kept = describe_interrupt(f"{out} keeps what was observed; the same call goes on")
    with kept, lock_folder(out), show_in_notebook(progress) as report:
        run = None if explainer is None else digest_run(explainer)
        key = f"{classifier.fingerprint} {run}"
        readers = [SkippingReader(each) for each in (source, calibration) if each is not None]
        known = None if calibration is None else _classify(observer, readers[1], report)
        observed = _observe_all(observer, readers[0], chosen, out / PARTS, key, report)
        _check_count(len(observed.images.labels), source.name, settings)
        _check_honest(observed, source)
        guard = _fit(observer, observed, readers, settings, run, known)
        guard.save(out)
        shutil.rmtree(out / PARTS, ignore_errors=True)
    return guard


def _check_own_folder(out: Path, classifier: Classifier) -> None:
    """Raise RunError if a folder holds the guard of another classifier."""
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


def _classify(observer: Observer, reader: SkippingReader, report: ProgressCallback) -> Classified:
    """Classify the images that calibrate the confidence."""
    classified = classify_images(observer, reader, report)
    if (known := int((classified.labels >= 0).sum())) < FEWEST_LABELS:
        raise ImagesError(
            f"{reader.source.name}: expected at least {FEWEST_LABELS} images whose label is a "
            f"class of the classifier, to calibrate with, got {known}"
        )
    return classified


class _Observed(NamedTuple):
    """Summaries of all signals, and what is known of the images, in their random order."""

    kinds: list[SignalKind]
    summaries: list[Tensor]
    images: Classified


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
            f"{name}: expected at least {FEWEST} honest images to learn what is usual, got {count}"
        )
    held_out = count - _count_fitted(count)
    if held_out * settings.false_alarms < 1:
        raise ConfigError(
            f"false_alarms: {settings.false_alarms:g} cannot be measured with {held_out} images "
            f"that are held out; expected at least {1 / held_out:.3g}, or more images"
        )


def _count_fitted(count: int) -> int:
    return count - int(count * HELD_OUT)


def _check_honest(observed: _Observed, source: ImageSource) -> None:
    """Raise ImagesError if labels show that the classifier is wrong on almost all images.

    A warning says how much cannot be judged: labels that are no classes, and layers.
    """
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
    logits, labels = observed.images.select_labelled()
    if not len(labels):
        return  # nothing tells
    correct = (logits.argmax(1) == labels).double().numpy()
    if wilson_interval(correct)[1] < max(LEAST_ACCURACY, 1 / logits.shape[1]):
        raise ImagesError(
            f"{source.name}: the classifier is right on {correct.mean():.0%} of them only, as "
            "after an attack; expected honest images that it knows"
        )


def _observe_all(
    observer: Observer,
    reader: SkippingReader,
    chosen: Sequence[int],
    folder: Path,
    key: str,
    report: ProgressCallback,
) -> _Observed:
    """Observe images part by part; parts that are in the folder are not observed again."""
    kinds: list[SignalKind] = []
    parts: list[dict[str, Tensor]] = []
    report(TITLE, 0, len(chosen))
    for start in range(0, len(chosen), PART):
        indices = chosen[start : start + PART]
        prepare = observer.classifier.prepare
        if not (read := list(reader.read_batches(prepare, BATCH, indices=indices))):
            continue
        path = folder / f"{digest_batches(read, key)}.safetensors"
        if not kinds:
            kinds = list_kinds(observer(read[0].images[:1]), observer.classifier.network)
        part = _load_part(path, kinds)
        if part is None:
            part = _observe_part(observer, reader.source, read, kinds)
            write_file(path, save(part))
        parts.append(part)
        report(TITLE, start + len(indices), len(chosen))
    reader.warn_left_out()
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    summaries = [joined[kind.name] for kind in kinds]
    images = Classified(joined["logits"], joined["labels"], joined[DIGESTS])
    return _Observed(kinds, summaries, images)


def _load_part(path: Path, kinds: Sequence[SignalKind]) -> dict[str, Tensor] | None:
    """Return what was observed before; None where there is nothing, or not all signals."""
    try:
        part = load(path.read_bytes())
    except (OSError, SafetensorError, ValueError):
        return None
    return part if {DIGESTS, *(kind.name for kind in kinds)} <= part.keys() else None


def _observe_part(
    observer: Observer, source: ImageSource, read: Sequence[Batch], kinds: Sequence[SignalKind]
) -> dict[str, Tensor]:
    classifier, numbers = observer.classifier, dict[str, list[Tensor]]()
    labels: list[int] = []
    for batch in read:
        with name_images(batch.names):
            observation = observer(batch.images)
        for name, values in _summarise(observation, kinds):
            numbers.setdefault(name, []).append(values.float().cpu())
        labels += find_labels(classifier, source, batch.labels)
    part = {name: torch.cat(values).contiguous() for name, values in numbers.items()}
    digests = torch.cat([digest_images(batch.images) for batch in read])
    return part | {"labels": torch.tensor(labels), DIGESTS: digests}


def _summarise(
    observation: Observation, kinds: Sequence[SignalKind]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the numbers of each signal by its name, and the logits."""
    for kind in kinds:
        yield kind.name, kind.summarise(observation)
    yield "logits", observation.logits


def _fit(
    observer: Observer,
    observed: _Observed,
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
    observed: _Observed, source: ImageSource, classifier: Classifier, fitted: int
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
