"""The stress test of a classifier, from a plan to `results.json` and `report.html`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apercu.classifiers import Classifier
from apercu.errors import describe_interrupt
from apercu.evaluation.cost import describe_environment
from apercu.explainers.base import TrainedExplainer
from apercu.filters import parse_filter
from apercu.images import ImageSource
from apercu.progress import ProgressCallback, show_in_notebook
from apercu.robustness.benchmark import StressBenchmark
from apercu.robustness.plan import StressPlan, parse_attack
from apercu.robustness.report import write_report
from apercu.robustness.results import StressResults, summarise
from apercu.run_record import lock_folder

DEFAULT_PLAN = StressPlan()


def run_stress_test(
    classifier: Classifier,
    source: ImageSource,
    out: Path,
    plan: StressPlan = DEFAULT_PLAN,
    *,
    explainer: TrainedExplainer[Any, Any] | None = None,
    surrogate: Classifier | None = None,
    progress: ProgressCallback | None = None,
    command: str = "",
) -> StressResults:
    """Attack a classifier with each attack at each budget, bare and behind each filter.

    A filter in front of the classifier is one of the tested filters, and `none` is its network
    alone. Results that are in the folder already are not computed again. A guard that the card
    names plays no part, which the results say; `measure_guard` attacks a classifier with its guard.

    Args:
        classifier: classifier that is attacked.
        source: images with labels; without labels, the predicted classes count as true.
        out: folder of the results.
        plan: attacks, filters, budgets and sample.
        explainer: explainer that was trained for this classifier; how far its maps move is
            measured, too.
        surrogate: another classifier; the classifier is also tested with images made against it.
        progress: receives the title of a job, the number of finished images, and that of all; None
            shows it in notebooks only.
        command: command line that the results and the report name.

    Returns:
        The results, which are also written as `results.json` and `report.html`.

    Raises:
        ConfigError: an attack or a filter has an unknown name or setting, or needs an explainer.
        ClassifierError: an attack needs gradients that are missing, or are all 0.
        RunError: another process works in the folder.
        OutputError: the folder cannot be written.
    """
    classifier.require_classes()
    plan = plan.with_filter_of(classifier)
    attacks = {name: parse_attack(name, plan.seed) for name in plan.attacks}
    filters = {name: parse_filter(name) for name in plan.filters}
    about: dict[str, Any] = {
        "classifier": classifier.spec,
        "fingerprint": classifier.fingerprint,
        "images": source.name,
        "targets": "labels" if source.labelled else "top",
        "plan": plan.model_dump(mode="json"),
        "command": command,
    }
    if classifier.guard_folder is not None:
        about["guard"] = classifier.guard_folder.name
    kept = describe_interrupt(f"{out} keeps what is finished; the same call goes on")
    with kept, lock_folder(out), show_in_notebook(progress) as report:
        benchmark = StressBenchmark(
            classifier, source, plan, attacks, filters, explainer, surrogate, report
        )
        jobs = benchmark.run(out, report)
        about["limit"] = len(benchmark.sample.test)
        environment = describe_environment(plan.seed, classifier.device)
        results = summarise(jobs, about, environment, plan.seed)
        results.save(out)
        write_report(results, benchmark, out)
    return results
