"""A classifier under attack: every job of a plan, image by image, then rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from apercu.classifiers import Classifier
from apercu.compare.sample import Sample, Trial, draw
from apercu.explainers.base import TrainedExplainer
from apercu.images import ImageSource
from apercu.robustness.aims import Answer, Untargeted
from apercu.robustness.attacks import Attack
from apercu.robustness.cells import Cells, Verdicts
from apercu.robustness.filters import Filter, FilterLayer
from apercu.robustness.measures import norms, overlap, rank_correlation
from apercu.robustness.plan import NONE, Job, StressPlan, jobs, judged
from apercu.types import Images, Targets

Progress: TypeAlias = Callable[[str, int, int], None]
Backward: TypeAlias = Literal["straight", "smooth"]

BACKWARDS: tuple[Backward, ...] = ("straight", "smooth")
"""What an attacker tries who knows of a filter: no gradient hides behind either of them alone."""


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
    """

    classifier: Classifier
    source: ImageSource
    plan: StressPlan
    attacks: Mapping[str, Attack]
    filters: Mapping[str, Filter | None]
    explainer: TrainedExplainer[Any, Any] | None = None
    sample: Sample = field(init=False)

    def __post_init__(self) -> None:
        plan = self.plan
        if self.explainer is not None:
            self.explainer.passport.check_classifier(self.classifier)
        found = draw(self.classifier, self.source, plan.limit, plan.seed, halves=False)
        object.__setattr__(self, "sample", found)

    @property
    def jobs(self) -> list[Job]:
        """All that has to be done."""
        return jobs(self.plan, dict(self.attacks), dict(self.filters))

    def run(self, out: Path, progress: Progress) -> dict[Job, Verdicts]:
        """Does every job that was not done before in this folder.

        Raises:
            ClassifierError: an attack needs gradients that are not there, or are all 0.
            OutputError: the folder cannot be written.
        """
        watched = "" if self.explainer is None else self.explainer.passport.fingerprint
        subject = f"{self.classifier.fingerprint} {self.sample.digest} {watched}"
        cells, found = Cells(out, subject), {}
        for job in self.jobs:
            shown = judged(job, dict(self.filters), self.plan)
            key = f"{job} {[self.filters[name] for name in shown]} {self._behind(job)}"
            known = cells.load(key)
            if known is None:
                known = self._done(job, shown, progress)
                cells.save(key, known)
            found[job] = known
        return found

    def attacked(self, job: Job, images: Images, labels: Targets) -> Images:
        """The images of a job: honest, or the attack's; of several ways the first that fools."""
        if job.attack is None:
            return images
        behind = self._behind(job)
        if behind is None:
            return job.attack(Untargeted(self.classifier, labels), images)
        ways = BACKWARDS if job.attack.needs == "gradients" else BACKWARDS[:1]
        best: Images | None = None
        for backward in ways:
            aim = Untargeted(self._answer(behind, backward), labels)
            found = job.attack(aim, images)
            if best is None:
                best = found
            else:
                fooled = aim.reached(best)[:, None, None, None]
                best = torch.where(fooled, best, found)
        return images if best is None else best

    def _behind(self, job: Job) -> Filter | None:
        return None if job.behind is None else self.filters[job.behind]

    def _answer(self, behind: Filter | None, backward: Backward = "straight") -> Answer:
        if behind is None:
            return self.classifier
        layer = FilterLayer(behind, backward)
        return lambda images: self.classifier(layer(images))

    def _done(self, job: Job, shown: list[str], progress: Progress) -> Verdicts:
        found = Verdicts(top1={name: [] for name in shown}, top5={name: [] for name in shown})
        words = [job.name, *([] if job.epsilon is None else [f"{255 * job.epsilon:g}/255"])]
        title = " ".join([*words, *([] if job.behind is None else [f"through {job.behind}"])])
        entries, done = self.sample.test, 0
        for trial in self.sample.trials(self.classifier, entries, self.plan.batch):
            self._judge(job, trial, shown, found)
            done += len(trial.entries)
            progress(title, done, len(entries))
        return found

    def _judge(self, job: Job, trial: Trial, shown: list[str], found: Verdicts) -> None:
        images = trial.images.to(self.classifier.device)
        labels = trial.targets.to(self.classifier.device)
        attacked = self.attacked(job, images, labels)
        for name in shown:
            with torch.no_grad():
                answers = self._answer(self.filters[name])(attacked)
            best = answers.topk(min(5, answers.shape[1]), dim=1).indices == labels[:, None]
            found.top1[name] += best[:, 0].tolist()
            found.top5[name] += best.any(1).tolist()
        for norm, values in norms(images, attacked).items():
            getattr(found, norm).extend(values.tolist())
        if self.explainer is not None and job.name != NONE:
            before, after = (self.explainer.attribute(one, labels) for one in (images, attacked))
            found.rank_correlation += rank_correlation(before, after).tolist()
            found.overlap += overlap(before, after).tolist()
