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
from apercu.robustness.attacks import Attack
from apercu.robustness.attacks.base import CountedAttack, Counts, slopes
from apercu.robustness.bpda import Backward, better, takes_the_smaller, undecided, ways
from apercu.robustness.filters import Filter, FilterLayer
from apercu.robustness.measures import norms, overlap, rank_correlation
from apercu.robustness.named import NONE, aim_of
from apercu.robustness.objectives import (
    Aim,
    Answer,
    Expected,
    MapMoved,
    Reached,
    Untargeted,
    cross_entropy,
    lag,
)
from apercu.robustness.plan import Job, StressPlan, jobs, judged
from apercu.robustness.result_cache import Cells, Verdicts, told
from apercu.types import Images, Maps, Targets

Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Bench:
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
        if any(aim_of(name) == "map" for name in self.attacks) and not isinstance(
            self.explainer, MaskExplainer
        ):
            raise ConfigError(
                "attacks: one on the map needs a trained mask explainer; give --explainer"
            )
        if self.surrogate is not None:
            _check_alike(self.classifier, self.surrogate)
        found = draw_sample(self.classifier, self.source, plan.limit, plan.seed, halves=False)
        object.__setattr__(self, "sample", found)

    @property
    def jobs(self) -> list[Job]:
        """All that has to be done."""
        other = self.surrogate is not None
        return jobs(self.plan, dict(self.attacks), dict(self.filters), surrogate=other)

    def run(self, out: Path, progress: Progress) -> dict[Job, Verdicts]:
        """Does every job that was not done before in this folder.

        Raises:
            ClassifierError: an attack needs gradients that are not there, or are all 0.
            OutputError: the folder cannot be written.
        """
        cells, found = Cells(out, self.subject), {}
        for job in self.jobs:
            key = self.key(job)
            known = cells.load(key)
            if known is None:
                known = self._done(job, progress)
                cells.save(key, known)
            found[job] = known
        return found

    @property
    def subject(self) -> str:
        """What all jobs depend on: classifier, images, and the weights of the explainer."""
        watched = ""
        if self.explainer is not None:
            kind = type(self.explainer).__name__
            watched = digest_module(self.explainer.network, kind, {})
        return f"{self.classifier.fingerprint} {self.sample.digest} {watched}"

    def key(self, job: Job) -> str:
        """What a job depends on besides: all that changes its verdicts, and nothing else."""
        shown = ", ".join(told(self.filters[name]) for name in self._shown(job))
        other = self.surrogate.fingerprint if self.surrogate and job.elsewhere else ""
        key = f"{job} [{shown}] {told(self._behind(job))} {other}"
        if job.attack is not None and job.attack.neighbours:
            key += f" {self.plan.batch} together"
        if aim_of(job.name) == "expected":
            key += f" noise {self.plan.seed}"
        return f"{key} the smaller" if takes_the_smaller(job) else key

    def attacked(self, job: Job, images: Images, labels: Targets) -> Images:
        """The images of a job: honest, or the attack's."""
        return self._made(job, images, labels)[0]

    def _made(self, job: Job, images: Images, labels: Targets) -> tuple[Images, Counts | None]:
        """The images of a job, and how many decisions were asked for where that is counted."""
        if isinstance(job.attack, CountedAttack):
            return job.attack.counted(self._aim(job, "straight", images, labels), images)
        if job.attack is None:
            return images, None
        first, *others = ways(job)
        aim = self._aim(job, first, images, labels)
        best = job.attack(aim, images)
        for backward in others:
            some = undecided(job, aim, best)
            if some.any():
                shown, true = images[some], labels[some]
                again = self._aim(job, backward, shown, true)
                made = best[some], job.attack(again, shown)
                best = best.index_put((some,), better(job, again, shown, made))
        return best, None

    def _stuck(self, job: Job, images: Images, labels: Targets, attacked: Images) -> Reached:
        """Which images did not arrive, and have no slope in any of the ways of a job."""
        stuck = torch.ones(len(images), dtype=torch.bool, device=images.device)
        for backward in ways(job):
            stuck &= ~self._aim(job, backward, images, labels).reached(attacked)
            if stuck.any():
                aim = self._aim(job, backward, images[stuck], labels[stuck])
                flat = ~slopes(aim, images[stuck])[0].flatten(1).any(1)
                stuck = stuck.masked_scatter(stuck, flat)
        return stuck

    def _aim(self, job: Job, backward: Backward, images: Images, labels: Targets) -> Aim:
        """What a job climbs; who moves a map keeps the class that is seen, true or not."""
        attacked = self.surrogate if job.elsewhere and self.surrogate else self.classifier
        answer, kind = self._answer(self._behind(job), backward, attacked), aim_of(job.name)
        if kind == "map":
            with torch.no_grad():
                seen = answer(images).argmax(1)
                explain = self._explain(seen)
                honest = explain(images)
            return MapMoved(answer, explain, seen, honest)
        aim = Untargeted(answer, labels, lag if kind == "margin" else cross_entropy)
        return Expected(aim, seed=self.plan.seed) if kind == "expected" else aim

    def _explain(self, labels: Targets) -> Callable[[Images], Maps]:
        """The explainer's masks with gradients, which `attribute` does not have."""
        explainer = self.explainer
        if not isinstance(explainer, MaskExplainer):
            raise ConfigError("attacks: one on the map needs a trained mask explainer")
        network = explainer.network
        return lambda images: network(images, labels).sigmoid()

    def _behind(self, job: Job) -> Filter | None:
        return None if job.behind is None else self.filters[job.behind]

    def _answer(
        self,
        behind: Filter | None,
        backward: Backward = "straight",
        classifier: Classifier | None = None,
    ) -> Answer:
        asked = classifier or self.classifier
        if behind is None:
            return asked
        layer = FilterLayer(behind, backward)
        return lambda images: asked(layer(images))

    def _shown(self, job: Job) -> list[str]:
        return judged(job, dict(self.filters), self.plan)

    def _done(self, job: Job, progress: Progress) -> Verdicts:
        shown = self._shown(job)
        found = Verdicts(top1={name: [] for name in shown}, top5={name: [] for name in shown})
        words = [job.name, *([] if job.epsilon is None else [f"{255 * job.epsilon:g}/255"])]
        words += ["through", job.behind] if job.behind else []
        title = " ".join([*words, *(["made elsewhere"] if job.elsewhere else [])])
        entries, done = self.sample.test, 0
        for trial in self.sample.read_batches(self.classifier, entries, self.plan.batch):
            self._judge(job, trial, found)
            done += len(trial.records)
            progress(title, done, len(entries))
        return found

    def _judge(self, job: Job, trial: EvalBatch, found: Verdicts) -> None:
        images = trial.images.to(self.classifier.device)
        labels = trial.targets.to(self.classifier.device)
        attacked, asked = self._made(job, images, labels)
        for name in found.top1:
            with torch.no_grad():
                answers = self._answer(self.filters[name])(attacked)
            best = answers.topk(min(5, answers.shape[1]), dim=1).indices == labels[:, None]
            found.top1[name] += best[:, 0].tolist()
            found.top5[name] += best.any(1).tolist()
        for norm, values in norms(images, attacked).items():
            getattr(found, norm).extend(values.tolist())
        if asked is not None:
            found.queries += asked.tolist()
        if job.attack is not None and job.attack.climbs and aim_of(job.name) != "map":
            found.stuck += self._stuck(job, images, labels, attacked).tolist()
        if self.explainer is not None and job.name != NONE:
            before, after = (self.explainer.attribute(one, labels) for one in (images, attacked))
            found.rank_correlation += rank_correlation(before, after).tolist()
            found.overlap += overlap(before, after).tolist()


def _check_alike(classifier: Classifier, other: Classifier) -> None:
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
