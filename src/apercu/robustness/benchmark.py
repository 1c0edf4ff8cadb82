"""A classifier under attack: every job of a plan, image by image, then rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch

from apercu.classifiers import Classifier
from apercu.classifiers.fingerprint import digest_module
from apercu.errors import ConfigError
from apercu.evaluation.sample import EvalBatch, EvalSample, draw_sample
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.images import ImageSource
from apercu.robustness.attack_runner import (
    BpdaMode,
    choose_better,
    find_bpda_modes,
    find_improvable,
    prefers_smaller_change,
)
from apercu.robustness.attacks import Attack
from apercu.robustness.attacks.base import QueryCountingAttack, QueryCounts, compute_gradients
from apercu.robustness.filters import Filter, FilterLayer
from apercu.robustness.measures import compute_norms, overlap_of_strongest, rank_correlation
from apercu.robustness.objectives import (
    AttackObjective,
    BatchFlags,
    ExpectationOverTransforms,
    LogitsFn,
    MapDistance,
    Untargeted,
    cross_entropy,
    negative_margin,
)
from apercu.robustness.plan import (
    NONE,
    Job,
    StressPlan,
    find_objective_name,
    find_test_filters,
    plan_jobs,
)
from apercu.robustness.result_cache import AttackResult, ResultCache, make_cache_key
from apercu.types import Images, Maps, Targets

Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class StressBenchmark:
    """What is attacked, and how.

    Args:
        classifier: the bare one.
        source: images with labels; without, the classifier's answers count as true.
        plan: what is asked.
        attacks: by name as typed.
        filters: by name as typed; None is no filter.
        explainer: whose maps are watched; it was trained for this classifier.
        surrogate: another classifier, against which attacks are made, too.
    """

    classifier: Classifier
    source: ImageSource
    plan: StressPlan
    attacks: Mapping[str, Attack]
    filters: Mapping[str, Filter | None]
    explainer: TrainedExplainer[Any, Any] | None = None
    surrogate: Classifier | None = None
    sample: EvalSample = field(init=False)

    def __post_init__(self) -> None:
        plan = self.plan
        if self.explainer is not None:
            self.explainer.classifier_info.check_classifier(self.classifier)
        if any(find_objective_name(name) == "map" for name in self.attacks) and not isinstance(
            self.explainer, MaskExplainer
        ):
            raise ConfigError(
                "attacks: one on the map needs a trained mask explainer; give --explainer"
            )
        if self.surrogate is not None:
            _check_surrogate(self.classifier, self.surrogate)
        found = draw_sample(self.classifier, self.source, plan.limit, plan.seed, halves=False)
        object.__setattr__(self, "sample", found)

    @property
    def jobs(self) -> list[Job]:
        """All that has to be done."""
        other = self.surrogate is not None
        return plan_jobs(self.plan, dict(self.attacks), dict(self.filters), surrogate=other)

    def run(self, out: Path, progress: Progress) -> dict[Job, AttackResult]:
        """Does every job that was not done before in this folder.

        Raises:
            ClassifierError: an attack needs gradients that are not there, or are all 0.
            OutputError: the folder cannot be written.
        """
        cells, found = ResultCache(out, self.cache_subject), {}
        for job in self.jobs:
            key = self.make_cache_key(job)
            known = cells.load(key)
            if known is None:
                known = self._run_job(job, progress)
                cells.save(key, known)
            found[job] = known
        return found

    @property
    def cache_subject(self) -> str:
        """What all jobs depend on: classifier, images, and the weights of the explainer."""
        watched = ""
        if self.explainer is not None:
            kind = type(self.explainer).__name__
            watched = digest_module(self.explainer.network, kind, {})
        return f"{self.classifier.fingerprint} {self.sample.digest} {watched}"

    def make_cache_key(self, job: Job) -> str:
        """What a job depends on besides: all that changes its verdicts, and nothing else."""
        shown = ", ".join(make_cache_key(self.filters[name]) for name in self._find_filters(job))
        other = self.surrogate.fingerprint if self.surrogate and job.on_surrogate else ""
        key = f"{job} [{shown}] {make_cache_key(self._get_filter(job))} {other}"
        if job.attack is not None and job.attack.uses_whole_batch:
            key += f" {self.plan.batch} together"
        if find_objective_name(job.name) == "expected":
            key += f" noise {self.plan.seed}"
        return f"{key} the smaller" if prefers_smaller_change(job) else key

    def make_images(self, job: Job, images: Images, labels: Targets) -> Images:
        """The images of a job: honest, or the attack's."""
        return self._attack(job, images, labels)[0]

    def _attack(
        self, job: Job, images: Images, labels: Targets
    ) -> tuple[Images, QueryCounts | None]:
        """The images of a job, and how many decisions were asked for where that is counted."""
        if isinstance(job.attack, QueryCountingAttack):
            return job.attack.attack_and_count(
                self._build_objective(job, "straight_through", images, labels), images
            )
        if job.attack is None:
            return images, None
        first, *others = find_bpda_modes(job)
        aim = self._build_objective(job, first, images, labels)
        best = job.attack(aim, images)
        for backward in others:
            some = find_improvable(job, aim, best)
            if some.any():
                shown, true = images[some], labels[some]
                again = self._build_objective(job, backward, shown, true)
                made = best[some], job.attack(again, shown)
                best = best.index_put((some,), choose_better(job, again, shown, made))
        return best, None

    def _find_stuck(
        self, job: Job, images: Images, labels: Targets, attacked: Images
    ) -> BatchFlags:
        """Which images did not arrive, and have no slope in any of the ways of a job."""
        stuck = torch.ones(len(images), dtype=torch.bool, device=images.device)
        for backward in find_bpda_modes(job):
            stuck &= ~self._build_objective(job, backward, images, labels).is_adversarial(attacked)
            if stuck.any():
                aim = self._build_objective(job, backward, images[stuck], labels[stuck])
                flat = ~compute_gradients(aim, images[stuck])[0].flatten(1).any(1)
                stuck = stuck.masked_scatter(stuck, flat)
        return stuck

    def _build_objective(
        self, job: Job, backward: BpdaMode, images: Images, labels: Targets
    ) -> AttackObjective:
        """What a job climbs; who moves a map keeps the class that is seen, true or not."""
        attacked = self.surrogate if job.on_surrogate and self.surrogate else self.classifier
        answer, kind = (
            self._build_logits_fn(self._get_filter(job), backward, attacked),
            find_objective_name(job.name),
        )
        if kind == "map":
            with torch.no_grad():
                seen = answer(images).argmax(1)
                explain = self._build_map_fn(seen)
                honest = explain(images)
            return MapDistance(answer, explain, seen, honest)
        aim = Untargeted(answer, labels, negative_margin if kind == "margin" else cross_entropy)
        return ExpectationOverTransforms(aim, seed=self.plan.seed) if kind == "expected" else aim

    def _build_map_fn(self, labels: Targets) -> Callable[[Images], Maps]:
        """The explainer's masks with gradients, which `attribute` does not have."""
        explainer = self.explainer
        if not isinstance(explainer, MaskExplainer):
            raise ConfigError("attacks: one on the map needs a trained mask explainer")
        network = explainer.network
        return lambda images: network(images, labels).sigmoid()

    def _get_filter(self, job: Job) -> Filter | None:
        return None if job.known_filter is None else self.filters[job.known_filter]

    def _build_logits_fn(
        self,
        behind: Filter | None,
        backward: BpdaMode = "straight_through",
        classifier: Classifier | None = None,
    ) -> LogitsFn:
        asked = classifier or self.classifier
        if behind is None:
            return asked
        layer = FilterLayer(behind, backward)
        return lambda images: asked(layer(images))

    def _find_filters(self, job: Job) -> list[str]:
        return find_test_filters(job, dict(self.filters), self.plan)

    def _run_job(self, job: Job, progress: Progress) -> AttackResult:
        shown = self._find_filters(job)
        found = AttackResult(top1={name: [] for name in shown}, top5={name: [] for name in shown})
        words = [job.name, *([] if job.epsilon is None else [f"{255 * job.epsilon:g}/255"])]
        words += ["through", job.known_filter] if job.known_filter else []
        title = " ".join([*words, *(["made elsewhere"] if job.on_surrogate else [])])
        entries, done = self.sample.test, 0
        for trial in self.sample.read_batches(self.classifier, entries, self.plan.batch):
            self._add_results(job, trial, found)
            done += len(trial.records)
            progress(title, done, len(entries))
        return found

    def _add_results(self, job: Job, trial: EvalBatch, found: AttackResult) -> None:
        images = trial.images.to(self.classifier.device)
        labels = trial.targets.to(self.classifier.device)
        attacked, asked = self._attack(job, images, labels)
        for name in found.top1:
            with torch.no_grad():
                answers = self._build_logits_fn(self.filters[name])(attacked)
            best = answers.topk(min(5, answers.shape[1]), dim=1).indices == labels[:, None]
            found.top1[name] += best[:, 0].tolist()
            found.top5[name] += best.any(1).tolist()
        for norm, values in compute_norms(images, attacked).items():
            getattr(found, norm).extend(values.tolist())
        if asked is not None:
            found.queries += asked.tolist()
        if (
            job.attack is not None
            and job.attack.any_objective
            and find_objective_name(job.name) != "map"
        ):
            found.stuck += self._find_stuck(job, images, labels, attacked).tolist()
        if self.explainer is not None and job.name != NONE:
            before, after = (self.explainer.attribute(one, labels) for one in (images, attacked))
            found.rank_correlation += rank_correlation(before, after).tolist()
            found.overlap += overlap_of_strongest(before, after).tolist()


def _check_surrogate(classifier: Classifier, other: Classifier) -> None:
    """Raises ConfigError for a classifier whose images or classes are others."""
    mine, its = (
        (one.channels, one.size, len(one.classes), one.differentiable)
        for one in (classifier, other)
    )
    if mine[:3] != its[:3] or not its[3]:
        raise ConfigError(
            f"surrogate {other.spec}: expected one with gradients, images of "
            f"{'×'.join(map(str, (mine[0], *mine[1])))} and {mine[2]} classes"
        )
