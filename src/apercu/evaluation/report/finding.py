"""What a comparison found, in sentences, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from apercu.evaluation.protocols import PROTOCOLS, list_overrides
from apercu.evaluation.ranking import (
    MAIN_METRICS,
    SIGNIFICANCE,
    Leader,
    count_images,
    find_baseline,
    find_group,
    find_leader,
    find_reference,
    format_interval,
    list_metrics,
    list_trained,
)
from apercu.evaluation.results import ComparisonResults, MetricRow
from apercu.methods.own import FUNCTION
from apercu.metrics import MetricRecord
from apercu.pages import (
    FEW_IMAGES,
    Finding,
    FindingLine,
    Mark,
    count_noun,
    join_words,
    name_subject,
)

TASKS: Mapping[str, str] = {
    "saliency_metric": "finding a small crop that keeps the class",
    "localisation_error": "finding the box of the object",
    "pointing_game": "pointing at the object",
    "iauc": "finding the pixels that bring the class back",
    "iou": "outlining the object",
    "dauc": "finding the pixels without which the class is lost",
}
"""What the main metrics measure, in plain words."""
THRESHOLDS: Mapping[str, str] = {
    "half": "one half of the images chose the threshold of every explainer, metric by metric; "
    "values at a threshold come from the other half",
    "folds": "each half of the images chose the threshold of every explainer for the other half, "
    "metric by metric; values at a threshold come from all images, and where the two thresholds "
    "differ, both are shown",
    "same": "the reported images themselves chose the threshold of every explainer, metric by "
    "metric, in hindsight; so values at a threshold are too favourable",
}
"""Which images chose thresholds, by `CompareSettings.thresholds_from`."""
MANY_TASKS = 3
"""Tasks that a headline names, at most; of more it gives the number."""


def write_finding(results: ComparisonResults) -> Finding:
    """Return what a comparison found: who is best, how sure that is, and the values behind it.

    Baselines, which never look at the classifier, cannot win; the headline names those that are
    better than the best explainer beyond chance. An explainer is called clearly the best only where
    the paired test says so against every other one.

    Args:
        results: the comparison.

    Returns:
        The sentences.
    """
    measured = list_metrics(results)
    main = [name for name in MAIN_METRICS if name in measured] or measured
    leaders = [leader for name in main if (leader := find_leader(results, name)) is not None]
    lines = [
        *(line for leader in leaders for line in _describe_leader(results, leader)),
        *(
            FindingLine(f"{name} could not be measured: {reason}", "warning")
            for name, reason in results.failed.items()
        ),
    ]
    if constant := describe_constant_maps(results):
        lines.append(FindingLine(constant, "warning"))
    return Finding(
        _write_headline(results, leaders),
        " ".join(_describe_certainty(results, leaders)),
        tuple(lines),
    )


def write_headline(results: ComparisonResults) -> str:
    """Return what was found in one line, for a terminal and below a table."""
    finding = write_finding(results)
    return f"{finding.headline} {describe_constant_maps(results)}".rstrip()


def describe_constant_maps(results: ComparisonResults) -> str:
    """Return a sentence that counts constant maps by explainer; empty where there are none.

    Baselines and the true boxes are left out: some are constant by design. What a function needs is
    not known.
    """
    counts = [
        f"{name} on {count_noun(count, 'image')}"
        for name, count in results.constant.items()
        if (results.needs[name] or results.explainers[name].startswith(FUNCTION))
        and find_group(results, name) == "explainer"
    ]
    return f"Constant maps, which show nothing: {', '.join(counts)}." if counts else ""


def describe_thresholds(results: ComparisonResults) -> str:
    """Return which images chose thresholds, without a full stop; empty where none was chosen."""
    if all(row.threshold_from in (None, "fixed") for row in results.rows):
        return ""
    return THRESHOLDS[results.key.settings.get("thresholds_from", "half")]


def describe_protocol(results: ComparisonResults) -> str:
    """Return the published protocol that was followed, and what differs; empty without one."""
    key = results.key
    name = key.settings.get("protocol")
    if name is None:
        return ""
    targets = "labels" if key.targets == "labels" else "predicted"
    protocol = PROTOCOLS.get(name)
    source = f" ({protocol.source})" if protocol else ""
    settings = {"thresholds_from": "half", **key.settings, "targets": targets}
    overrides = list_overrides(name, settings)
    text = f"{name}{source}{f', but with {join_words(overrides)}' if overrides else ''}."
    if protocol is not None and protocol.differences:
        text += f" What differs from the published code: {protocol.differences}"
    return text


def describe_reference(results: ComparisonResults) -> str:
    """Return a sentence that says what the marks mean, and against whom the test is.

    Empty where nothing is compared.
    """
    reference = find_reference(results)
    if reference is None:
        missing = results.against
        return "" if missing is None else f"{missing} was not measured, so nothing is tested."
    if results.against is not None:
        why = ""
    elif reference in list_trained(results):
        why = ", the best trained explainer,"
    else:
        why = ", the first one of the ranking,"
    return (
        f"▲ better and ▼ worse than {reference}{why} on the same images, beyond chance: sign-flip "
        f"test on the paired differences, p < {SIGNIFICANCE} after Holm's adjustment for all rows "
        "of the column. Without a mark the difference may be chance."
    )


def describe_baseline(results: ComparisonResults, name: str) -> str:
    """Return a baseline in plain words, with its name."""
    return f"{find_baseline(results, name)} ({name})"


def name_task(record: MetricRecord) -> str:
    """Return what a metric measures, as it stands after "the best"."""
    task = TASKS.get(record.name)
    return f"at {task}" if task else f"on {record.phrase}"


def _write_headline(results: ComparisonResults, leaders: Sequence[Leader]) -> str:
    """Return who is best, and then which baselines are better than every explainer, and where."""
    if not leaders:
        if not results.rows:
            return "Nothing was measured."
        return "Only baselines were measured, which never look at the classifier."
    count = 1 + max(len(leader.others) for leader in leaders)
    if count > 1 and (blind := _find_common_rival(leaders, "better")):
        return f"Every explainer does worse than {_describe_blind(results, blind)}."
    if wins := _list_wins(results, leaders):
        headline = _name_winners(wins, leaders, count)
    elif count == 1:
        headline = _write_headline_of_one(results, leaders)
    else:
        headline = _write_headline_of_none(results, leaders, count)
    who = "every explainer" if count > 1 else leaders[0].row.explainer
    return " ".join([headline, *_describe_better_baselines(results, leaders, who, headline)])


def _write_headline_of_one(results: ComparisonResults, leaders: Sequence[Leader]) -> str:
    """Return the headline where a single explainer was measured, perhaps with baselines."""
    name = leaders[0].row.explainer
    compared = [leader for leader in leaders if leader.baselines]
    if not compared:
        return f"{name} was measured alone, so there is nothing to compare it with."
    ahead = [leader for leader in compared if not _list_rivals(leader)]
    if ahead:
        tasks = _name_tasks(
            [name_task(results.get_metric(leader.row.metric)) for leader in ahead], len(compared)
        )
        return f"{name} is clearly better than explanations without the classifier {tasks}."
    blind = _find_common_rival(compared)
    words = _describe_blind(results, blind) if blind else "explanations without the classifier"
    return f"{name} is not clearly better than {words}."


def _write_headline_of_none(
    results: ComparisonResults, leaders: Sequence[Leader], count: int
) -> str:
    """Return the headline where several explainers were measured and none is clearly the best."""
    images = max(count_images(results).values())
    if images == 1:
        return f"One image cannot tell which of {count} explainers is the best."
    if not any(leader.is_tested for leader in leaders):
        return "The values could not be tested, so no explainer is called the best."
    if blind := _find_common_rival(leaders):
        return f"No explainer is clearly better than {_describe_blind(results, blind)}."
    if any(leader.is_clear for leader in leaders):
        return "No explainer is clearly better than all others and than all baselines."
    few = f"With {images} images, no" if images < FEW_IMAGES else "No"
    return (
        f"{few} explainer is clearly the best: "
        "the differences between the first ones may be chance."
    )


def _describe_better_baselines(
    results: ComparisonResults, leaders: Sequence[Leader], who: str, headline: str
) -> Iterator[str]:
    """Yield a sentence for each baseline that is better than the best explainer beyond chance.

    Args:
        results: the comparison.
        leaders: the best explainer of each metric.
        who: what does worse than the baseline.
        headline: what was said before: a baseline that it describes is named only.

    Yields:
        Sentences, with the tasks of each.
    """
    tasks: dict[str, list[str]] = {}
    for leader in leaders:
        if rivals := _list_rivals(leader, "better"):
            task = name_task(results.get_metric(leader.row.metric))
            tasks.setdefault(rivals[0].explainer, []).append(task)
    for name, each in tasks.items():
        words = name if f"({name})" in headline else _describe_blind(results, name)
        start = _name_tasks(each, len(leaders))
        yield f"{start[:1].upper()}{start[1:]}, {who} does worse than {words}."


def _describe_blind(results: ComparisonResults, name: str) -> str:
    """Return a baseline in plain words, and that it never looks at the classifier."""
    noun = str(find_baseline(results, name)).partition(" of ")[0]
    verb = "look" if noun.endswith("s") else "looks"  # "the edges" and "random numbers" are plural
    return f"{describe_baseline(results, name)}, which never {verb} at the classifier"


def _find_common_rival(leaders: Sequence[Leader], verdict: str | None = None) -> str | None:
    """Return the first baseline that `_list_rivals` has for every metric; None without one."""
    first, *others = ([row.explainer for row in _list_rivals(each, verdict)] for each in leaders)
    return next((name for name in first if all(name in names for names in others)), None)


def _list_wins(results: ComparisonResults, leaders: Sequence[Leader]) -> dict[str, list[str]]:
    """Return the tasks at which each explainer is clearly the best, and no baseline is better."""
    wins: dict[str, list[str]] = {}
    for leader in leaders:
        if leader.is_clear and not _list_rivals(leader, "better"):
            task = name_task(results.get_metric(leader.row.metric))
            wins.setdefault(leader.row.explainer, []).append(task)
    return wins


def _list_rivals(leader: Leader, verdict: str | None = None) -> list[MetricRow]:
    """Return the baselines that the best explainer is not clearly better than.

    Args:
        leader: the best explainer of a metric.
        verdict: `better` for those only that are clearly better than it.

    Returns:
        The rows, best first.
    """
    if verdict is None:
        return [row for row in leader.baselines if leader.judge(row) != "worse"]
    return [row for row in leader.baselines if leader.judge(row) == verdict]


def _name_winners(wins: Mapping[str, Sequence[str]], leaders: Sequence[Leader], count: int) -> str:
    (first, tasks), *others = wins.items()
    if count == 2:
        rows = (row for leader in leaders for row in (leader.row, *leader.others))
        other = next(row.explainer for row in rows if row.explainer != first)
        start = f"{first} is clearly better than {other}"
    else:
        start = f"{first} is clearly the best of {count} explainers"
    parts = [f"{start} {_name_tasks(tasks, len(leaders))}"]
    parts += [f"{name} {_name_tasks(each, len(leaders))}" for name, each in others]
    return f"{'; '.join(parts)}."


def _name_tasks(tasks: Sequence[str], count: int) -> str:
    """Return tasks as the end of a sentence; of many only how many of all they are."""
    if len(tasks) <= MANY_TASKS:
        return join_words(tasks)
    if len(tasks) == count:
        return f"on all {count} main metrics"
    return f"on {len(tasks)} of {count} main metrics"


def _describe_certainty(results: ComparisonResults, leaders: Sequence[Leader]) -> Iterator[str]:
    """Yield sentences: how many images, what "clearly" means, and what limits the finding."""
    counts = sorted({row.n for row in results.rows}, reverse=True)
    if not counts:
        return
    subject = f"of {name_subject(results.key.images)}"
    if len(counts) > 1:
        fewer = join_words([f"{count:,}" for count in counts[1:]])
        subject += f" ({fewer} of them for some metrics)"
    yield f"Measured on {count_noun(counts[0], 'image')} {subject}, the same for all explainers."
    if any(leader.is_tested for leader in leaders) and counts[0] > 1:
        yield (
            "“Clearly” means more than chance: a test of the differences on the same images "
            f"gives p < {SIGNIFICANCE} for each pair, adjusted for the number of rows."
        )
    if 1 < counts[0] < FEW_IMAGES:
        yield "So few images show only large differences."
    if _list_wins(results, leaders):
        yield from _describe_limits(results, leaders)


def _describe_limits(results: ComparisonResults, leaders: Sequence[Leader]) -> Iterator[str]:
    """Yield sentences: which tasks nobody wins, and which baselines may be as good as a winner."""
    open_tasks = [
        name_task(results.get_metric(leader.row.metric))
        for leader in leaders
        if leader.others and not leader.is_clear
    ]
    if open_tasks:
        yield f"There is no clear best {join_words(open_tasks)}."
    weak: dict[str, list[str]] = {}
    for leader in leaders:
        if (rivals := _list_rivals(leader)) and not _list_rivals(leader, "better"):
            words = describe_baseline(results, rivals[0].explainer)
            task = name_task(results.get_metric(leader.row.metric))
            weak.setdefault(words, []).append(task)
    if weak:
        parts = [f"{_name_tasks(tasks, len(leaders))}: {words}" for words, tasks in weak.items()]
        yield (
            f"Yet something that never looks at the classifier may do as well {'; '.join(parts)}."
        )


def _describe_leader(results: ComparisonResults, leader: Leader) -> Iterator[FindingLine]:
    """Yield the values of the best and of the next; apart, those of a baseline not behind it."""
    record = results.get_metric(leader.row.metric)
    task = TASKS.get(record.name, record.title)
    name = "" if task == record.title else f"{record.title}, "
    text = f"{task[:1].upper()}{task[1:]} ({name}{leader.row.better} is better): "
    text += _describe_value(record, leader.row)
    if leader.others:
        text += f", then {_describe_value(record, leader.others[0])}"
    mark: Mark = "plain"
    if leader.is_tested:
        mark = "clear" if leader.is_clear else "chance"
    yield FindingLine(f"{text}.", mark)
    if not (rivals := _list_rivals(leader, "better") or _list_rivals(leader)):
        return
    verdict = leader.judge(rivals[0])
    text = f"{task[:1].upper()}{task[1:]} without looking at the classifier: "
    text += _describe_value(record, rivals[0])
    if verdict == "better":
        who = "every explainer" if leader.others else leader.row.explainer
        yield FindingLine(f"{text}, better than {who}.", "warning")
    else:
        text += f", against {_describe_value(record, leader.row)}"
        yield FindingLine(f"{text}.", "chance" if verdict else "plain")


def _describe_value(record: MetricRecord, row: MetricRow) -> str:
    """Return the name of a row, its value and, where there is more than one image, its interval."""
    return f"{row.explainer} {record.format_value(row.value)} ({format_interval(record, row)})"
