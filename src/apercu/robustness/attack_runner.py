"""Attacks on one batch, for an attacker who may know of a filter in front of the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from apercu.classifiers import Classifier
from apercu.classifiers.decisions import DecidedLogits
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.filters import BpdaMode, Filter, FilterLayer
from apercu.robustness.attacks.base import QueryCountingAttack, QueryCounts, compute_gradients
from apercu.robustness.curves import compute_norms
from apercu.robustness.jobs import Job
from apercu.robustness.objectives import (
    AttackObjective,
    BatchFlags,
    ExpectationOverTransforms,
    MapDistance,
    Untargeted,
    cross_entropy,
    negative_margin,
)
from apercu.types import Images, LogitsFn, Maps, Targets

BPDA_MODES: tuple[BpdaMode, ...] = ("straight_through", "surrogate")
"""Backward passes that an attacker tries if it knows of a filter; a gradient that vanishes in one
of them can appear in the other."""


def find_bpda_modes(job: Job) -> tuple[BpdaMode, ...]:
    """Find the backward passes that a job tries."""
    knows_filter = job.known_filter is not None
    follows_gradients = job.attack is not None and job.attack.needs == "gradients"
    return BPDA_MODES if knows_filter and follows_gradients else BPDA_MODES[:1]


def prefers_smaller_change(job: Job) -> bool:
    """Whether the smaller of two adversarial changes counts, because the job has no budget."""
    return len(find_bpda_modes(job)) > 1 and job.bound is None


def find_improvable(job: Job, objective: AttackObjective, attacked: Images) -> BatchFlags:
    """Find the images for which another backward pass may give a better result.

    These are the images that are not adversarial yet; and all images if the smaller change counts,
    or if the attack only knows classes, as those of the toolbox, which draw for a whole batch.
    """
    if prefers_smaller_change(job) or job.attack is None or not job.attack.any_objective:
        return torch.ones(len(attacked), dtype=torch.bool, device=attacked.device)
    return ~objective.is_adversarial(attacked)


def choose_better(
    job: Job,
    objective: AttackObjective,
    images: Images,
    first: Images,
    second: Images,
) -> Images:
    """Choose for each image the better of two results.

    An adversarial result is better than another one. Of two adversarial results the smaller change
    is better where the job has no budget, else the first one.

    Args:
        job: attack, norm and budget.
        objective: objective of the second result.
        images: clean images.
        first: images attacked with the first backward pass.
        second: images attacked with the second backward pass.

    Returns:
        Attacked images of the same shape.
    """
    keep_first = objective.is_adversarial(first)
    if prefers_smaller_change(job):
        first_size = compute_norms(images, first)[job.norm]
        second_size = compute_norms(images, second)[job.norm]
        keep_first &= ~(objective.is_adversarial(second) & (second_size < first_size))
    return torch.where(keep_first[:, None, None, None], first, second)


@dataclass(frozen=True, eq=False)
class AttackRunner:
    """Runs the attacks of jobs on batches of images.

    Args:
        classifier: bare classifier.
        filters: filters by name; None is no filter.
        explainer: trained explainer for attacks on its maps.
        surrogate: another classifier, which the jobs `on_surrogate` attack.
        seed: seed of the noise of attacks that average over noise.
    """

    classifier: Classifier
    filters: Mapping[str, Filter | None]
    explainer: TrainedExplainer[Any, Any] | None = None
    surrogate: Classifier | None = None
    seed: int = 0

    def attack(
        self, job: Job, images: Images, labels: Targets
    ) -> tuple[Images, QueryCounts | None]:
        """Run the attack of a job.

        Args:
            job: attack and target; a job without an attack returns the clean images.
            images: clean images in [0, 1], `batch × channels × height × width`.
            labels: class indices of the true classes.

        Returns:
            Attacked images, and the number of queries for each where the attack counts them.
        """
        if isinstance(job.attack, QueryCountingAttack):
            objective = self.build_objective(job, "straight_through", images, labels)
            return job.attack.attack_and_count(objective, images)
        if job.attack is None:
            return images, None
        first_mode, *other_modes = find_bpda_modes(job)
        objective = self.build_objective(job, first_mode, images, labels)
        best = job.attack(objective, images)
        for mode in other_modes:
            improvable = find_improvable(job, objective, best)
            if improvable.any():
                clean = images[improvable]
                other = self.build_objective(job, mode, clean, labels[improvable])
                attacked = job.attack(other, clean)
                better = choose_better(job, other, clean, best[improvable], attacked)
                best = best.index_put((improvable,), better)
        return best, None

    def find_stuck(self, job: Job, images: Images, labels: Targets, attacked: Images) -> BatchFlags:
        """Find the images whose attack failed because they have no gradient to follow.

        Args:
            job: attack and target.
            images: clean images.
            labels: class indices of the true classes.
            attacked: the same images after the attack.

        Returns:
            Whether each image is not adversarial and has no gradient in any backward pass.
        """
        stuck = torch.ones(len(images), dtype=torch.bool, device=images.device)
        for mode in find_bpda_modes(job):
            stuck &= ~self.build_objective(job, mode, images, labels).is_adversarial(attacked)
            if stuck.any():
                objective = self.build_objective(job, mode, images[stuck], labels[stuck])
                gradients, _ = compute_gradients(objective, images[stuck])
                stuck = stuck.masked_scatter(stuck, ~gradients.flatten(1).any(1))
        return stuck

    def build_objective(
        self, job: Job, mode: BpdaMode, images: Images, labels: Targets
    ) -> AttackObjective:
        """Build the objective of a job for a batch.

        An attack on the map keeps the predicted class, whether it is the true class or not. Where
        an image has none, the rows of the results leave it out.

        Args:
            job: attack and target.
            mode: backward pass of the filter.
            images: clean images.
            labels: class indices of the true classes.

        Returns:
            The objective that the attack maximises.
        """
        attacked = self.surrogate if job.on_surrogate and self.surrogate else self.classifier
        known_filter = None if job.known_filter is None else self.filters[job.known_filter]
        logits_fn = build_logits_fn(attacked, known_filter, mode)
        if job.objective == "map":
            with torch.no_grad():
                predicted = logits_fn(images).argmax(1)
                explain = self._build_map_fn(predicted)
                clean_maps = explain(images)
            return MapDistance(logits_fn, explain, predicted, clean_maps)
        loss = negative_margin if job.objective == "margin" else cross_entropy
        objective = Untargeted(logits_fn, labels, loss)
        if job.objective == "expected":
            return ExpectationOverTransforms(objective, seed=self.seed)
        return objective

    def _build_map_fn(self, targets: Targets) -> Callable[[Images], Maps]:
        """Build the function images → masks, with gradients, which `attribute` does not have."""
        explainer = self.explainer
        if explainer is None or not explainer.makes_masks:
            raise ConfigError("attacks: map_… attacks need a trained mask explainer")
        network = explainer.network
        return lambda images: network(images, targets).sigmoid()


def build_logits_fn(
    classifier: Classifier, filter: Filter | None, mode: BpdaMode = "straight_through"
) -> LogitsFn:
    """Build the function images → logits of a classifier, behind a filter if there is one."""
    if filter is None:
        return classifier
    layer = FilterLayer(filter, mode)
    return DecidedLogits(lambda images: classifier(layer(images)), classifier.decision)
