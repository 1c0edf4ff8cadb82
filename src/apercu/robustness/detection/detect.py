"""Attacked images found by their explanations: from what people name to `detection.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apercu.classifiers import Classifier
from apercu.devices import enable_gradients
from apercu.errors import describe_interrupt
from apercu.evaluation.cost import describe_environment
from apercu.explainers.base import AnyExplainer
from apercu.explainers.run_folder import open_both
from apercu.images import ImageSource, check_images
from apercu.io import write_json
from apercu.log import warn
from apercu.progress import ProgressCallback, ProgressOption, open_progress
from apercu.robustness.detection.benchmark import (
    COLUMNS,
    NAMES,
    DetectionBenchmark,
    DetectionRow,
    DetectionRows,
)
from apercu.robustness.detection.features import (
    parse_class_attacks,
    parse_detectors,
    parse_extractors,
)
from apercu.robustness.jobs import describe_attack, expand_budgets
from apercu.robustness.plan import (
    CLASS_ATTACKS,
    DECISIONS_ONLY,
    DEFAULT_EPSILONS,
    adapt_attacks,
    parse_attack,
    parse_epsilons,
)
from apercu.robustness.results import read_earlier_rows
from apercu.run_record import lock_folder

RESULTS = "detection.json"
DEFAULT_DETECTORS = "autoencoder,one_class_svm,mahalanobis"
"""Detectors, where none are named."""


def open_detection(
    classifier: Classifier | str | Path,
    images: ImageSource | str | Path,
    *,
    explainer: AnyExplainer | str | Path | None = None,
    looks: str | None = None,
    detectors: str = DEFAULT_DETECTORS,
    attacks: str | None = None,
    epsilons: str = DEFAULT_EPSILONS,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
) -> DetectionBenchmark:
    """Open a benchmark of detectors by what people type, as `apercu stress detect` does.

    >>> from apercu.robustness import detect_attacks, open_detection
    >>> benchmark = open_detection("card.json", "val/", explainer="run")  # doctest: +SKIP
    >>> detect_attacks(benchmark, "out")  # doctest: +SKIP

    Args:
        classifier: classifier that is attacked, or its SPEC.
        images: clean images, or their SPEC; labels are not used.
        explainer: an explainer that was trained for the classifier, or its run folder.
        looks: names of features, such as `map,stability:jpeg,deep,cam`; None for all that need no
            other method.
        detectors: names of detectors, with settings.
        attacks: attacks on the class, such as `fgsm,pgd:steps=20`; None for `fgsm,pgd`, which are
            replaced, with a warning, where the classifier has no gradients.
        epsilons: budgets, for the attacks that have one.
        limit: largest number of images, drawn at random; None for all.
        seed: seed of the halves, the detectors and the attacks.
        device: `auto`, `cpu`, `cuda` or `mps`, where a classifier that is opened here computes.
        trust: whether a card or a run may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.

    Returns:
        The benchmark, which `detect_attacks` runs.

    Raises:
        ConfigError: a name or a setting is wrong, or no features are possible.
        ClassifierError: an attack that is named needs gradients that are missing, or the explainer
            was trained for another classifier.
        ImagesError: there are too few images.
        RunError: the explainer is no finished run.
    """
    parsed_detectors, budgets = parse_detectors(detectors, seed), parse_epsilons(epsilons)
    named = parse_class_attacks(CLASS_ATTACKS if attacks is None else attacks, seed)
    check_images(images)
    opened, explainer = open_both(classifier, explainer, device=device, trust=trust)
    extractors = parse_extractors(looks, opened, explainer)
    allowed = adapt_attacks(tuple(named), opened, chosen=attacks is not None)
    if allowed != tuple(named):
        warn(DECISIONS_ONLY.format(opened.spec))
        named = {name: parse_attack(name, seed) for name in allowed}
    with open_progress(progress) as report:
        return DetectionBenchmark(
            classifier=opened,
            source=opened.open_images(images),
            extractors=extractors,
            detectors=parsed_detectors,
            attacks=expand_budgets(named, budgets),
            limit=limit,
            seed=seed,
            report=report,
        )


@enable_gradients()
def detect_attacks(
    benchmark: DetectionBenchmark,
    out: str | Path,
    *,
    progress: ProgressOption = None,
    command: str = "",
) -> DetectionRows:
    """Run a benchmark of detectors, and write `detection.json`.

    Warnings name the attacks that fool the classifier with none of the images, which have no rows,
    and count the images without a predicted class, on which no attack counts.

    Args:
        benchmark: classifier, images, attacks, features and detectors.
        out: folder of the results; features that are there already are not computed again, and
            rows of earlier calls stay, unless their name now belongs to another attack, explainer
            or detector.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        command: command line that the results name.

    Returns:
        The rows of the results, those of earlier calls in the same folder included.

    Raises:
        ClassifierError: an attack or extractor needs what the classifier does not give.
        RunError: the folder holds results of another classifier, other images or another seed, or
            another process works there.
        OutputError: the folder cannot be written.
    """
    out = Path(out)
    benchmark.classifier.require_classes()
    kept = describe_interrupt(f"{out} keeps what is finished; the same call goes on")
    with kept, lock_folder(out), open_progress(progress) as report:
        rows = _write_detection(benchmark, out, report, command)
        _warn_of_missing(benchmark, rows, out)
    return rows


def _write_detection(
    benchmark: DetectionBenchmark, out: Path, progress: ProgressCallback, command: str
) -> DetectionRows:
    """Run a benchmark in a folder that no other process writes."""
    classifier, path = benchmark.classifier, out / RESULTS
    content: dict[str, Any] = {
        "classifier": classifier.spec,
        "fingerprint": classifier.fingerprint,
        "images": benchmark.source.name,
        "limit": benchmark.limit,
        "learnt_from": len(benchmark.sample.tune),
        "images_digest": benchmark.sample.digest,
    }
    settings, definitions = {"seed": benchmark.seed, **content}, benchmark.define_names()
    del settings["classifier"]  # the same one may have another name
    earlier = read_earlier_rows(path, DetectionRow, settings, definitions, NAMES)
    rows = DetectionRows(earlier.merge(benchmark.run(out, progress), COLUMNS))
    content |= {
        "without_class": benchmark.count_without_class(out),
        "definitions": {**earlier.get("definitions"), **definitions},
        "command": command,
        "rows": [row._asdict() for row in rows],
        "environment": describe_environment(benchmark.seed, classifier.device),
    }
    write_json(path, content)
    return rows


def _warn_of_missing(benchmark: DetectionBenchmark, rows: DetectionRows, out: Path) -> None:
    """Say which images and attacks are not in the rows."""
    if count := benchmark.count_without_class(out):
        warn(f"{count} of the test images have no predicted class, so no attack on them counts")
    measured = {(row.attack, row.epsilon) for row in rows}
    for key in benchmark.attacks:
        if key not in measured:
            warn(f"{describe_attack(*key)} fools the classifier with none of the images")
