"""`find_backdoors`: looks for backdoors in a classifier, class by class and image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apercu.classifiers import Classifier, open_classifier, save_classifier
from apercu.classifiers.trust import trust_files
from apercu.devices import enable_gradients
from apercu.errors import ConfigError, ImagesError, describe_interrupt
from apercu.evaluation.cost import describe_environment
from apercu.evaluation.open_explainers import ExplainerLike, open_explainer
from apercu.explainers.run_folder import check_run
from apercu.images import ImageSource, check_images
from apercu.images.stream import list_left_out
from apercu.log import warn
from apercu.methods import MapExplainer, TrueBox
from apercu.progress import ProgressCallback, ProgressOption, open_progress
from apercu.robustness.backdoors.antidote import ALARM, Antidote, AntidoteRt, check_samples
from apercu.robustness.backdoors.base import ScoreFn
from apercu.robustness.backdoors.evidence import CarriedEvidence
from apercu.robustness.backdoors.neural_cleanse import (
    NeuralCleanse,
    ReversedTrigger,
    compute_anomaly_indices,
)
from apercu.robustness.backdoors.parts import (
    BATCH,
    ImagePart,
    PartReader,
    ScanParts,
    measure_rate,
    predict_classes,
)
from apercu.robustness.backdoors.poisoning import (
    PoisonRecord,
    describe_poison,
    parse_trigger,
    read_poison,
)
from apercu.robustness.backdoors.removal import BackdoorRemoval, Unlearning
from apercu.robustness.backdoors.results import (
    BackdoorReport,
    ClassFinding,
    RemovalFinding,
    RuntimeFinding,
    SuspiciousImage,
    check_earlier_search,
    draw_correction,
    draw_triggers,
)
from apercu.robustness.backdoors.selection import (
    BackdoorMethod,
    check_methods,
    choose_backdoor_methods,
    parse_backdoor_methods,
)
from apercu.robustness.backdoors.strip import Strip
from apercu.robustness.detection.detectors.calibrated import FALSE_ALARMS
from apercu.run_record import lock_folder
from apercu.statistics import auroc
from apercu.types import Images, Scores, Targets

DEFAULT_LIMIT = 400
"""Clean images that are used unless the caller says otherwise."""


@enable_gradients()
def find_backdoors(
    classifier: Classifier | str | Path,
    images: ImageSource | str | Path,
    out: str | Path,
    methods: Mapping[str, BackdoorMethod] | str | None = None,
    *,
    suspects: ImageSource | str | Path | None = None,
    poisoned: ImageSource | str | Path | None = None,
    poison: PoisonRecord | str | Path | None = None,
    explainer: ExplainerLike | None = None,
    limit: int | None = DEFAULT_LIMIT,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
    command: str = "",
) -> BackdoorReport:
    """Look for backdoors in a classifier, and among images.

    A quarter of the clean images is learnt from, a quarter chooses thresholds at 5 % false alarms,
    and the other half measures the false alarms.

    >>> from apercu.robustness import find_backdoors
    >>> report = find_backdoors(  # doctest: +SKIP
    ...     "card.json", "clean/", "out", suspects="new/"
    ... )

    Args:
        classifier: classifier that is searched, or its SPEC.
        images: clean images, or their SPEC, with labels where a method needs them.
        out: folder of the results.
        methods: methods by name, or as people type them; None for all that are possible.
        suspects: images that are checked; the half of the clean images that measures where None.
        poisoned: images of which it is known that they carry the trigger.
        poison: how the images of a test bed were poisoned, or the run folder that says so; its
            trigger marks the clean images, and all methods are measured with them.
        explainer: what draws the maps of `evidence`: a trained explainer of this classifier, its
            run folder, or a method.
        limit: largest number of clean images, drawn at random, and of suspects; None for all.
        seed: seed of all draws.
        device: `auto`, `cpu`, `cuda` or `mps`, where a classifier that is opened here computes.
        trust: whether a card or a run may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        command: command line that the results name.

    Returns:
        What was found, which is also written as `backdoors.json` and as pictures.

    Raises:
        ConfigError: a method is unknown, or needs what is not there.
        ClassifierError: a method needs gradients or layers that are not there.
        ImageError: no image of a source can be read; some that cannot are left out with a warning.
        ImagesError: there are too few clean images, or labels are missing.
        RunError: the folder holds a search that this one would erase, or another process works
            there.
        OutputError: the folder cannot be written.
    """
    out = Path(out)
    if isinstance(methods, str):
        methods = parse_backdoor_methods(methods, seed)
    if isinstance(poison, str | Path):
        poison = read_poison(Path(poison))
    check_images(images, suspects, poisoned)
    if isinstance(explainer, Path):
        check_run(explainer, trust=trust)
    if not isinstance(classifier, Classifier):
        classifier = open_classifier(classifier, device=device, trust=trust)
    classifier.require_classes()
    source = classifier.open_images(images)
    suspects = None if suspects is None else classifier.open_images(suspects)
    poisoned = None if poisoned is None else classifier.open_images(poisoned)
    has_samples = poisoned is not None or poison is not None
    if methods is None:
        methods = choose_backdoor_methods(
            classifier, seed, explainer=explainer is not None, poisoned=has_samples
        )
    with trust_files(trust):
        maps = None if explainer is None else open_explainer(explainer, classifier)
    if isinstance(maps, TrueBox):
        raise ConfigError("explainer: true_box does not look at the classifier; choose another")
    check_methods(classifier, methods, maps, has_samples=has_samples)
    trigger = None if poison is None else parse_trigger(poison.trigger)
    needs_labels = any(isinstance(method, BackdoorRemoval) for method in methods.values())
    kept = describe_interrupt("nothing is kept of a search that did not end")
    with kept, lock_folder(out), open_progress(progress) as report:
        about: dict[str, Any] = {
            "classifier": classifier.spec,
            "fingerprint": classifier.fingerprint,
            "images": source.name,
            "limit": limit,
            "suspects": None if suspects is None else suspects.name,
            "poison": None if poison is None else describe_poison(poison),
            "methods": list(methods),
            "command": command,
            "environment": describe_environment(seed, classifier.device),
        }
        check_earlier_search(about, out)
        reader = PartReader(classifier, trigger, seed, report)
        parts = reader.read(source, suspects, poisoned, limit, needs_labels=needs_labels)
        if left_out := list_left_out(*reader.readers):
            about["left_out"] = left_out
        result = _Scan(classifier, methods, maps).run(parts, about, out, report)
        result.save(out)
    return result


@dataclass(frozen=True, eq=False)
class _Scan:
    """A search for backdoors in one classifier."""

    classifier: Classifier
    methods: Mapping[str, BackdoorMethod]
    explainer: MapExplainer | None

    @torch.no_grad()
    def predict(self, images: Images) -> Targets:
        """Return the predicted class of each image."""
        return predict_classes(self.classifier, images)

    def run(
        self, parts: ScanParts, about: Mapping[str, Any], out: Path, report: ProgressCallback
    ) -> BackdoorReport:
        """Run all methods on the images, and return what each says."""
        if any(isinstance(method, AntidoteRt) for method in self.methods.values()):
            check_samples(poisoned=0 if parts.samples is None else len(parts.samples))
        accuracy = None
        if parts.test.labels is not None:
            accuracy = measure_rate(self.predict(parts.test.images) == parts.test.labels)
        classes: tuple[ClassFinding, ...] = ()
        triggers: list[ReversedTrigger] = []
        runtime: list[RuntimeFinding] = []
        removals: list[RemovalFinding] = []
        for name, method in self.methods.items():
            if isinstance(method, NeuralCleanse):
                triggers = method(self.classifier, parts.learning.images, report)
                classes = self._compare_triggers(triggers, parts.learning.images, out)
            elif isinstance(method, Strip | CarriedEvidence | AntidoteRt):
                runtime.append(self._measure_runtime(name, method, parts, out, report))
        suspicious = {row.target for row in classes if row.is_suspicious}
        for name, method in self.methods.items():
            if isinstance(method, BackdoorRemoval):
                chosen = [trigger for trigger in triggers if trigger.target in suspicious]
                if isinstance(method, Unlearning) and not chosen:
                    warn(f"{name}: no class is suspicious, so there is no trigger to unlearn")
                    continue
                report(f"removal by {name}", 0, 1)
                removals.append(self._remove(name, method, chosen, parts, out))
                report(f"removal by {name}", 1, 1)
        return BackdoorReport(
            about, accuracy, parts.attack_success, classes, tuple(runtime), tuple(removals)
        )

    def _compare_triggers(
        self, triggers: Sequence[ReversedTrigger], images: Images, out: Path
    ) -> tuple[ClassFinding, ...]:
        names = self.classifier.classes
        files = draw_triggers(triggers, names, images, out)
        indices = compute_anomaly_indices([trigger.size for trigger in triggers])
        return tuple(
            ClassFinding(names[row.target], row.target, row.size, row.success, index, file)
            for row, index, file in zip(triggers, indices, files, strict=True)
        )

    def _measure_runtime(
        self,
        name: str,
        method: Strip | CarriedEvidence | AntidoteRt,
        parts: ScanParts,
        out: Path,
        report: ProgressCallback,
    ) -> RuntimeFinding:
        """Fit a method that looks at single images, choose its threshold, and use it."""
        score = self._fit_runtime(name, method, parts)
        antidote = score if isinstance(score, Antidote) else None
        before = self.classifier.queries
        tuning = score_images(score, parts.threshold.images, f"{name}: threshold", report)
        queries = (self.classifier.queries - before) / len(parts.threshold)
        threshold = ALARM
        if antidote is None:
            threshold = float(np.quantile(tuning.numpy(), 1 - FALSE_ALARMS))
        clean = score_images(score, parts.test.images, f"{name}: clean images", report)
        suspects = clean
        if parts.suspects is not parts.test:
            suspects = score_images(score, parts.suspects.images, f"{name}: suspects", report)
        facts: dict[str, Any] = {}
        if antidote is not None:
            facts["patterns"] = tuple(antidote.describe_patterns())
        if parts.attacked is not None and len(parts.attacked):
            images = parts.attacked.images
            attacked = score_images(score, images, f"{name}: poisoned images", report)
            facts["detected"] = measure_rate(attacked > threshold)
            facts["auroc"] = auroc(clean.double().numpy(), attacked.double().numpy())
            if antidote is not None:
                file = out / f"{name.partition(':')[0]}.png"
                flagged, flagged_clean = attacked > threshold, clean > threshold
                facts |= self._measure_correction(antidote, parts, flagged, flagged_clean, file)
        return RuntimeFinding(
            name,
            threshold,
            queries,
            measure_rate(clean > threshold),
            self._list_suspicious(parts.suspects, suspects, threshold, antidote),
            len(parts.suspects),
            **facts,
        )

    def _fit_runtime(
        self, name: str, method: Strip | CarriedEvidence | AntidoteRt, parts: ScanParts
    ) -> ScoreFn:
        """Fit a method to clean images, and one that learns from the trigger to its images, too."""
        learning = parts.learning.images
        if isinstance(method, Strip):
            return method.fit(self.classifier, learning)
        if isinstance(method, CarriedEvidence):
            return method.fit(self.classifier, learning, method.choose_explainer(self.explainer))
        if parts.samples is None:
            raise ConfigError(f"{name}: expected images with the trigger")
        return method.fit(self.classifier, learning, parts.samples.images)

    def _measure_correction(
        self,
        antidote: Antidote,
        parts: ScanParts,
        flagged: Tensor,
        flagged_clean: Tensor,
        file: Path,
    ) -> dict[str, Any]:
        """Measure what becomes of flagged images of the test bed, and of clean ones.

        Some of the images of the test bed are drawn to a file.
        """
        attacked, test = parts.attacked, parts.test
        if attacked is None or attacked.labels is None or test.labels is None:
            return {}
        facts: dict[str, Any] = {}
        rows = flagged.to(attacked.images.device)
        is_right = torch.zeros(len(attacked), dtype=torch.bool, device=rows.device)
        if rows.any():
            images = attacked.images[rows]
            correction = antidote.correct(images)
            is_right[rows] = correction.predicted == attacked.labels[rows]
            facts["located"] = measure_rate(correction.is_located)
            before = [self.classifier.classes[int(row)] for row in self.predict(images[:8])]
            draw_correction(images, correction, self.classifier.classes, before, file)
        facts["corrected"] = measure_rate(is_right)
        predicted, rows = self.predict(test.images), flagged_clean.to(test.images.device)
        if rows.any():
            predicted[rows] = antidote.correct(test.images[rows]).predicted
        facts["clean_accuracy"] = measure_rate(predicted == test.labels)
        return facts

    def _list_suspicious(
        self, part: ImagePart, scores: Scores, threshold: float, antidote: Antidote | None
    ) -> tuple[SuspiciousImage, ...]:
        """List the images above the threshold, the highest score first."""
        order = scores.argsort(descending=True, stable=True)
        rows = order[scores[order] > threshold]
        if not len(rows):
            return ()
        chosen = part.choose(rows.to(part.images.device))
        names = self.classifier.classes
        predicted = self.predict(chosen.images)
        after: list[str | None] = [None] * len(chosen)
        if antidote is not None:
            correction = antidote.correct(chosen.images)
            after = [
                names[int(target)] if is_located else None
                for target, is_located in zip(
                    correction.predicted, correction.is_located, strict=True
                )
            ]
        return tuple(
            SuspiciousImage(name, float(score), names[int(target)], corrected)
            for name, score, target, corrected in zip(
                chosen.names, scores[rows], predicted, after, strict=True
            )
        )

    def _remove(
        self,
        name: str,
        method: BackdoorRemoval,
        triggers: Sequence[ReversedTrigger],
        parts: ScanParts,
        out: Path,
    ) -> RemovalFinding:
        """Clean the classifier, save it, and measure it."""
        if parts.learning.labels is None or parts.test.labels is None:
            raise ImagesError(f"{name}: expected labelled images")
        cleaned = method(self.classifier, parts.learning.images, parts.learning.labels, triggers)
        folder = name.partition(":")[0]
        save_classifier(cleaned.classifier, out / folder)
        correct = predict_classes(cleaned.classifier, parts.test.images) == parts.test.labels
        facts: dict[str, Any] = {}
        attacked = parts.attacked
        if attacked is not None and attacked.labels is not None and len(attacked):
            predicted = predict_classes(cleaned.classifier, attacked.images)
            facts["attack_success"] = measure_rate(predicted == self.predict(attacked.images))
            facts["recovered"] = measure_rate(predicted == attacked.labels)
        count = min(method.images, len(parts.learning))
        card = f"{folder}/card.json"
        return RemovalFinding(name, card, count, cleaned.pruned, measure_rate(correct), **facts)


def score_images(score: ScoreFn, images: Images, title: str, report: ProgressCallback) -> Scores:
    """Score images a few at a time.

    Args:
        score: function that scores images.
        images: images in [0, 1], `batch × channels × height × width`.
        title: name of the work.
        report: receives how many images are done.

    Returns:
        The scores on the CPU.
    """
    scores: list[Scores] = []
    report(title, 0, len(images))
    for part in torch.split(images, BATCH):
        scores.append(score(part).cpu())
        report(title, min(len(images), BATCH * len(scores)), len(images))
    return torch.cat(scores) if scores else torch.zeros(0)
