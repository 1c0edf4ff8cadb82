"""The report of a trained classifier: how good, how calibrated, and where it is sure but wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from markupsafe import Markup

from apercu import render
from apercu.classifiers import Classifier
from apercu.classifiers.calibration import describe_limit, is_at_limit
from apercu.errors import ClassifierError
from apercu.io import write_file
from apercu.learning.data import describe_test_gaps
from apercu.learning.results import LearningFigures, MeasuredTest
from apercu.learning.search import find_choice
from apercu.learning.settings import LearningSettings
from apercu.methods.base import Method
from apercu.methods.grad_cam import GradCam
from apercu.methods.input_x_gradient import InputXGradient
from apercu.pages import (
    FEW_IMAGES,
    Figure,
    FigureRow,
    Finding,
    FindingLine,
    count_noun,
    embed_image,
    render_page,
)
from apercu.pages.charts import ChartFrame, build_svg, draw_axes, draw_lines

REPORT = "report.html"
MISTAKES = 8
"""Mistakes that are shown, at most."""
MAX_POINTS = 60
"""Points of a learning curve."""
TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy, the mean over the classes",
    "auroc": "AUROC, the mean over the classes",
    "average_precision": "average precision, the mean over the classes",
    "calibration_error": "calibration error",
    "log_loss": "cross-entropy, nats",
}


class Mistake(NamedTuple):
    """A wrong prediction: the image, the class that is wrong, the true one, and how sure it is."""

    image: int
    predicted: int
    label: int | None
    confidence: float


def write_report(
    classifier: Classifier,
    figures: LearningFigures,
    test: MeasuredTest,
    run: Path,
    settings: LearningSettings,
) -> Path:
    """Write the report of a training into its run folder.

    Args:
        classifier: the calibrated classifier.
        figures: what was measured.
        test: the test part with its logits.
        run: the run folder, whose curves are read.
        settings: the settings of the training.

    Returns:
        The path of the report.
    """
    page = render_page(
        (files("apercu.learning") / "learning.html").read_text(encoding="utf-8"),
        finding=write_finding(figures, test),
        classes=figures.classes,
        confusions=figures.confusions,
        is_multiple=test.part.decision.is_multiple,
        measures=[
            (_title(name, test), figures.uncalibrated[name], figure)
            for name, figure in figures.figures.items()
        ],
        charts=[
            *draw_curves(run / "logs" / "metrics.csv"),
            {
                "title": "Calibration: how often predictions of a confidence are right",
                "drawing": Markup(draw_calibration(figures.reliability)),
                "names": ("before", f"with temperature {figures.temperature:.2f}"),
                "others": "",
            },
        ],
        mistakes=draw_mistakes(classifier, test),
        search=find_choice(run, settings),
        images=figures.images,
        settings=settings.model_dump(mode="json"),
        fingerprint=classifier.fingerprint,
        training=figures.training,
    )
    return write_file(run / REPORT, page)


def write_finding(figures: LearningFigures, test: MeasuredTest) -> Finding:
    """Return what was found: how good the classifier is, and how sure that is.

    Args:
        figures: what was measured.
        test: the test part.

    Returns:
        The sentences.
    """
    balanced = figures.figures["balanced_accuracy"]
    low, high = balanced.ci95
    before = figures.uncalibrated["calibration_error"].value
    after = figures.figures["calibration_error"].value
    calibrated = figures.calibrated
    chance = 1 / 2 if test.part.decision.is_multiple else 1 / len(figures.classes)
    units = len(set(test.part.units))
    groups = "" if test.part.groups is None else f" of {count_noun(units, 'group')}"
    certainty = (
        f"Balanced accuracy (by chance {chance:.0%}) on {count_noun(len(test.part), 'image')}"
        f"{groups} that nothing was trained or calibrated on; the 95\u00a0% interval is "
        f"{low:.0%} to {high:.0%}."
    )
    if units < FEW_IMAGES:
        certainty += " So few images show only large differences."
    trained = f"With {count_noun(figures.images['training'], 'label')}, the classifier is"
    headline = f"{trained} right on {balanced.value:.0%}, all classes counted the same."
    if low <= chance:
        headline = f"{trained} not clearly better than chance: {balanced.value:.0%}."
    lines = [FindingLine(f"AUROC {figures.figures['auroc'].text}.")]
    if unknown := test.part.count_unknown():
        of_all = f"{unknown:,} of {test.part.targets.numel():,} labels of the test images"
        lines.append(FindingLine(f"{of_all} are not known; the figures are of the others."))
    if gaps := describe_test_gaps(test.part):
        lines.append(FindingLine(f"{gaps}.", "warning"))
    if is_at_limit(figures.temperature):
        lines.append(FindingLine(f"Temperature {describe_limit(figures.temperature)}.", "warning"))
    lines.append(
        FindingLine(
            f"Calibration error {after:.3f} with a temperature of {figures.temperature:.2f}, "
            f"{before:.3f} without; perfect confidences would have {calibrated.chance_error:.3f} "
            "by chance, on as many images.",
            "plain" if calibrated.is_good else "warning",
        )
    )
    return Finding(headline, certainty, tuple(lines))


def _title(name: str, test: MeasuredTest) -> str:
    """Return the title of a figure; a mean over classes says of how many."""
    count, total = test.part.count_measurable(), len(test.part.classes)
    if count == total or (name == "balanced_accuracy" and test.part.decision.is_multiple):
        return TITLES[name]
    return TITLES[name].replace("the classes", f"{count} of {total} classes")


def draw_curves(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a chart of the loss and one of the training images that are right, over the steps."""
    if not path.is_file():
        return
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    for column, title in (("loss", "Loss"), ("right", "Training images that are right")):
        cells = [(float(row["step"]) + 1, row.get(column)) for row in rows if row.get("step")]
        points = [(step, float(cell)) for step, cell in cells if cell]
        if len(points) < 2:
            continue
        steps, curve = (_average_neighbours(values) for values in zip(*points, strict=True))
        drawing = draw_lines(
            {column: curve},
            (column,),
            (column,),
            "step",
            y_title="",
            x_end=points[-1][0],
            x_values=steps,
        )
        yield {"title": title, "drawing": Markup(drawing), "names": (), "others": ""}


def _average_neighbours(values: Sequence[float]) -> list[float]:
    """Return means of neighbours, so that a curve has at most `MAX_POINTS` points."""
    parts = torch.tensor(values, dtype=torch.double).tensor_split(min(len(values), MAX_POINTS))
    return [float(part.mean()) for part in parts]


def draw_calibration(reliability: dict[str, dict[str, tuple[float, ...]]]) -> str:
    """Return the diagram of confidence and accuracy, before and after; the diagonal is ideal.

    Args:
        reliability: confidence, accuracy and number of predictions of each bin, before and after.

    Returns:
        The chart as SVG; the area of a point grows with the number of predictions.
    """
    frame = ChartFrame((0.0, 1.0), (0.0, 1.0))
    corners = [each(end) for end in (0.0, 1.0) for each in (frame.x_position, frame.y_position)]
    left, bottom, right, top = corners
    parts = [
        draw_axes(frame, "confidence", "fraction that is right"),
        f'<path class="rest" d="M{left:.1f},{bottom:.1f}L{right:.1f},{top:.1f}"/>',
    ]
    for number, (name, bins) in enumerate(reliability.items()):
        total = sum(bins["counts"]) or 1.0
        points = [
            (frame.x_position(x), frame.y_position(y), count)
            for x, y, count in zip(
                bins["confidence"], bins["accuracy"], bins["counts"], strict=True
            )
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(
            f'<polyline class="s{number}" points="{path}"><title>{escape(name)}</title></polyline>'
        )
        parts += [
            f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" '
            f'r="{2 + 8 * (count / total) ** 0.5:.1f}" fill="none">'
            f"<title>{count:.0f} predictions</title></circle>"
            for x, y, count in points
        ]
    return build_svg(parts, "fraction that is right against confidence")


def find_mistakes(test: MeasuredTest) -> list[Mistake]:
    """Return the wrong predictions, the most confident ones first; one per image.

    Args:
        test: the test part with its logits.

    Returns:
        The mistakes. Where each class is decided by itself, a class that is wrongly absent has its
        own index as the predicted one and no label.
    """
    decision, targets = test.part.decision, test.part.targets
    probabilities = decision.probabilities(test.logits.double())
    mistakes = []
    for index, (row, target) in enumerate(zip(probabilities, targets, strict=True)):
        if decision.is_multiple:
            distance = (row - target).abs().nan_to_num(0)  # what nobody knows is no mistake
            worst = int(distance.argmax())
            if float(distance[worst]) > 0.5:
                label = None if target[worst] else worst
                mistakes.append(Mistake(index, worst, label, float(distance[worst])))
            continue
        predicted, label = int(row.argmax()), int(target.argmax())
        if predicted != label:
            mistakes.append(Mistake(index, predicted, label, float(row[predicted])))
    return sorted(mistakes, key=lambda mistake: -mistake.confidence)


def draw_mistakes(classifier: Classifier, test: MeasuredTest) -> list[FigureRow]:
    """Return the most confident mistakes with what the classifier looked at.

    Args:
        classifier: the classifier.
        test: the test part with its logits.

    Returns:
        One row per mistake: the image, and the evidence for the predicted and for the true class.
    """
    method: Method = GradCam() if classifier.exposes_layers else InputXGradient()
    names, rows = test.part.source.names, []
    for mistake in find_mistakes(test)[:MISTAKES]:
        image = test.images[mistake.image]
        figures = [
            Figure(
                "image", embed_image(render.to_image(image)), f"the image {names[mistake.image]}"
            )
        ]
        classes = {mistake.predicted: "predicted"}
        if mistake.label is not None and mistake.label != mistake.predicted:
            classes[mistake.label] = "true"
        for index, word in classes.items():
            title = f"evidence for {test.part.classes[index]}"
            overlay = _explain(classifier, method, image, index)
            if overlay is not None:
                figures.append(Figure(title, overlay, f"{title}, the {word} class, as heat"))
        rows.append(FigureRow(_describe_mistake(mistake, test), str(names[mistake.image]), figures))
    return rows


def _explain(classifier: Classifier, method: Method, image: torch.Tensor, index: int) -> str | None:
    """Return the overlay of one map; None where the network gives no such map."""
    batch = image[None].to(classifier.device)
    try:
        map = method(classifier, batch, index)[0].cpu()
    except ClassifierError:
        return None
    low, high = map.amin(), map.amax()
    return embed_image(render.draw_overlay(image, (map - low) / (high - low).clamp(min=1e-12)))


def _describe_mistake(mistake: Mistake, test: MeasuredTest) -> str:
    """Say what was predicted, how sure the classifier was, and what is true."""
    classes = test.part.classes
    name = classes[mistake.predicted]
    if not test.part.decision.is_multiple:
        label = "" if mistake.label is None else classes[mistake.label]
        return f"{name} with {mistake.confidence:.0%}, but it is {label}"
    if mistake.label is None:
        return f"{name} is missed: its absence has {mistake.confidence:.0%}"
    return f"{name} with {mistake.confidence:.0%}, but it is absent"
