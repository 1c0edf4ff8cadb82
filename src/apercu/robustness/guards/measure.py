"""How well a guard recognises attacked and unknown images, and how often it is wrong on clean
ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.devices import enable_gradients
from apercu.errors import ConfigError, ImagesError, describe_interrupt, name_images
from apercu.evaluation.cost import describe_environment
from apercu.evaluation.sample import split_indices
from apercu.explainers.base import AnyExplainer
from apercu.filters import NONE
from apercu.guard.guard import Guard
from apercu.guard.observe import BATCH, digest_batches, digest_images, find_labels
from apercu.guard.use import open_guard
from apercu.images import ImageSource, check_images
from apercu.images.stream import SkippingReader, list_left_out
from apercu.io import check_writable, keep_tensors, write_json
from apercu.log import warn
from apercu.option_strings import split_names
from apercu.progress import ProgressCallback, ProgressOption, open_progress
from apercu.robustness.attacks import Attack
from apercu.robustness.detection.features import parse_class_attacks
from apercu.robustness.guards.kinds import open_kind
from apercu.robustness.guards.results import CLEAN, GuardRows, Verdicts, compute_rows
from apercu.robustness.jobs import AttackKey, expand_budgets, name_attack
from apercu.robustness.objectives import AttackObjective, BatchFlags, GuardEvasion, Untargeted
from apercu.robustness.plan import (
    CLASS_ATTACKS,
    DEFAULT_EPSILONS,
    adapt_attacks,
    parse_epsilons,
)
from apercu.robustness.unknown.results import name_image_sets
from apercu.run_record import lock_folder
from apercu.types import Images, Logits

RESULTS: Final = "guard_results.json"
VERDICTS: Final = "verdicts"
"""Folder of what the guard said of each image, which makes an interrupted measurement go on."""
FEWEST: Final = 10
"""Smallest number of clean images."""
AWARE: Final = "aware_"
"""Beginning of the names of attacks that know of the guard."""


@dataclass(frozen=True, eq=False)
class GuardMeasurement:
    """A guard, clean images, and the images that it should recognise.

    Args:
        guard: the guard.
        clean: clean images that it was not fitted to; a warning counts the others.
        unknown: images of unknown kinds, by name.
        attacks: attacks by name and budget; names that begin with `aware_` know of the guard.
        limit: largest number of images of each kind, drawn at random.
        seed: seed of all draws.
    """

    guard: Guard
    clean: ImageSource
    unknown: Mapping[str, ImageSource] = field(default_factory=dict)
    attacks: Mapping[AttackKey, Attack] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if CLEAN in self.unknown:
            raise ConfigError(f"unknown: {CLEAN} is the name of the clean images; rename it")


def measure_guard(
    classifier: Classifier | str | Path,
    images: ImageSource | str | Path,
    out: str | Path,
    *,
    guard: Guard | str | Path | None = None,
    explainer: AnyExplainer | str | Path | None = None,
    unknown: Sequence[str] | Mapping[str, ImageSource | str] = (),
    attacks: str | None = None,
    epsilons: str = DEFAULT_EPSILONS,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
    command: str = "",
) -> GuardRows:
    """Measure how often a guard is wrong on clean images, and what it recognises.

    >>> import apercu
    >>> rows = apercu.measure_guard(  # doctest: +SKIP
    ...     "runs/films/card.json", "new/", "measured", unknown=["noise", "photographs/"]
    ... )

    Args:
        classifier: the classifier or its SPEC.
        images: clean images that the guard was not fitted to, at least 10.
        out: folder of the results; what is finished there is not measured again.
        guard: a guard or its folder; None for the one that the card names.
        explainer: the explainer that the guard was fitted with, or its run folder.
        unknown: images of other kinds, which should be recognised, as SPECs or by name; `noise` is
            made, `backgrounds` are parts of the clean images outside of their boxes.
        attacks: attacks such as `fgsm,aware_pgd:steps=20`, or `none`; None for `fgsm,pgd`, which a
            classifier without gradients is spared.
        epsilons: budgets, for the attacks that have one.
        limit: largest number of images of each kind, drawn at random; None for all.
        seed: seed of the draws and of the attacks.
        device: `auto`, `cpu`, `cuda` or `mps`, where the classifier computes.
        trust: whether a card or a run may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        command: command line that the results name.

    Returns:
        The rows of `guard_results.json`; attacks that fool with no image have none.

    Raises:
        ConfigError: no guard is named, or an attack or a budget is misspelt.
        ClassifierError: an attack that is named needs gradients that are missing.
        ImageError: no image of a kind can be read; some that cannot are left out with a warning.
        ImagesError: there are too few clean images.
        RunError: the guard is damaged, or belongs to another classifier or explainer.
        OutputError: the folder cannot be written.
    """
    named: Mapping[AttackKey, Attack] = {}
    if attacks != NONE:
        budgets = parse_epsilons(epsilons)
        named = parse_guard_attacks(CLASS_ATTACKS if attacks is None else attacks, budgets, seed)
    kinds = unknown if isinstance(unknown, Mapping) else name_image_sets(unknown)
    check_images(images)
    chosen = open_guard(classifier, guard, explainer, device=device, trust=trust)
    opened = chosen.observer.classifier
    bare = tuple(dict.fromkeys(name.removeprefix(AWARE) for name, _ in named))
    if adapt_attacks(bare, opened, chosen=attacks is not None) != bare:
        warn(f"{opened.spec} has no gradients, so it is not attacked; choose attacks")
        named = {}
    source = opened.open_images(images)
    sources = {
        name: kind if isinstance(kind, ImageSource) else open_kind(kind, source, opened)
        for name, kind in kinds.items()
    }
    measurement = GuardMeasurement(chosen, source, sources, named, limit, seed)
    return run_measurement(measurement, out, progress=progress, command=command)


@enable_gradients()
def run_measurement(
    measurement: GuardMeasurement,
    out: str | Path,
    *,
    progress: ProgressOption = None,
    command: str = "",
) -> GuardRows:
    """Ask a guard about clean, attacked and unknown images, and write results and a report.

    Args:
        measurement: the guard and the images.
        out: folder of the results; kinds of images that are there already are not measured again.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        command: command line that the results name.

    Returns:
        The rows; attacks that fool with no image have none.

    Raises:
        ClassifierError: an attack needs gradients that are missing.
        ImageError: no image of a kind can be read; some that cannot are left out with a warning.
        ImagesError: there are fewer than 10 clean images.
        RunError: another process works in the folder.
        OutputError: the folder cannot be written.
    """
    from apercu.robustness.guards.report import write_guard_report

    out = Path(out)
    _check_count(measurement, len(_choose(measurement, measurement.clean)))
    check_writable(out)
    readers = {CLEAN: SkippingReader(measurement.clean)}
    readers |= {name: SkippingReader(source) for name, source in measurement.unknown.items()}
    kept = describe_interrupt(f"{out} keeps what is finished; the same call goes on")
    with kept, lock_folder(out), open_progress(progress) as report:
        verdicts = collect_verdicts(measurement, readers, out / VERDICTS, report)
        if verdicts.fitted:
            warn(
                f"{measurement.clean.name}: the guard was fitted to {verdicts.fitted} of the "
                f"{verdicts.counts[CLEAN]} clean images, so false alarms come out too low; take "
                "other images"
            )
        rows = compute_rows(measurement.guard, verdicts, measurement.seed)
        device = measurement.guard.observer.classifier.device
        content: dict[str, Any] = {
            "guard": measurement.guard.record.model_dump(mode="json"),
            "images": {
                CLEAN: measurement.clean.name,
                **{name: source.name for name, source in measurement.unknown.items()},
            },
            "fitted": verdicts.fitted,
            "command": command,
            "environment": describe_environment(measurement.seed, device),
            "rows": [row._asdict() for row in rows],
        }
        if left_out := list_left_out(*readers.values()):
            content["left_out"] = left_out
        write_json(out / RESULTS, content)
        write_guard_report(measurement.guard, verdicts, rows, out, content)
    return rows


def _check_count(measurement: GuardMeasurement, count: int) -> None:
    """Raise ImagesError for too few clean images, at first of all, then of those that are read."""
    if count < FEWEST:
        raise ImagesError(
            f"{measurement.clean.name}: expected at least {FEWEST} clean images to measure false "
            f"alarms with, got {count}"
        )


def collect_verdicts(
    measurement: GuardMeasurement,
    readers: Mapping[str, SkippingReader],
    folder: Path,
    report: ProgressCallback,
) -> Verdicts:
    """Ask the guard about all images; verdicts that are in the folder are not asked for again.

    Args:
        measurement: the guard and the images.
        readers: the readers of the images of each kind; attacks change the clean ones.
        folder: folder of the verdicts.
        report: receives a title, the number of finished images, and that of all.

    Returns:
        The verdicts on the images that can be read.
    """
    rows: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    clean: dict[str, Tensor] = {}
    digests: list[Tensor] = []
    kinds: dict[str, tuple[SkippingReader, AttackKey | None]]
    kinds = {name: (reader, None) for name, reader in readers.items()}
    kinds |= {name_attack(key): (readers[CLEAN], key) for key in measurement.attacks}
    for name, (reader, key) in kinds.items():
        digest, image_digests = _digest_kind(measurement, reader, key, name)
        reader.warn_left_out()
        if name == CLEAN:
            _check_count(measurement, len(reader.readable))
            digests = image_digests
        part = keep_tensors(
            folder / f"{digest}.safetensors",
            partial(_ask, measurement, reader, key, name, report),
        )
        fooled = part["fooled"].bool()
        if name == CLEAN:
            clean = {figure: part[figure] for figure in ("correct", "before")}
        counts[name] = len(fooled)
        rows[name] = part["verdicts"][fooled] if key is not None else part["verdicts"]
    known = measurement.guard.digests
    fitted = None if known is None else int(torch.isin(torch.cat(digests), known).sum())
    return Verdicts(rows, counts, clean, tuple(map(name_attack, measurement.attacks)), fitted)


def _digest_kind(
    measurement: GuardMeasurement, reader: SkippingReader, key: AttackKey | None, name: str
) -> tuple[str, list[Tensor]]:
    """Read all images of a kind; return a digest of what is asked, and those of clean images."""
    attack = None if key is None else measurement.attacks[key]
    subject = repr((measurement.guard.digest, name == CLEAN, key, attack))
    sha = hashlib.sha256(subject.encode())
    image_digests: list[Tensor] = []
    chosen = _choose(measurement, reader.source)
    prepare = measurement.guard.observer.classifier.prepare
    for batch in reader.read_batches(prepare, BATCH, indices=chosen):
        sha.update(digest_batches([batch], "").encode())
        if name == CLEAN:
            image_digests.append(digest_images(batch.images))
    return sha.hexdigest()[:20], image_digests


def parse_guard_attacks(text: str, epsilons: Sequence[float], seed: int) -> dict[AttackKey, Attack]:
    """Parse the names of attacks, of which those that begin with `aware_` know of the guard.

    Args:
        text: names with settings, such as `fgsm,pgd:steps=20,aware_pgd`.
        epsilons: budgets for the attacks that have one.
        seed: seed of the attacks, unless their settings have one.

    Returns:
        Attacks by name and budget.

    Raises:
        ConfigError: there is no such attack or setting, or it cannot know of the guard.
    """
    attacks: dict[str, Attack] = {}
    for name in split_names(text, "attacks", ()):
        bare = name.removeprefix(AWARE)
        (attacks[name],) = parse_class_attacks(bare, seed).values()
        if name.startswith(AWARE) and not attacks[name].any_objective:
            raise ConfigError(
                f"attacks: {name}: {bare} has an objective of its own and cannot know of the "
                f"guard; expected {AWARE}pgd, for example"
            )
    return expand_budgets(attacks, epsilons)


def _choose(measurement: GuardMeasurement, source: ImageSource) -> list[int]:
    """Return the indices of the images of a source that are measured."""
    return split_indices(len(source), measurement.limit, measurement.seed, halves=False)[1]


def _ask(
    measurement: GuardMeasurement,
    reader: SkippingReader,
    key: AttackKey | None,
    title: str,
    report: ProgressCallback,
) -> dict[str, Tensor]:
    """Return the verdicts on images, clean or attacked, and which attacked ones fool."""
    guard = measurement.guard
    classifier = guard.observer.classifier
    chosen = [each for each in _choose(measurement, reader.source) if each in reader.readable]
    verdicts: list[Tensor] = []
    fooled: list[Tensor] = []
    correct: list[int] = []
    before: list[Tensor] = []
    report(title, 0, len(chosen))
    for batch in reader.read_batches(classifier.prepare, BATCH, indices=chosen):
        images = batch.images.to(classifier.device)
        flags = torch.zeros(len(images), dtype=torch.bool)
        if key is not None:
            images, flags = _attack(measurement, key, images, batch.names)
        with torch.no_grad(), name_images(batch.names):
            observation = guard.observer(images)
            verdicts.append(guard.network.to(images.device)(observation).cpu())
        if title == CLEAN:
            correct += _find_correct(classifier, reader.source, batch.labels, observation.logits)
            before.append(classifier.decision.probabilities(observation.logits).amax(1).cpu())
        fooled.append(flags)
        report(title, sum(map(len, fooled)), len(chosen))
    part = {
        "verdicts": torch.cat(verdicts).contiguous(),
        "fooled": torch.cat(fooled).to(torch.uint8),
    }
    if title == CLEAN:
        part |= {"correct": torch.tensor(correct), "before": torch.cat(before).contiguous()}
    return part


def _attack(
    measurement: GuardMeasurement, key: AttackKey, images: Images, names: Sequence[str]
) -> tuple[Images, BatchFlags]:
    """Return attacked images as a file would hold them, and whether each of them fools."""
    guard = measurement.guard
    classifier = guard.observer.classifier
    with torch.no_grad(), name_images(names):
        logits = classifier(images)
    predicted = logits.argmax(1)
    has_class = classifier.decision.is_predicted(logits, predicted)
    untargeted = Untargeted(classifier, predicted)
    is_aware = key[0].startswith(AWARE)
    objective: AttackObjective = GuardEvasion(guard, predicted) if is_aware else untargeted
    attacked = measurement.attacks[key](objective, images)
    attacked = (255 * attacked).round() / 255
    return attacked, (has_class & untargeted.is_adversarial(attacked)).cpu()


def _find_correct(
    classifier: Classifier, source: ImageSource, labels: Sequence[str | int | None], logits: Logits
) -> list[int]:
    """Return whether each prediction is right, 1 or 0; −1 without a label, or with several."""
    known = find_labels(classifier, source, labels)
    return [
        -1 if label < 0 else int(label == int(predicted))
        for label, predicted in zip(known, logits.argmax(1), strict=True)
    ]
