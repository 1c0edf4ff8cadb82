"""The comparison: explainers × metrics on the same images, saved as it goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from apercu.classifiers import Classifier
from apercu.errors import ApercuError, ClassifierError, ImagesError, RunError
from apercu.evaluation.cost import describe_environment
from apercu.evaluation.evaluator import Evaluator, Progress, has_ground_truth, ignore_progress
from apercu.evaluation.measures import MEASURES, METRICS, cuts
from apercu.evaluation.results import (
    RESULTS_FILE,
    ComparisonKey,
    ComparisonResults,
    Cost,
    Invocation,
)
from apercu.evaluation.sample import EvalSample, draw_sample
from apercu.evaluation.settings import CompareSettings
from apercu.images import ImageSource
from apercu.io import check_writable
from apercu.methods import Explainer, TrueBox


def run_comparison(
    classifier: Classifier,
    source: ImageSource,
    explainers: Mapping[str, Explainer | TrueBox],
    settings: CompareSettings,
    *,
    out: Path | None = None,
    progress: Progress = ignore_progress,
    command: str = "apercu.evaluation.comparison(…)",
) -> ComparisonResults:
    """Measure every explainer on the same images, in constant memory.

    One half of the images chooses each explainer's best threshold per metric, and all rows are
    reported on the other half; on all images where no metric needs a threshold. With `out`, results
    are saved after each explainer, and what earlier calls finished there stays, unless an explainer
    of the same name is another one now; one that has another name now keeps its rows under that.

    An explainer that cannot be measured becomes a reason in `failed`, and the others go on.
    `command` is what a reader types to measure the same again.

    Raises:
        RunError: `out` holds a comparison of another classifier, other images or other settings.
        OutputError: `out` cannot be written.
        ImagesError: the images do not have the truth that a metric needs.
        ClassifierError: randomisation was asked for, and the classifier hides its weights.
        ApercuError: none of the explainers could be measured; the first one's reason.
    """
    if out is not None:
        check_writable(out)
    halves = cuts(settings.metrics or METRICS)
    sample = draw_sample(classifier, source, settings.limit, settings.seed, halves=halves)
    metrics = _choose_metrics(classifier, sample, settings)
    bench = Evaluator(classifier, sample, metrics, settings, progress)
    call = Invocation(command, describe_environment(settings.seed, classifier.device))
    results = _load_earlier(_build_key(bench), call.environment, out)
    asked = {name: one.cache_key for name, one in explainers.items()}
    results = results.rename(asked)
    others = {name: one for name, one in results.explainers.items() if name not in asked}
    study = Comparison(bench, results.select({**asked, **others}), {**asked, **others}, out, call)
    missing = {n: one for n, one in explainers.items() if n not in study.results.explainers}
    for name, explainer in missing.items():
        study.attempt(name, partial(bench.dry_run, name, explainer))
    for name, explainer in explainers.items():
        if name in missing and name not in study.failures:
            study.attempt(name, partial(study.add_rows, name, explainer))
            study.save()  # before costs, in which it may be interrupted
        if name in study.results.explainers and not study.has_cost(name):
            study.attempt(f"cost of {name}", partial(study.add_costs, name, explainer))
            study.save()
    study.save()
    if study.failures and not study.results.explainers:
        raise next(iter(study.failures.values()))
    return study.results


def load_finished(
    out: Path, classifier: Classifier, source: ImageSource
) -> ComparisonResults | None:
    """What a comparison of this classifier on these images has finished; None without one.

    Raises `RunError` when it is damaged.
    """
    if not (out / RESULTS_FILE).is_file():
        return None
    found = ComparisonResults.load(out)
    same = found.key.fingerprint == classifier.fingerprint
    return found if same and found.key.images == source.name else None


class Comparison:
    """A comparison under way: what is known, what went wrong, and where it is kept."""

    def __init__(
        self,
        evaluator: Evaluator,
        results: ComparisonResults,
        identities: Mapping[str, str],
        out: Path | None,
        invocation: Invocation,
    ) -> None:
        self.evaluator = evaluator
        self.results = results
        self.identities = identities
        self.out = out
        self.invocation = invocation
        self.earlier = results
        self.failures: dict[str, ApercuError] = {}
        self.attempted: set[str] = set()

    def attempt(self, name: str, step: Callable[[], None]) -> None:
        """Takes a step; what goes wrong is noted, and the others go on."""
        self.attempted.add(name)
        try:
            step()
        except Exception as error:  # whatever one does, the others go on
            self.failures[name] = _wrap_error(name, error)

    def add_rows(self, name: str, explainer: Explainer | TrueBox) -> None:
        """Adds the rows of one explainer."""
        found, results = self.evaluator.evaluate(name, explainer), self.results
        self.invocation = replace(self.invocation, explainers=(*self.invocation.explainers, name))
        self.results = replace(
            results,
            environment=self.invocation.environment,
            explainers={**results.explainers, name: explainer.cache_key},
            rows=(*results.rows, *found.rows),
            scores={**results.scores, **found.scores},
            needs={**results.needs, name: explainer.needs},
            curves={**results.curves, **({name: found.curves} if found.curves else {})},
            calls=(*self.earlier.calls, self.invocation),
        ).select(self.identities)

    def has_cost(self, name: str) -> bool:
        """Whether costs are known, and nothing went wrong when they were measured."""
        known = any(cost.explainer == name for cost in self.results.cost)
        return known and f"cost of {name}" not in self.earlier.failed

    def add_costs(self, name: str, explainer: Explainer | TrueBox) -> None:
        """Adds the costs of one explainer, batch by batch."""
        others = [cost for cost in self.results.cost if cost.explainer != name]
        found: list[Cost] = []
        for cost in self.evaluator.measure_costs(name, explainer):
            found.append(cost)
            both = replace(self.results, cost=(*others, *found))
            self.results = both.select(self.identities)

    def save(self) -> None:
        """What is known now, with the reasons of what is not."""
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
    """The error as one of ours, in one line; running out of memory and the like become one."""
    if isinstance(error, ApercuError):
        return error
    first = next(iter(str(error).splitlines()), "")
    return ApercuError(f"{name}: {type(error).__name__} ({first}); leave it out, or mend it")


def _choose_metrics(
    classifier: Classifier, sample: EvalSample, settings: CompareSettings
) -> tuple[str, ...]:
    """The metrics that were asked for, or all that are possible and need not be named.

    Possible is what both halves know the truth for, and randomisation where weights can be reached.
    """

    def allowed(metric: str) -> bool:
        return all(
            any(has_ground_truth(entry, metric) for entry in part)
            for part in (sample.tune, sample.test)
            if part
        )

    for metric in settings.metrics or ():
        if not allowed(metric):
            truth = {"region": "true masks", "boxes": "true boxes"}.get(
                MEASURES[metric].truth, "true boxes or masks"
            )
            raise ImagesError(
                f"{sample.source.name}: {metric} needs {truth} in both halves of the images; "
                "leave the metric out, or add them"
            )
    if "randomisation" in (settings.metrics or ()) and classifier.module is None:
        raise ClassifierError(
            f"{classifier.spec}: randomisation needs a classifier that shows its weights; "
            "leave the metric out"
        )
    if settings.metrics:
        return tuple(metric for metric in METRICS if metric in settings.metrics)
    left_out = {metric for metric in METRICS if MEASURES[metric].named}
    if classifier.module is None:
        left_out.add("randomisation")
    return tuple(metric for metric in METRICS if metric not in left_out and allowed(metric))


def _build_key(evaluator: Evaluator) -> ComparisonKey:
    sample, classifier = evaluator.sample, evaluator.classifier
    settings = {**asdict(evaluator.settings), "metrics": evaluator.metrics}
    return ComparisonKey(
        classifier=classifier.spec,
        fingerprint=classifier.fingerprint,
        images=sample.source.name,
        limit=len(sample.tune) + len(sample.test),
        targets="labels" if sample.source.labelled else "top",
        sample=sample.digest,
        settings=json.loads(json.dumps(settings)),
    )


def _load_earlier(
    key: ComparisonKey, environment: Mapping[str, object], out: Path | None
) -> ComparisonResults:
    """Earlier results of the same subject, or none yet."""
    if out is None or not (out / RESULTS_FILE).is_file():
        return ComparisonResults(key, environment)
    earlier = ComparisonResults.load(out)
    before, now = _flatten_key(earlier.key), _flatten_key(key)
    for name in now:
        if before.get(name) != now[name]:
            raise RunError(
                f"{out}: holds a comparison with {name} {before.get(name)}, this one has "
                f"{now[name]}; choose another --out"
            )
    return earlier


def _flatten_key(key: ComparisonKey) -> dict[str, object]:
    content = asdict(key)
    return content | content.pop("settings")
