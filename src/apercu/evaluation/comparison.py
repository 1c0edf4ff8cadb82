"""The comparison: explainers × metrics on the same images, saved as it proceeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

from apercu.classifiers import Classifier
from apercu.devices import enable_gradients
from apercu.errors import (
    ApercuError,
    ClassifierError,
    ConfigError,
    ImagesError,
    suggest_nearest,
)
from apercu.evaluation.cost import describe_environment
from apercu.evaluation.evaluator import Evaluator
from apercu.evaluation.results import (
    RESULTS_FILE,
    ComparisonKey,
    ComparisonResults,
    Cost,
    Invocation,
)
from apercu.evaluation.sample import (
    EvalSample,
    describe_missing_truth,
    draw_sample,
    has_ground_truth,
)
from apercu.evaluation.settings import CompareSettings
from apercu.images import ImageSource
from apercu.methods import MapExplainer, TrueBox
from apercu.metrics import Metric
from apercu.metrics.registry import METRICS, is_threshold_needed
from apercu.own_code import identify_code
from apercu.progress import ProgressCallback, ignore_progress
from apercu.run_record import RunRecord

WHOLE_MAPS = "whole_maps"
"""Setting that the key of a comparison holds where metrics without a threshold have all images."""
OLD_SETTINGS = {WHOLE_MAPS: "half", "thresholds_from": "half", "cells": None, "protocol": None}
"""Settings that version 0.1.0 did not have, and what it did."""


@enable_gradients()
def run_comparison(
    classifier: Classifier,
    source: ImageSource,
    explainers: Mapping[str, MapExplainer | TrueBox],
    settings: CompareSettings,
    *,
    out: Path | None = None,
    against: str | None = None,
    progress: ProgressCallback = ignore_progress,
    command: str = "apercu.compare(…)",
) -> ComparisonResults:
    """Measure every explainer on the same images, in constant memory.

    One half of the images chooses each explainer's best threshold per metric, and metrics with a
    threshold are reported on the other half, or with two folds on all images; the others on all
    images. `CompareSettings.thresholds_from` says which.
    A folder of version 0.1.0, which reported one half for all, is continued like this. With
    `out`, results are saved after each explainer, and the results of earlier calls stay, unless
    their name now belongs to another explainer. A renamed explainer keeps its rows.

    An explainer that cannot be measured is listed in `failed` with its reason; others are measured.

    Args:
        classifier: the classifier that is explained.
        source: the images.
        explainers: the explainers by their names.
        settings: the metrics, the images and the steps.
        out: the folder of the results.
        against: the explainer that the others are compared with, image by image; None for the
            best trained one, or else the first one of the ranking.
        progress: is called with the images that are done.
        command: the command that measures the same again.

    Returns:
        All results, those of earlier calls in the same folder included.

    Raises:
        ConfigError: there is no explainer of the name in `against`, or an own metric fails.
        RunError: `out` holds a comparison of another classifier, other images or other settings.
        OutputError: `out` cannot be written.
        ImagesError: the images do not have the truth that a metric needs.
        ClassifierError: randomisation is named, and the classifier has no accessible weights.
        ApercuError: none of the explainers could be measured; the reason of the first one.
    """
    with nullcontext() if out is None else RunRecord(out, {}, "comparison").begin():
        earlier = None if out is None else _load_earlier(out)
        if earlier is not None and WHOLE_MAPS not in earlier.key.settings:
            settings = replace(settings, whole_maps="half")  # as version 0.1.0 began it
        chooses = settings.thresholds_from != "same"
        sample = draw_sample(
            classifier,
            source,
            settings.limit,
            settings.seed,
            halves=chooses and is_threshold_needed(settings.resolved_metrics or METRICS),
            predicted=settings.targets == "predicted",
            report=progress,
        )
        metrics = _choose_metrics(classifier, sample, settings)
        evaluator = Evaluator(classifier, sample, metrics, settings, progress)
        invocation = Invocation(command, describe_environment(settings.seed, classifier.device))
        settings.check_flipping(metrics.values(), classifier.size)
        evaluator.try_own_metrics()
        key = _build_key(evaluator)
        if earlier is None or out is None:
            earlier = ComparisonResults(key, invocation.environment)
        else:
            is_same = earlier.key.fingerprint == key.fingerprint  # by whatever name it was opened
            RunRecord(
                out, {}, "comparison", ignored=frozenset({"classifier"} if is_same else ())
            ).compare(
                {**OLD_SETTINGS, **_flatten_key(earlier.key)},
                {**OLD_SETTINGS, **_flatten_key(key)},
            )
        own = {name: metric.record for name, metric in metrics.items() if name not in METRICS}
        earlier = replace(earlier, own_metrics=own)
        if against is not None:
            check_against(against, [*explainers, *earlier.explainers])
            earlier = replace(earlier, against=against)
        return Comparison(evaluator, earlier, explainers, out, invocation).measure_all()


def load_finished(
    out: Path, classifier: Classifier, source: ImageSource
) -> ComparisonResults | None:
    """Return the finished results of this classifier on these images; None without any.

    Args:
        out: folder of the comparison.
        classifier: classifier that the results have to be of.
        source: images that they have to be of.

    Returns:
        The results, or None.

    Raises:
        RunError: the files are damaged.
    """
    if not (out / RESULTS_FILE).is_file():
        return None
    results = ComparisonResults.load(out)
    same = results.key.fingerprint == classifier.fingerprint
    return results if same and results.key.images == source.name else None


def check_against(name: str, explainers: Sequence[str]) -> None:
    """Check the name of the explainer that the others are compared with.

    Raises:
        ConfigError: there is no such explainer.
    """
    if name not in explainers:
        names = ", ".join(dict.fromkeys(explainers))
        raise ConfigError(
            f"against: expected one of {names}, got {name}{suggest_nearest(name, explainers)}"
        )


class Comparison:
    """A comparison in progress: its results so far, its failures, and where they are saved.

    Args:
        evaluator: measures the explainers.
        earlier: the results of earlier calls.
        explainers: the explainers by name.
        out: the folder of the results; None saves nothing.
        invocation: the present call.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        earlier: ComparisonResults,
        explainers: Mapping[str, MapExplainer | TrueBox],
        out: Path | None,
        invocation: Invocation,
    ) -> None:
        own = {name: explainer.cache_key for name, explainer in explainers.items()}
        earlier = earlier.rename(own)
        others = {name: key for name, key in earlier.explainers.items() if name not in own}
        self.evaluator = evaluator
        self.explainers = explainers
        self.out = out
        self.invocation = invocation
        self.cache_keys = {**own, **others}
        self.earlier = self.results = earlier.select(self.cache_keys)
        self.failures: dict[str, ApercuError] = {}
        self.attempted: set[str] = set()

    def measure_all(self) -> ComparisonResults:
        """Measure every explainer whose results are missing, and save after each.

        Raises:
            OutputError: the results cannot be saved.
            ApercuError: none of the explainers could be measured; the reason of the first one.
        """
        missing = {
            name: explainer
            for name, explainer in self.explainers.items()
            if name not in self.results.explainers
        }
        for name, explainer in missing.items():
            self.attempt(name, partial(self.evaluator.dry_run, name, explainer))
        for name, explainer in self.explainers.items():
            if name in missing and name not in self.failures:
                self.attempt(name, partial(self.add_rows, name, explainer))
                self.save()  # before costs, in which it may be interrupted
            is_costed = not self.evaluator.settings.cost or self.has_cost(name)
            if name in self.results.explainers and not is_costed:
                self.attempt(f"cost of {name}", partial(self.add_costs, name, explainer))
                self.save()
        self.save()
        if self.failures and not self.results.explainers:
            raise next(iter(self.failures.values()))
        return self.results

    def attempt(self, name: str, step: Callable[[], None]) -> None:
        """Run a step; an error is stored as a failure, and the other steps continue."""
        self.attempted.add(name)
        try:
            step()
        except Exception as error:  # an error of one explainer must not stop the others
            self.failures[name] = _wrap_error(name, error)

    def add_rows(self, name: str, explainer: MapExplainer | TrueBox) -> None:
        """Measure one explainer and add its rows."""
        measured, results = self.evaluator.evaluate(name, explainer), self.results
        finished = (*self.invocation.explainers, name)
        self.invocation = replace(self.invocation, explainers=finished)
        curves = {name: measured.curves} if measured.curves else {}
        constant = {name: measured.constant} if measured.constant else {}
        self.results = replace(
            results,
            environment=self.invocation.environment,
            explainers={**results.explainers, name: self.cache_keys[name]},
            rows=(*results.rows, *measured.rows),
            scores={**results.scores, **measured.scores},
            needs={**results.needs, name: explainer.needs},
            curves={**results.curves, **curves},
            constant={**results.constant, **constant},
            calls=(*self.earlier.calls, self.invocation),
        ).select(self.cache_keys)

    def has_cost(self, name: str) -> bool:
        """Whether costs are known, and nothing went wrong when they were measured."""
        is_known = any(cost.explainer == name for cost in self.results.cost)
        return is_known and f"cost of {name}" not in self.earlier.failed

    def add_costs(self, name: str, explainer: MapExplainer | TrueBox) -> None:
        """Measure the costs of one explainer and add them, batch by batch."""
        others = [cost for cost in self.results.cost if cost.explainer != name]
        own: list[Cost] = []
        for cost in self.evaluator.measure_costs(name, explainer):
            own.append(cost)
            together = replace(self.results, cost=(*others, *own))
            self.results = together.select(self.cache_keys)

    def save(self) -> None:
        """Save the results so far, with the reasons of all failures."""
        earlier = {
            name: reason
            for name, reason in self.earlier.failed.items()
            if name not in self.attempted and name.removeprefix("cost of ") not in self.attempted
        }
        failed = earlier | {name: str(error) for name, error in self.failures.items()}
        self.results = replace(self.results, failed=failed)
        if self.out is not None and self.results.explainers:
            self.results.save(self.out)


def _wrap_error(name: str, error: Exception) -> ApercuError:
    """Return an error as an `ApercuError` of one line."""
    if isinstance(error, ApercuError):
        return error
    first = next(iter(str(error).splitlines()), "")
    return ApercuError(
        f"{name}: fails with {type(error).__name__} ({first}); leave it out, or correct it"
    )


def _choose_metrics(
    classifier: Classifier, sample: EvalSample, settings: CompareSettings
) -> dict[str, Metric]:
    """Return the metrics that are named, or else all that are possible, by name.

    A metric is possible if its truth is known in both halves, or of any image where it is reported
    on all; randomisation, if the weights can be reached. Some are measured by name only. Own
    metrics are the last ones.
    """

    def is_possible(metric: Metric) -> bool:
        parts = [half for half in (sample.tune, sample.test) if half]
        if settings.whole_maps == "all" and not metric.thresholded:
            parts = [sample.tune + sample.test]
        return all(any(has_ground_truth(record, metric) for record in part) for part in parts)

    named = settings.resolved_metrics or ()
    for metric in named:
        if not is_possible(metric):
            raise ImagesError(describe_missing_truth(metric, sample, settings.protocol))
    if METRICS["randomisation"] in named and classifier.module is None:
        raise ClassifierError(
            f"{classifier.spec}: randomisation needs a classifier with accessible weights; "
            "leave the metric out"
        )
    if named:
        by_name = {metric.name: metric for metric in named}
        order = [*(name for name in METRICS if name in by_name), *by_name]
        return {name: by_name[name] for name in order}
    left_out = {name for name, metric in METRICS.items() if metric.by_name_only}
    if classifier.module is None:
        left_out.add("randomisation")
    return {
        name: metric
        for name, metric in METRICS.items()
        if name not in left_out and is_possible(metric)
    }


def _build_key(evaluator: Evaluator) -> ComparisonKey:
    sample, classifier, metrics = evaluator.sample, evaluator.classifier, evaluator.metrics
    values = {each.name: getattr(evaluator.settings, each.name) for each in fields(CompareSettings)}
    settings = {**values, "metrics": list(metrics)}
    del settings["cost"]  # costs may be added later
    if not evaluator.everywhere:
        del settings[WHOLE_MAPS]
    del settings["targets"]  # the key itself says which
    for name in ("thresholds_from", "cells", "protocol"):
        if settings[name] == OLD_SETTINGS[name]:
            del settings[name]  # older folders do not name it
    own = {name: metric for name, metric in metrics.items() if name not in METRICS}
    if own:
        settings["own_metrics"] = {
            name: f"{identify_code(metric.function)}: {metric.record}"
            for name, metric in own.items()
        }
    if sample.left_out:
        settings["left_out"] = list(sample.left_out)
    return ComparisonKey(
        classifier=classifier.spec,
        fingerprint=classifier.fingerprint,
        images=sample.source.name,
        limit=len(sample.tune) + len(sample.test),
        targets="labels" if sample.has_labels else "top",
        sample=sample.digest,
        settings=json.loads(json.dumps(settings)),
    )


def _flatten_key(key: ComparisonKey) -> dict[str, object]:
    """Return a key with the settings that version 0.1.0 did not have beside the others."""
    content = asdict(key)
    settings = dict(content["settings"])
    newer = {name: settings.pop(name) for name in OLD_SETTINGS if name in settings}
    return {**content, "settings": settings, **newer}


def _load_earlier(out: Path) -> ComparisonResults | None:
    """Return the results of earlier calls; None where there are none."""
    return ComparisonResults.load(out) if (out / RESULTS_FILE).is_file() else None
