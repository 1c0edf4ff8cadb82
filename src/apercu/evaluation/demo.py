"""The demo: real photographs explained; then a classifier, its explainer, how it compares."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from apercu import render
from apercu.classifiers import Classifier, open_classifier, save_classifier
from apercu.errors import ConfigError, RunError
from apercu.evaluation.comparison import run_comparison
from apercu.evaluation.demo_classifier import ClassifierTraining, measure_accuracy, train_classifier
from apercu.evaluation.gallery import draw_gallery
from apercu.evaluation.open_explainers import wrap_trained
from apercu.evaluation.report import GalleryImage, write_report, write_tables
from apercu.evaluation.results import RESULTS_FILE, ComparisonResults
from apercu.evaluation.settings import CompareSettings
from apercu.explain.mask_explanation import MaskExplanation
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.ready import DEFAULT_RUN, list_photographs
from apercu.explainers.run_folder import WEIGHTS, load_run
from apercu.explainers.train import train_explainer
from apercu.extras import is_installed
from apercu.images import Planted
from apercu.io import parse_json, write_file
from apercu.methods import (
    CentreBox,
    GradCam,
    Gradient,
    MapExplainer,
    Occlusion,
    TrueBox,
    WholeBox,
)
from apercu.progress import ProgressCallback, ignore_progress
from apercu.run_record import Phase, RunRecord, lock_folder
from apercu.training.trainer import Hardware, Trainer

TRAIN_IMAGES, TEST_IMAGES = 2000, 200
"""Training images, and test images that are compared (half of them choose thresholds)."""
CLASSIFIER_TRAINING = ClassifierTraining()
MASK_SCHEDULE = {"steps": 300, "batch": 32, "save_every": 20}
MASK_SETTINGS = MASK_PRESETS.parse({"preset": "light", "schedule": MASK_SCHEDULE})
METHODS: dict[str, MapExplainer | TrueBox] = {
    "gradient": Gradient(),
    "grad_cam": GradCam(),
    "occlusion": Occlusion(),
    "centre_box": CentreBox(),
    "whole_box": WholeBox(),
    "true_box": TrueBox(),
}
METRICS = ("saliency_metric", "localisation_error", "iou")
PLAN, CARD, FACTS, RUN = "demo.json", "classifier/card.json", "classifier/facts.json", "mask"
STEPS, SAVE_EVERY = "classifier/steps.pt", 5.0
"""The file of the classifier's training while it lasts, and the seconds between two savings."""
PHOTOGRAPHS = "photographs"
SECOND_CLASSES = {"coffee.jpg": ("cup",)}
"""Photographs that are explained for other classes than the predicted one, too."""


class DemoPlan(BaseModel):
    """Everything that a demo depends on, as `demo.json` holds it.

    Attributes:
        seed: the seed of the images and of every draw.
        images: the number of training images.
        tested: the number of test images.
        lessons: the training of the classifier.
        mask: the settings of the mask explainer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: int
    images: int
    tested: int
    lessons: dict[str, Any]
    mask: dict[str, Any]


@dataclass(frozen=True)
class DemoResults:
    """What a demo leaves behind: the results of its comparison, and the report."""

    comparison: ComparisonResults
    report: Path


@dataclass(frozen=True)
class Demo:
    """One demo in a folder; a finished stage is reused, and an interrupted training goes on.

    Attributes:
        out: the folder.
        seed: the seed of the images and of every draw.
        device: `cpu` or `cuda`.
        progress: is called with what is done, how much of it, and how much in all.
        say: receives one line of news at a time.
    """

    out: Path
    seed: int
    device: str
    progress: ProgressCallback = field(repr=False)
    say: Callable[[str], None] = field(repr=False)

    def run(self) -> DemoResults:
        """Run all stages, or reuse the finished ones.

        The demo of a version with other settings is removed from the folder, and begun again.

        Raises:
            RunError: the folder holds a demo with another seed.
            OutputError: the folder cannot be written.
        """
        plan = DemoPlan(
            seed=self.seed,
            images=TRAIN_IMAGES,
            tested=TEST_IMAGES,
            lessons=asdict(CLASSIFIER_TRAINING),
            mask=MASK_SETTINGS.model_dump(mode="json"),
        )
        if (self.out / PLAN).is_file():
            with lock_folder(self.out):
                self._remove_other_version(plan)
        with RunRecord(self.out, {PLAN: plan}, "demo").begin():
            photographs = self._explain_photographs()
            classifier = self._prepare_classifier()
            explainer = self._prepare_explainer(classifier)
        test = Planted(images=TEST_IMAGES, seed=self.seed, split="test")
        explainers = {"mask": wrap_trained(explainer, classifier), **METHODS}
        results = run_comparison(
            classifier,
            test,
            explainers,
            CompareSettings(METRICS, seed=self.seed),
            out=self.out,
            progress=self.progress,
            command=f"apercu demo --seed {self.seed}",
        )
        images = draw_gallery(classifier, test, explainers, results, progress=self.progress)
        write_tables(results, self.out)
        report = write_report(results, images, self.out / "report.html", photographs=photographs)
        return DemoResults(results, report)

    def _remove_other_version(self, plan: DemoPlan) -> None:
        """Remove the demo of a version with other settings, which no option could bring back."""
        path = self.out / PLAN
        try:
            before = parse_json(path.read_bytes())
        except ValueError:
            return  # damaged; the record says so
        if not isinstance(before, dict) or before.get("seed") != self.seed:
            return
        if _complete(before) == plan:
            if before != plan.model_dump(mode="json"):
                write_file(path, plan.model_dump_json(indent=1) + "\n")
            return
        self.say(f"{self.out}: holds the demo of another version, with other settings; starts over")
        for name in (RESULTS_FILE, Path(CARD).parent, RUN, PLAN):  # what says whose it is, last
            item = self.out / name
            if item.is_dir():
                shutil.rmtree(item)
            else:
                item.unlink(missing_ok=True)

    def _explain_photographs(self) -> list[GalleryImage]:
        """Explain real photographs, where the ready-made explainer is installed."""
        if not is_installed("ready"):
            self.say(
                "photographs: left out; pip install 'apercu[ready]' for a ready-made explainer"
            )
            return []
        folder = self.out / PHOTOGRAPHS
        images = explain_photographs(folder, self.device, self.progress)
        for image in images:
            self.say(f"{image.name}: {image.caption}")
        self.say(f"photographs: {folder}")
        return images

    def _prepare_classifier(self) -> Classifier:
        """Train the classifier, or open the trained one."""
        key = f"{self.seed} {TRAIN_IMAGES} {CLASSIFIER_TRAINING}"
        steps = Phase("classifier", self.progress, self.out / STEPS, key, SAVE_EVERY)
        if (self.out / FACTS).is_file():
            classifier = open_classifier(self.out / CARD, device=self.device)
            accuracy = _read_accuracy(self.out / FACTS)
        else:
            source = Planted(images=TRAIN_IMAGES, seed=self.seed)
            classifier = train_classifier(source, CLASSIFIER_TRAINING, self.device, steps)
            test = Planted(images=TEST_IMAGES, seed=self.seed, split="test")
            accuracy = measure_accuracy(classifier, test)
            save_classifier(classifier, (self.out / CARD).parent)
            write_file(self.out / FACTS, json.dumps({"accuracy": accuracy}) + "\n")
        steps.remove()
        self.say(f"classifier: right on {accuracy:.1%} of {TEST_IMAGES} test images")
        return classifier

    def _prepare_explainer(self, classifier: Classifier) -> MaskExplainer:
        """Train the explainer, or open the trained one."""
        run = self.out / RUN
        if not (run / WEIGHTS).is_file():
            source = Planted(images=TRAIN_IMAGES, seed=self.seed)
            hardware = Hardware(self.device)
            trainer = Trainer(classifier, source, run, hardware, self.seed, self.say, self.progress)
            train_explainer(MASK_SETTINGS, trainer, classifier)
        explainer = MaskExplainer.from_pretrained(run, device=self.device)
        self.say(f"mask explainer: trained in {explainer.facts['training_seconds']:.0f} s")
        return explainer


def explain_photographs(
    folder: Path, device: str = "cpu", report: ProgressCallback = ignore_progress
) -> list[GalleryImage]:
    """Explain the photographs of the package with the ready-made explainer.

    Args:
        folder: folder for the pictures; it is created.
        device: `cpu`, `cuda` or `mps`.
        report: receives the name of the work, how much is done, and how much there is.

    Returns:
        One entry for each photograph and class: the photograph, its overlay, what is kept and what
        is removed.

    Raises:
        MissingExtraError: the weights of the classifier are not installed.
        OutputError: the folder cannot be written.
    """
    explainer = load_run(DEFAULT_RUN, MaskExplainer).to(device)
    requests: list[tuple[Path, str | None]] = []
    for path in list_photographs():
        requests += [(path, None), *((path, name) for name in SECOND_CLASSES.get(path.name, ()))]
    images = []
    for number, (path, target) in enumerate(requests):
        explanation = cast(MaskExplanation, explainer.explain(path, target))
        stem = path.stem if target is None else f"{path.stem}-{target}"
        views = {
            "evidence": explanation.overlay(),
            "kept": explanation.kept(),
            "removed": explanation.removed(),
        }
        for name, view in views.items():
            render.save_image(folder / f"{stem}.{name}.png", view)
        picture = render.to_image(explanation.image)
        images.append(GalleryImage(path.name, _describe_target(explanation), picture, views))
        report("photographs", number + 1, len(requests))
    return images


def _complete(before: dict[str, Any]) -> DemoPlan | None:
    """Return the plan of a demo with the defaults of what it does not name; None where unknown.

    How often it was saved does not count.
    """
    try:
        lessons = asdict(ClassifierTraining(**before["lessons"]))
        mask = MASK_PRESETS.parse(before["mask"]).model_dump(mode="json")
        mask["schedule"]["save_every"] = MASK_SETTINGS.schedule.save_every
        return DemoPlan.model_validate({**before, "lessons": lessons, "mask": mask})
    except (ConfigError, ValidationError, LookupError, TypeError, ValueError):
        return None


def _describe_target(explanation: MaskExplanation) -> str:
    """Return what a photograph is explained for, and how probable the classifier finds it."""
    target, probability = explanation.target.short_name, explanation.probability
    return target if probability is None else f"{target}, {probability:.0%}"


def _read_accuracy(path: Path) -> float:
    """Read how often the trained classifier is right; raises RunError if the file is damaged."""
    try:
        return float(parse_json(path.read_bytes())["accuracy"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{path}: damaged; delete its folder, or choose another --out") from error
