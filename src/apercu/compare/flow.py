"""The comparison: explainers × metrics on the same images, saved as it goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from apercu.classifiers import Classifier
from apercu.compare.bench import Bench, Progress, quiet, told
from apercu.compare.cost import environment
from apercu.compare.measures import MEASURES, METRICS
from apercu.compare.results import RESULTS, Call, Results, Subject
from apercu.compare.sample import Sample, draw
from apercu.compare.settings import CompareSettings
from apercu.errors import ApercuError, ImagesError, RunError
from apercu.images import ImageSource
from apercu.methods import Explainer, TrueBox


def compare(
    classifier: Classifier,
    source: ImageSource,
    explainers: Mapping[str, Explainer | TrueBox],
    settings: CompareSettings,
    *,
    out: Path | None = None,
    progress: Progress = quiet,
    command: str = "apercu.compare.compare(…)",
) -> Results:
    """Measure every explainer on the same images, in constant memory.

    One half of the images chooses each explainer's best threshold per metric; all rows are
    reported on the other half. With `out`, results are saved after each explainer, and what earlier
    calls finished there stays, unless an explainer of the same name is another one now, or has
    another name.

    An explainer that cannot be measured becomes a reason in `failed`, and the others go on.
    `command` is what a reader types to measure the same again.

    Raises:
        RunError: `out` holds a comparison of another classifier, other images or other settings.
        ImagesError: the images do not have the truth that a metric needs.
        ApercuError: none of the explainers could be measured; the first one's reason.
    """
    sample = draw(classifier, source, settings.limit, settings.seed)
    metrics = _metrics(classifier, sample, settings)
    bench = Bench(classifier, sample, metrics, settings, progress)
    call = Call(command, environment(settings.seed, classifier.device))
    results = _start(_subject(bench), call.environment, out)
    asked = {name: one.identity for name, one in explainers.items()}
    others = {
        name: identity
        for name, identity in results.explainers.items()
        if name not in asked and identity not in asked.values()
    }
    identities = {**asked, **others}
    results = results.only(identities)
    earlier_calls = results.calls
    missing = {name: one for name, one in explainers.items() if name not in results.explainers}
    failures = _rehearsed(bench, missing)
    for name, explainer in missing.items():
        if name not in failures:
            try:
                found = bench.measure(name, explainer)
            except Exception as error:  # whatever one does, the others go on
                failures[name] = _reason(name, error)
            else:
                try:
                    costs = bench.costs(name, explainer)
                except Exception as error:  # its rows stay
                    costs, failures[name] = [], _reason(f"cost of {name}", error)
                call = replace(call, explainers=(*call.explainers, name))
                results = replace(
                    results,
                    environment=call.environment,
                    explainers={**results.explainers, name: explainer.identity},
                    rows=(*results.rows, *found.rows),
                    cost=(*results.cost, *costs),
                    scores={**results.scores, **found.scores},
                    needs={**results.needs, name: explainer.needs},
                    curves={**results.curves, **({name: found.curves} if found.curves else {})},
                    calls=(*earlier_calls, call),
                ).only(identities)
        earlier = {n: why for n, why in results.failed.items() if n not in asked}
        failed = earlier | {n: str(error) for n, error in failures.items()}
        results = replace(results, failed=failed)
        if out is not None and results.explainers:
            results.save(out)
    if failures and not results.explainers:
        raise next(iter(failures.values()))
    return results


def _rehearsed(
    bench: Bench, explainers: Mapping[str, Explainer | TrueBox]
) -> dict[str, ApercuError]:
    """What goes wrong on one image, so that it is known before hours of work."""
    failures = {}
    for name, explainer in explainers.items():
        try:
            bench.rehearse(name, explainer)
        except Exception as error:  # whatever one does, the others go on
            failures[name] = _reason(name, error)
    return failures


def _reason(name: str, error: Exception) -> ApercuError:
    """The error as one of ours, in one line; running out of memory and the like become one."""
    if isinstance(error, ApercuError):
        return error
    first = next(iter(str(error).splitlines()), "")
    return ApercuError(f"{name}: {type(error).__name__} ({first}); leave it out, or mend it")


def _metrics(classifier: Classifier, sample: Sample, settings: CompareSettings) -> tuple[str, ...]:
    """The metrics that were asked for, or all that are possible and need not be named.

    Possible is what both halves know the truth for, and randomisation where weights can be reached.
    """

    def allowed(metric: str) -> bool:
        return all(
            any(told(entry, metric) for entry in half) for half in (sample.tune, sample.test)
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
    if settings.metrics:
        return tuple(metric for metric in METRICS if metric in settings.metrics)
    left_out = {metric for metric in METRICS if MEASURES[metric].named}
    if classifier.module is None:
        left_out.add("randomisation")
    return tuple(metric for metric in METRICS if metric not in left_out and allowed(metric))


def _subject(bench: Bench) -> Subject:
    sample, classifier = bench.sample, bench.classifier
    settings = {**asdict(bench.settings), "metrics": bench.metrics}
    return Subject(
        classifier=classifier.spec,
        fingerprint=classifier.fingerprint,
        images=sample.source.name,
        limit=len(sample.tune) + len(sample.test),
        targets="labels" if sample.source.labelled else "top",
        sample=sample.digest,
        settings=json.loads(json.dumps(settings)),
    )


def _start(subject: Subject, environment: Mapping[str, object], out: Path | None) -> Results:
    """Earlier results of the same subject, or none yet."""
    if out is None or not (out / RESULTS).is_file():
        return Results(subject, environment)
    earlier = Results.load(out)
    before, now = _flat(earlier.subject), _flat(subject)
    for name in now:
        if before.get(name) != now[name]:
            raise RunError(
                f"{out}: holds a comparison with {name} {before.get(name)}, this one has "
                f"{now[name]}; choose another --out"
            )
    return earlier


def _flat(subject: Subject) -> dict[str, object]:
    content = asdict(subject)
    return content | content.pop("settings")
