"""The benchmark of a stress test: runs every job of a plan, and tests the classifier with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.evaluation.sample import EvalBatch, EvalSample, draw_sample
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.filters import NONE, Filter
from apercu.filters.base import format_cache_key
from apercu.images import ImageSource
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.attack_runner import AttackRunner, build_logits_fn, prefers_smaller_change
from apercu.robustness.attacks import Attack
from apercu.robustness.curves import compute_norms, overlap_of_strongest
from apercu.robustness.jobs import (
    AttackResult,
    Job,
    ResultCache,
    find_test_filters,
    plan_jobs,
)
from apercu.robustness.plan import StressPlan, find_objective_name
from apercu.statistics import spearman
from apercu.types import Images, Targets
from apercu.weights import digest_module


@dataclass(frozen=True, eq=False)
class StressBenchmark:
    """A classifier, images, and the attacks and filters of a stress test.

    Args:
        classifier: the classifier; a filter in front of it is taken off, and may be tested as one
            of the filters.
        source: images with labels; without labels, the predicted classes count as true.
        plan: budgets, knowledge of the attacker, and sample.
        attacks: attacks by name.
        filters: filters by name; None is no filter.
        explainer: explainer that was trained for this classifier, and whose maps are compared.
        surrogate: another classifier, which is attacked, too.
        report: receives how many images were read, before the attacks.
    """

    classifier: Classifier
    source: ImageSource
    plan: StressPlan
    attacks: Mapping[str, Attack]
    filters: Mapping[str, Filter | None]
    explainer: TrainedExplainer[Any, Any] | None = None
    surrogate: Classifier | None = None
    report: ProgressCallback = field(default=ignore_progress, repr=False)
    sample: EvalSample = field(init=False)
    runner: AttackRunner = field(init=False)

    def __post_init__(self) -> None:
        plan, bare = self.plan, self.classifier.without_filter()
        self._check_explainer(bare)
        if self.surrogate is not None:
            _check_surrogate(bare, self.surrogate)
        runner = AttackRunner(bare, self.filters, self.explainer, self.surrogate, plan.seed)
        sample = draw_sample(
            bare, self.source, plan.limit, plan.seed, halves=False, report=self.report
        )
        object.__setattr__(self, "classifier", bare)
        object.__setattr__(self, "runner", runner)
        object.__setattr__(self, "sample", sample)

    def _check_explainer(self, bare: Classifier) -> None:
        """Raise an error for an explainer of another classifier, or none that an attack needs."""
        if self.explainer is not None:
            info = self.explainer.classifier_info
            is_of_bare = info.fingerprint == bare.fingerprint
            info.check_classifier(bare if is_of_bare else self.classifier)
        needs_masks = any(find_objective_name(name) == "map" for name in self.attacks)
        if needs_masks and not isinstance(self.explainer, MaskExplainer):
            raise ConfigError(
                "attacks: map_… attacks need a trained mask explainer; give --explainer"
            )

    @property
    def jobs(self) -> list[Job]:
        """All jobs in the order in which they run."""
        return plan_jobs(
            self.plan, self.attacks, self.filters, surrogate=self.surrogate is not None
        )

    def run(self, out: Path, progress: ProgressCallback) -> dict[Job, AttackResult]:
        """Run every job whose result is not in a folder yet.

        Args:
            out: folder of the results.
            progress: receives the title of a job and how many images are finished.

        Returns:
            The result of every job.

        Raises:
            ClassifierError: an attack needs gradients that are missing, or are all 0.
            OutputError: the folder cannot be written.
        """
        cache = ResultCache(out, self.cache_subject)
        results: dict[Job, AttackResult] = {}
        for job in self.jobs:
            key = self.make_cache_key(job)
            result = cache.load(key)
            if result is None:
                result = self._run_job(job, progress)
                cache.save(key, result)
            results[job] = result
        return results

    @property
    def cache_subject(self) -> str:
        """What all results depend on: classifier, images, and the weights of the explainer."""
        explainer_digest = ""
        if self.explainer is not None:
            kind = type(self.explainer).__name__
            explainer_digest = digest_module(self.explainer.network, kind, {})
        return f"{self.classifier.fingerprint} {self.sample.digest} {explainer_digest}"

    def make_cache_key(self, job: Job) -> str:
        """Make the text on everything else that the result of a job depends on."""
        tested = ", ".join(format_cache_key(self.filters[name]) for name in self._find_filters(job))
        attacked = None if job.known_filter is None else self.filters[job.known_filter]
        surrogate = self.surrogate.fingerprint if self.surrogate and job.on_surrogate else ""
        key = f"{job.cache_key} [{tested}] {format_cache_key(attacked)} {surrogate}"
        if job.attack is not None and job.attack.uses_whole_batch:
            key += f" {self.plan.batch} together"
        if job.objective == "expected":
            key += f" noise {self.plan.seed}"
        return f"{key} the smaller" if prefers_smaller_change(job) else key

    def make_images(self, job: Job, images: Images, labels: Targets) -> Images:
        """Make the images of a job: attacked images, or the clean ones for no attack."""
        return self.runner.attack(job, images, labels)[0]

    def _find_filters(self, job: Job) -> list[str]:
        return find_test_filters(job, self.filters, self.plan)

    def _run_job(self, job: Job, progress: ProgressCallback) -> AttackResult:
        """Attack all images of the sample, and test the classifier with them."""
        names = self._find_filters(job)
        result = AttackResult(top1={name: [] for name in names}, top5={name: [] for name in names})
        records, count = self.sample.test, 0
        progress(job.title, 0, len(records))
        for batch in self.sample.read_batches(self.classifier, records, self.plan.batch):
            self._add_results(job, batch, result)
            count += len(batch.records)
            progress(job.title, count, len(records))
        return result

    def _add_results(self, job: Job, batch: EvalBatch, result: AttackResult) -> None:
        """Attack one batch, and append what was measured to the result."""
        images = batch.images.to(self.classifier.device)
        labels = batch.targets.to(self.classifier.device)
        attacked, queries = self.runner.attack(job, images, labels)
        for name in result.top1:
            with torch.no_grad():
                logits = build_logits_fn(self.classifier, self.filters[name])(attacked)
            correct = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            if self.classifier.decision.is_multiple:
                predicted = self.classifier.decision.is_predicted(logits, labels)
            else:
                predicted = correct[:, 0]
            result.top1[name] += predicted.tolist()
            result.top5[name] += correct.any(1).tolist()
        for norm, values in compute_norms(images, attacked).items():
            getattr(result, norm).extend(values.tolist())
        if queries is not None:
            result.queries += queries.tolist()
        if job.attack is not None and job.attack.any_objective and job.objective != "map":
            result.stuck += self.runner.find_stuck(job, images, labels, attacked).tolist()
        if self.explainer is not None and job.name != NONE:
            before = self.explainer.attribute(images, labels)
            after = self.explainer.attribute(attacked, labels)
            result.rank_correlation += spearman(before.flatten(1), after.flatten(1)).tolist()
            result.overlap += overlap_of_strongest(before, after).tolist()


def _check_surrogate(classifier: Classifier, surrogate: Classifier) -> None:
    """Raise ConfigError for a surrogate that takes other images, or has other classes."""
    same_shape = (classifier.channels, classifier.size, len(classifier.classes)) == (
        surrogate.channels,
        surrogate.size,
        len(surrogate.classes),
    )
    if not (same_shape and surrogate.differentiable):
        shape = "×".join(map(str, (classifier.channels, *classifier.size)))
        raise ConfigError(
            f"surrogate {surrogate.spec}: expected one with gradients, images of {shape} "
            f"and {len(classifier.classes)} classes"
        )
