"""The jobs of a stress test, their objectives, and the keys of their results in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from apercu import open_classifier
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.run_folder import load_explainer
from apercu.filters import parse_filter
from apercu.images import open_images
from apercu.robustness.attacks import DeepFool
from apercu.robustness.benchmark import StressBenchmark
from apercu.robustness.curves import compute_norms
from apercu.robustness.jobs import Job, find_test_filters
from apercu.robustness.objectives import MapDistance
from apercu.robustness.plan import StressPlan, parse_attack

PLANTED = "planted:size=32,images=6,classes=3"


def make_benchmark(
    card: Path,
    attacks: str,
    filters: str = "none",
    explainer: TrainedExplainer[Any, Any] | None = None,
    **settings: Any,
) -> StressBenchmark:
    plan = StressPlan(attacks=tuple(attacks.split()), filters=tuple(filters.split()), **settings)
    return StressBenchmark(
        open_classifier(card),
        open_images(PLANTED),
        plan,
        {name: parse_attack(name, plan.seed) for name in plan.attacks},
        {name: parse_filter(name) for name in plan.filters},
        explainer,
    )


def keys(benchmark: StressBenchmark) -> list[str]:
    return [benchmark.make_cache_key(job) for job in benchmark.jobs]


def test_keys_are_those_of_results_that_were_stored_before(tiny_card: Path) -> None:
    """Long tests can be continued after an update."""
    benchmark = make_benchmark(
        tiny_card, "fgsm mult", "none bayer blue_noise:bits=2", epsilons=(0.25,)
    )
    text = "[None, Bayer(bits=1, size=8), BlueNoise(bits=2, seed=0)]"
    fgsm = "Job(name='fgsm', epsilon=0.25, attack=Fgsm(epsilon=0.25)"
    mult = (
        "Job(name='mult', epsilon=None, attack=Multiplicative(ratio=1.1, steps=10, pace=0.25, "
        "norm='linf')"
    )
    one = "[Bayer(bits=1, size=8)] Bayer(bits=1, size=8) "
    other = "[BlueNoise(bits=2, seed=0)] BlueNoise(bits=2, seed=0) "
    assert keys(benchmark) == [
        f"Job(name='none', epsilon=None, attack=None, behind=None, elsewhere=False) {text} None ",
        f"{fgsm}, behind=None, elsewhere=False) {text} None ",
        f"{fgsm}, behind='bayer', elsewhere=False) {one}",
        f"{fgsm}, behind='blue_noise:bits=2', elsewhere=False) {other}",
        f"{mult}, behind=None, elsewhere=False) {text} None ",
        f"{mult}, behind='bayer', elsewhere=False) {one}",
        f"{mult}, behind='blue_noise:bits=2', elsewhere=False) {other}",
    ]
    assert (
        benchmark.cache_subject == f"{benchmark.classifier.fingerprint} {benchmark.sample.digest} "
    )


def test_the_batch_is_part_of_a_key_where_an_attack_uses_it(tiny_card: Path) -> None:
    for attack, alike in (("pgd", True), ("square", False), ("sparse_evo", False)):
        one, other = (keys(make_benchmark(tiny_card, attack, batch=batch)) for batch in (1, 8))
        assert (one == other) is alike, attack


def test_the_seed_of_an_attack_is_part_of_its_key(tiny_card: Path) -> None:
    for attack, alike in (("fgsm", True), ("pgd", False), ("eot_fgsm", False)):
        one, other = (keys(make_benchmark(tiny_card, attack, seed=seed)) for seed in (0, 1))
        assert (one == other) is alike, attack


def test_an_attack_on_a_map_is_tested_behind_filters_that_the_attacker_knows(
    tiny_card: Path, tiny_run: Path
) -> None:
    settings: dict[str, Any] = {"epsilons": (0.1,), "knowledge": ("adaptive",)}
    benchmark = make_benchmark(tiny_card, "map_fgsm", "jpeg", load_explainer(tiny_run), **settings)
    assert [
        find_test_filters(job, dict(benchmark.filters), benchmark.plan) for job in benchmark.jobs
    ] == [["jpeg"]] * 2


def test_images_without_a_gradient_are_found(tiny_card: Path) -> None:
    benchmark = make_benchmark(tiny_card, "fgsm", "none bayer", epsilons=(0.02,))
    (batch,) = benchmark.sample.read_batches(benchmark.classifier, benchmark.sample.test, 6)
    images, job = batch.images, benchmark.jobs[1]
    with torch.no_grad():
        predicted = benchmark.classifier(images).argmax(1)
    assert not benchmark.runner.find_stuck(
        job, images, predicted, images
    ).any()  # not fooled, and all have a gradient
    last = benchmark.classifier.module
    assert last is not None
    with torch.no_grad():
        weights = [*last.parameters()][-2:]
        for one in weights:
            one.mul_(1e6)  # so certain that the cross-entropy is exactly 0
        predicted = benchmark.classifier(images).argmax(1)
    attacked = benchmark.make_images(job, images, (predicted + 1) % 3)
    wrong = benchmark.runner.find_stuck(
        job, images, (predicted + 1) % 3, attacked
    )  # wrong already: nothing to do
    assert not wrong.any()
    assert benchmark.runner.find_stuck(job, images, predicted, images).all()
    by_margin = make_benchmark(tiny_card, "margin_fgsm", "none bayer", epsilons=(0.02,)).jobs[1]
    assert not benchmark.runner.find_stuck(by_margin, images, predicted, images).any()


def test_another_explainer_of_the_same_classifier_is_another_subject(
    tiny_card: Path, tiny_run: Path
) -> None:
    first, second = load_explainer(tiny_run), load_explainer(tiny_run)
    assert make_benchmark(tiny_card, "pgd", explainer=first).cache_subject == (
        make_benchmark(tiny_card, "pgd", explainer=second).cache_subject
    )
    with torch.no_grad():
        next(second.network.parameters()).add_(0.1)
    assert make_benchmark(tiny_card, "pgd", explainer=first).cache_subject != (
        make_benchmark(tiny_card, "pgd", explainer=second).cache_subject
    )


def test_an_attack_on_a_map_keeps_the_predicted_class(tiny_card: Path, tiny_run: Path) -> None:
    benchmark = make_benchmark(
        tiny_card, "map_pgd", explainer=load_explainer(tiny_run), epsilons=(0.1,)
    )
    (batch,) = benchmark.sample.read_batches(benchmark.classifier, benchmark.sample.test, 6)
    with torch.no_grad():
        predicted = benchmark.classifier(batch.images).argmax(1)
    assert (predicted != batch.targets).any()  # it was never trained
    objective = benchmark.runner.build_objective(
        benchmark.jobs[1], "straight_through", batch.images, batch.targets
    )
    assert isinstance(objective, MapDistance) and torch.equal(objective.labels, predicted)
    with torch.no_grad():
        after = benchmark.classifier(
            benchmark.make_images(benchmark.jobs[1], batch.images, batch.targets)
        )
    assert torch.equal(after.argmax(1), predicted)


def test_without_a_budget_the_smaller_of_two_changes_counts(tiny_card: Path) -> None:
    benchmark = make_benchmark(tiny_card, "deepfool", "bayer:bits=2")
    (batch,) = benchmark.sample.read_batches(benchmark.classifier, benchmark.sample.test, 6)
    job = Job("deepfool", None, DeepFool(), "bayer:bits=2")
    objectives = [
        benchmark.runner.build_objective(job, backward, batch.images, batch.targets)
        for backward in ("straight_through", "surrogate")
    ]
    never, sizes = torch.tensor(torch.inf), []
    for objective in objectives:
        one = DeepFool()(objective, batch.images)
        sizes.append(
            compute_norms(batch.images, one)["l2"].where(objective.is_adversarial(one), never)
        )
    assert (sizes[1] < sizes[0]).any()  # the first backward pass is not always the best
    result = benchmark.make_images(job, batch.images, batch.targets)
    assert objectives[0].is_adversarial(result).all()
    torch.testing.assert_close(
        compute_norms(batch.images, result)["l2"], torch.stack(sizes).amin(0)
    )


def test_a_second_backward_pass_is_tried_where_the_first_does_not_fool(tiny_card: Path) -> None:
    benchmark = make_benchmark(tiny_card, "pgd:steps=2", "median", epsilons=(0.02,))
    (batch,) = benchmark.sample.read_batches(benchmark.classifier, benchmark.sample.test, 6)
    job = benchmark.jobs[-1]
    assert job.known_filter == "median" and job.attack is not None
    first_objective, second_objective = (
        benchmark.runner.build_objective(job, backward, batch.images, batch.targets)
        for backward in ("straight_through", "surrogate")
    )
    first, second = (
        job.attack(objective, batch.images) for objective in (first_objective, second_objective)
    )
    fooled = first_objective.is_adversarial(first)
    assert fooled.any() and not fooled.all()
    result = benchmark.make_images(job, batch.images, batch.targets)
    torch.testing.assert_close(result, torch.where(fooled[:, None, None, None], first, second))


def test_queries_are_counted(tiny_card: Path, tmp_path: Path) -> None:
    benchmark = make_benchmark(tiny_card, "sparse_evo:queries=12", limit=3)
    results = benchmark.run(tmp_path, lambda *_: None)
    queries = list(results.values())[1].queries
    assert len(queries) == 3 and max(queries) <= 12
    assert benchmark.run(tmp_path, lambda *_: None) == results
