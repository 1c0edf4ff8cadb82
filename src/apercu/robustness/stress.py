"""The stress test of a classifier, from a plan to `results.json` and `report.html`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apercu.classifiers import Classifier, open_classifier
from apercu.devices import enable_gradients
from apercu.errors import RunError, describe_interrupt
from apercu.evaluation.cost import describe_environment
from apercu.explainers.base import AnyExplainer
from apercu.explainers.run_folder import open_both
from apercu.filters import parse_filter
from apercu.images import ImageSource, check_images
from apercu.io import parse_json
from apercu.log import warn
from apercu.progress import ProgressOption, open_progress
from apercu.robustness.benchmark import StressBenchmark
from apercu.robustness.jobs import format_budget
from apercu.robustness.plan import StressPlan, adapt_plan, parse_attack
from apercu.robustness.report import write_report
from apercu.robustness.results import RESULTS, StressResults, summarise
from apercu.run_record import lock_folder

DEFAULT_PLAN = StressPlan()


@enable_gradients()
def run_stress_test(
    classifier: Classifier | str | Path,
    images: ImageSource | str | Path,
    out: str | Path,
    plan: StressPlan = DEFAULT_PLAN,
    *,
    explainer: AnyExplainer | str | Path | None = None,
    surrogate: Classifier | str | Path | None = None,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
    command: str = "",
) -> StressResults:
    """Attack a classifier with each attack at each budget, bare and behind each filter.

    >>> import apercu
    >>> plan = apercu.robustness.StressPlan(filters=("none", "jpeg"))
    >>> results = apercu.run_stress_test(  # doctest: +SKIP
    ...     "timm/resnet50", "val/", "stress", plan
    ... )

    A filter in front of the classifier is one of the tested filters, and `none` is its network
    alone. Results that are in the folder already are not computed again; `results.json` and the
    report are about this plan, and a warning names what they no longer hold. A guard that the card
    names plays no part, which the results say; `measure_guard` attacks a classifier with its guard.

    Args:
        classifier: classifier that is attacked, or its SPEC.
        images: images with labels, or their SPEC; without labels, the predicted classes count as
            true.
        out: folder of the results.
        plan: attacks, filters, budgets and sample. Attacks that it does not name are replaced, with
            a warning, where the classifier has no gradients.
        explainer: explainer that was trained for this classifier, or its run folder; how far its
            maps move is measured, too.
        surrogate: another classifier, or its SPEC; the classifier is also tested with images made
            against it.
        device: `auto`, `cpu`, `cuda` or `mps`, where a classifier that is opened here computes.
        trust: whether a card or a run may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        command: command line that the results and the report name.

    Returns:
        The results, which are also written as `results.json` and `report.html`.

    Raises:
        ConfigError: an attack or a filter has an unknown name or setting, or needs an explainer.
        ClassifierError: an attack needs gradients that are missing, or are all 0.
        RunError: the folder holds results of another command, or another process works there.
        OutputError: the folder cannot be written.
    """
    out = Path(out)
    for name in plan.filters:  # misspelt names are found before the classifier opens
        parse_filter(name)
    for name in plan.attacks:
        parse_attack(name)
    check_images(images)
    classifier, explainer = open_both(classifier, explainer, device=device, trust=trust)
    classifier.require_classes()
    plan = adapt_plan(plan, classifier)
    attacks = {name: parse_attack(name, plan.seed) for name in plan.attacks}
    filters = {name: parse_filter(name) for name in plan.filters}
    source = classifier.open_images(images)
    if surrogate is not None and not isinstance(surrogate, Classifier):
        surrogate = open_classifier(surrogate, device=classifier.device, trust=trust)
    about = _describe_test(classifier, source, plan, command)
    kept = describe_interrupt(f"{out} keeps what is finished; the same call goes on")
    with kept, lock_folder(out), open_progress(progress) as report:
        earlier = _warn_of_earlier_results(about, plan, out)
        benchmark = StressBenchmark(
            classifier, source, plan, attacks, filters, explainer, surrogate, report
        )
        if earlier is not None and earlier != benchmark.sample.left_out:
            warn(
                f"{out}: other images cannot be read than in the earlier call, so its results are "
                "replaced by those of the images that can be read now"
            )
        jobs = benchmark.run(out, report)
        about["limit"] = len(benchmark.sample.test)
        if left_out := list(benchmark.sample.left_out):
            about["left_out"] = left_out
        environment = describe_environment(plan.seed, classifier.device)
        results = summarise(jobs, about, environment, plan.seed)
        results.save(out)
        write_report(results, benchmark, out)
    return results


def _describe_test(
    classifier: Classifier, source: ImageSource, plan: StressPlan, command: str
) -> dict[str, Any]:
    """Return what the results say of the test itself: classifier, images, plan and guard."""
    guard = classifier.guard_folder
    return {
        "classifier": classifier.spec,
        "fingerprint": classifier.fingerprint,
        "images": source.name,
        "targets": "labels" if source.labelled else "top",
        "plan": plan.model_dump(mode="json"),
        "command": command,
        **({} if guard is None else {"guard": guard.name}),
    }


def _warn_of_earlier_results(
    about: Mapping[str, Any], plan: StressPlan, out: Path
) -> tuple[str, ...] | None:
    """Say what the results in a folder will no longer hold; raises RunError for other files.

    Returns:
        The images that an earlier call on the same sample left out; None without such a call.
    """
    path = out / RESULTS
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_bytes())
        earlier = StressPlan.model_validate(content["plan"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{path}: is damaged, or holds results of another command; choose another --out"
        ) from error
    same = all(content.get(key) == about[key] for key in ("fingerprint", "images"))
    if not same or (earlier.seed, earlier.limit) != (plan.seed, plan.limit):
        warn(
            f"{out}: these results replace those of {content.get('classifier')} on "
            f"{content.get('images')} with seed {earlier.seed} and limit {earlier.limit}; choose "
            "another --out to have both"
        )
        return None
    names = [name for name in earlier.attacks if name not in plan.attacks]
    names += [name for name in earlier.filters if name not in plan.filters]
    names += [format_budget(each) for each in earlier.epsilons if each not in plan.epsilons]
    if names:
        warn(
            f"{out}: these results leave out {', '.join(names)} of an earlier call; name them too "
            "to have all together, which computes nothing again"
        )
    return tuple(content.get("left_out", ()))
