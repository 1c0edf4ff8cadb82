"""What a stress test attacks, what of it is kept, and under which key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from apercu import open_classifier
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.run_folder import load_explainer
from apercu.images import open_images
from apercu.robustness.attacks import DeepFool
from apercu.robustness.benchmark import StressBenchmark
from apercu.robustness.measures import compute_norms
from apercu.robustness.objectives import MapDistance
from apercu.robustness.plan import Job, StressPlan, find_test_filters, parse_attack, parse_filter

PLANTED = "planted:size=32,images=6,classes=3"


def bench(
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


def keys(made: StressBenchmark) -> list[str]:
    return [made.make_cache_key(job) for job in made.jobs]


def test_keys_of_cells_are_those_of_cells_that_are_there(tiny_card: Path) -> None:
    """Long runs go on after an update."""
    made = bench(tiny_card, "fgsm mult", "none bayer blue_noise:bits=2", epsilons=(0.25,))
    shown = "[None, Bayer(bits=1, size=8), BlueNoise(bits=2, seed=0)]"
    fgsm = "Job(name='fgsm', epsilon=0.25, attack=Fgsm(epsilon=0.25)"
    mult = (
        "Job(name='mult', epsilon=None, attack=Multiplicative(ratio=1.1, steps=10, pace=0.25, "
        "norm='linf')"
    )
    one = "[Bayer(bits=1, size=8)] Bayer(bits=1, size=8) "
    other = "[BlueNoise(bits=2, seed=0)] BlueNoise(bits=2, seed=0) "
    assert keys(made) == [
        f"Job(name='none', epsilon=None, attack=None, behind=None, elsewhere=False) {shown} None ",
        f"{fgsm}, behind=None, elsewhere=False) {shown} None ",
        f"{fgsm}, behind='bayer', elsewhere=False) {one}",
        f"{fgsm}, behind='blue_noise:bits=2', elsewhere=False) {other}",
        f"{mult}, behind=None, elsewhere=False) {shown} None ",
        f"{mult}, behind='bayer', elsewhere=False) {one}",
        f"{mult}, behind='blue_noise:bits=2', elsewhere=False) {other}",
    ]
    assert made.cache_subject == f"{made.classifier.fingerprint} {made.sample.digest} "


def test_a_batch_is_part_of_a_key_where_neighbours_are_looked_at(tiny_card: Path) -> None:
    for attack, alike in (("pgd", True), ("square", False), ("sparse_evo", False)):
        one, other = (keys(bench(tiny_card, attack, batch=batch)) for batch in (1, 8))
        assert (one == other) is alike, attack


def test_what_a_result_is_drawn_from_is_part_of_its_key(tiny_card: Path) -> None:
    for attack, alike in (("fgsm", True), ("pgd", False), ("eot_fgsm", False)):
        one, other = (keys(bench(tiny_card, attack, seed=seed)) for seed in (0, 1))
        assert (one == other) is alike, attack


def test_an_attack_on_a_map_is_shown_behind_filters_to_those_who_know_them(
    tiny_card: Path, tiny_run: Path
) -> None:
    settings: dict[str, Any] = {"epsilons": (0.1,), "knowledge": ("adaptive",)}
    made = bench(tiny_card, "map_fgsm", "jpeg", load_explainer(tiny_run), **settings)
    assert [find_test_filters(job, dict(made.filters), made.plan) for job in made.jobs] == [
        ["jpeg"]
    ] * 2


def test_images_without_a_slope_are_noted(tiny_card: Path) -> None:
    made = bench(tiny_card, "fgsm", "none bayer", epsilons=(0.02,))
    (trial,) = made.sample.read_batches(made.classifier, made.sample.test, 6)
    images, job = trial.images, made.jobs[1]
    with torch.no_grad():
        seen = made.classifier(images).argmax(1)
    assert not made._find_stuck(job, images, seen, images).any()  # not fooled, and all have a slope
    last = made.classifier.module
    assert last is not None
    with torch.no_grad():
        weights = [*last.parameters()][-2:]
        for one in weights:
            one.mul_(1e6)  # so sure that its cross-entropy is exactly 0
        seen = made.classifier(images).argmax(1)
    attacked = made.make_images(job, images, (seen + 1) % 3)
    wrong = made._find_stuck(job, images, (seen + 1) % 3, attacked)  # wrong already: nothing to do
    assert not wrong.any()
    assert made._find_stuck(job, images, seen, images).all()
    by_margin = bench(tiny_card, "margin_fgsm", "none bayer", epsilons=(0.02,)).jobs[1]
    assert not made._find_stuck(by_margin, images, seen, images).any()


def test_another_explainer_of_the_same_classifier_is_another_subject(
    tiny_card: Path, tiny_run: Path
) -> None:
    first, second = load_explainer(tiny_run), load_explainer(tiny_run)
    assert bench(tiny_card, "pgd", explainer=first).cache_subject == (
        bench(tiny_card, "pgd", explainer=second).cache_subject
    )
    with torch.no_grad():
        next(second.network.parameters()).add_(0.1)
    assert bench(tiny_card, "pgd", explainer=first).cache_subject != (
        bench(tiny_card, "pgd", explainer=second).cache_subject
    )


def test_who_moves_a_map_keeps_the_class_that_is_seen(tiny_card: Path, tiny_run: Path) -> None:
    made = bench(tiny_card, "map_pgd", explainer=load_explainer(tiny_run), epsilons=(0.1,))
    (trial,) = made.sample.read_batches(made.classifier, made.sample.test, 6)
    with torch.no_grad():
        seen = made.classifier(trial.images).argmax(1)
    assert (seen != trial.targets).any()  # it was never trained
    aim = made._build_objective(made.jobs[1], "straight", trial.images, trial.targets)
    assert isinstance(aim, MapDistance) and torch.equal(aim.labels, seen)
    with torch.no_grad():
        after = made.classifier(made.make_images(made.jobs[1], trial.images, trial.targets))
    assert torch.equal(after.argmax(1), seen)


def test_without_a_budget_the_smaller_of_two_changes_counts(tiny_card: Path) -> None:
    made = bench(tiny_card, "deepfool", "bayer:bits=2")
    (trial,) = made.sample.read_batches(made.classifier, made.sample.test, 6)
    job = Job("deepfool", None, DeepFool(), "bayer:bits=2")
    aims = [
        made._build_objective(job, backward, trial.images, trial.targets)
        for backward in ("straight", "smooth")
    ]
    never, sizes = torch.tensor(torch.inf), []
    for aim in aims:
        one = DeepFool()(aim, trial.images)
        sizes.append(compute_norms(trial.images, one)["l2"].where(aim.is_adversarial(one), never))
    assert (sizes[1] < sizes[0]).any()  # the first way is not always the best
    found = made.make_images(job, trial.images, trial.targets)
    assert aims[0].is_adversarial(found).all()
    torch.testing.assert_close(compute_norms(trial.images, found)["l2"], torch.stack(sizes).amin(0))


def test_a_second_way_is_tried_where_the_first_does_not_fool(tiny_card: Path) -> None:
    made = bench(tiny_card, "pgd:steps=2", "median", epsilons=(0.02,))
    (trial,) = made.sample.read_batches(made.classifier, made.sample.test, 6)
    job = made.jobs[-1]
    assert job.known_filter == "median" and job.attack is not None
    straight, smooth = (
        made._build_objective(job, backward, trial.images, trial.targets)
        for backward in ("straight", "smooth")
    )
    first, second = (job.attack(aim, trial.images) for aim in (straight, smooth))
    fooled = straight.is_adversarial(first)
    assert fooled.any() and not fooled.all()
    found = made.make_images(job, trial.images, trial.targets)
    torch.testing.assert_close(found, torch.where(fooled[:, None, None, None], first, second))


def test_questions_are_rows(tiny_card: Path, tmp_path: Path) -> None:
    made = bench(tiny_card, "sparse_evo:queries=12", limit=3)
    found = made.run(tmp_path, lambda *_: None)
    asked = list(found.values())[1].queries
    assert len(asked) == 3 and max(asked) <= 12
    assert made.run(tmp_path, lambda *_: None) == found
