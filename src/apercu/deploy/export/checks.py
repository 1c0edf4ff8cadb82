"""Checks of exported graphs: against PyTorch, and against the graph in single precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.names import TOP_INDEX
from apercu.deploy.export.manifest import GraphCheck, PrecisionLoss, ScorePair
from apercu.deploy.export.settings import ImageSubset
from apercu.deploy.export.tracing import GraphFn, open_session, run_session
from apercu.errors import ApercuError
from apercu.evaluation import CompareSettings, run_comparison
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.methods import TrainedMethod
from apercu.methods.base import MapScale
from apercu.metrics import iou
from apercu.types import Images, Maps, Scores, Targets
from apercu.verdicts import TRUST

TOLERANCE = 1e-3
"""Largest difference of any number in the outputs of a graph from PyTorch."""
BATCH_SIZES = (1, 2, 5)
JUMP_NOISE = 1e-5
"""Noise of pixels that makes some maps jump; there, two programs need not agree."""
REGION_LEVEL = 0.5
"""Where maps are cut into regions."""
EXACT, EXPORTED = "exact", "exported"
"""Rows of the comparison of both graphs."""

Trial: TypeAlias = tuple[Images, Targets]
"""Images, and one target for each."""


def check_outputs(exported: GraphFn, reference: GraphFn, trials: Iterable[Trial]) -> GraphCheck:
    """Compare the outputs of a graph with those of PyTorch.

    Args:
        exported: computes the outputs of the graph.
        reference: computes the same with PyTorch.
        trials: batches of images and their targets.

    Returns:
        The largest difference, and on how many images it was found.

    Raises:
        ApercuError: the outputs differ by more than `TOLERANCE`.
    """
    worst, output, images, jumps, moved = 0.0, "", 0, 0, 0.0
    for trial in trials:
        expected, actual = reference(*trial), exported(*trial)
        images += len(trial[0])
        for name, values in expected.items():
            difference, scale = (actual[name].float() - values).abs(), torch.ones(())
            if name == TRUST:  # signals have no range; what is far off has large numbers
                scale = values.abs().clamp(min=1)
            difference = difference / scale
            if difference.amax() > TOLERANCE:
                movement = _measure_movement(reference, trial, name) / scale
                jumping = movement > TOLERANCE
                jumps += int(jumping.sum())
                difference = torch.where(jumping, 0.0, difference)
                moved = max(moved, float(torch.where(jumping, 0.0, movement).amax()))
            if not difference.amax() <= worst:  # NaN counts as worse, too
                worst, output = float(difference.amax()), name
    if not worst <= TOLERANCE:
        raise ApercuError(
            f"export: {output} differ from PyTorch's by {worst:.3g}, expected at most "
            f"{TOLERANCE:g}; nothing was exported, {_advise(output, worst, moved)}"
        )
    return GraphCheck(worst, images, jumps)


def make_trials(
    shape: Sequence[int], class_count: int, real_images: Images | None = None
) -> Iterator[Trial]:
    """Yield trials: batches of noise of several sizes, a flat image, and real images.

    Args:
        shape: the channels, height and width of the images.
        class_count: the number of classes.
        real_images: further images, each also for the class predicted most.

    Returns:
        An iterator over images and targets.
    """
    generator = torch.Generator().manual_seed(1)
    for batch in BATCH_SIZES:
        images = torch.rand(batch, *shape, generator=generator)
        yield images, torch.randint(TOP_INDEX, class_count, (batch,), generator=generator)
    yield torch.full((1, *shape), 0.5), torch.tensor([TOP_INDEX])
    if real_images is not None:
        yield real_images, torch.full((len(real_images),), TOP_INDEX)
        yield real_images, torch.randint(0, class_count, (len(real_images),), generator=generator)


def make_class_trials(trials: Iterable[Trial], class_count: int) -> Iterator[Trial]:
    """Yield the first image of each trial with as many targets as the trial has, and with two more.

    Args:
        trials: batches of images and their targets.
        class_count: the number of classes.

    Returns:
        An iterator over single images and their targets.
    """
    generator = torch.Generator().manual_seed(3)
    for images, targets in trials:
        others = torch.randint(0, class_count, (2,), generator=generator)
        yield images[:1], targets
        yield images[:1], torch.cat([targets, others])


def _advise(output: str, worst: float, moved: float) -> str:
    """Return what to do about a difference, given how far PyTorch's own output moves by noise.

    A filter that rounds lets no such noise pass, so it says nothing of verdicts behind one.
    """
    if not worst <= 4 * moved:
        other = "try other versions of onnxscript and onnxruntime"
        if output != TRUST:
            return other
        return (
            "train the explainer on (apercu train … --resume) and fit the guard again where its "
            f"masks are nearly the same for all images, which rounding then changes; else {other}"
        )
    return (
        f"as PyTorch's own change by up to {moved:.2g} where pixels change by {JUMP_NOISE:g}, like "
        "those of explainers that were hardly trained: train on (apercu train … --resume)"
    )


def _measure_movement(reference: GraphFn, trial: Trial, output: str) -> Tensor:
    """Return how far PyTorch's own output moves under a little noise."""
    images, targets = trial
    generator = torch.Generator().manual_seed(2)
    expected = reference(*trial)[output]
    movement = torch.zeros_like(expected)
    for _ in range(4):
        noise = JUMP_NOISE * torch.randn(images.shape, generator=generator)
        difference = (reference(images + noise, targets)[output] - expected).abs()
        movement = torch.maximum(movement, difference)
    return movement


def measure_precision_loss(
    exact: Path, exported: Path, images: ImageSubset, classifier_info: ClassifierInfo
) -> PrecisionLoss:
    """Measure how far the outputs of two graphs are apart, for the class predicted most.

    Args:
        exact: the path of the graph in single precision.
        exported: the path of the graph in a lower precision.
        images: the images.
        classifier_info: says how images are prepared.

    Returns:
        The mean difference of maps, the overlap of regions and the agreement of predictions.

    Raises:
        ImageError: none of the images can be read.
    """
    sessions = open_session(exact), open_session(exported)
    takes_one_image = sessions[0].get_inputs()[0].shape[0] == 1
    differences: list[Tensor] = []
    overlaps: list[Scores] = []
    agreements: list[Tensor] = []
    for batch in images.iterate_batches(classifier_info):
        for part in torch.split(batch, 1 if takes_one_image else len(batch)):
            targets = torch.full((len(part),), TOP_INDEX)
            first, second = (run_session(session, part, targets) for session in sessions)
            differences.append((first["maps"] - second["maps"]).abs().mean((1, 2)))
            overlaps.append(compute_region_iou(first["maps"], second["maps"]))
            if "probabilities" in first:
                top, other = (outputs["probabilities"].argmax(1) for outputs in (first, second))
                agreements.append((top == other).float())
    mean_differences = torch.cat(differences)
    return PrecisionLoss(
        images=images.source.name,
        n=len(mean_differences),
        mean_difference=float(mean_differences.mean()),
        iou=float(torch.cat(overlaps).mean()),
        agreement=float(torch.cat(agreements).mean()) if agreements else None,
    )


def compute_region_iou(first: Maps, second: Maps) -> Scores:
    """Return the IoU of the regions at level 0.5 of each pair of maps; 1 where both are empty."""
    regions, others = first >= REGION_LEVEL, second >= REGION_LEVEL
    empty = ~(regions | others).flatten(1).any(1)
    return torch.where(empty, 1.0, iou(regions, others))


def measure_quality(
    classifier: Classifier, images: ImageSubset, graphs: tuple[Path, Path], scale: MapScale
) -> dict[str, ScorePair]:
    """Measure the metrics that a comparison ranks by, of both graphs on the same images.

    Localisation error where boxes are known, the saliency metric always; thresholds come from one
    half of the images, scores from the other.

    Args:
        classifier: the explained classifier.
        images: the images.
        graphs: the paths of the exact graph and of the exported one.
        scale: what the values of a map mean.

    Returns:
        The means of both graphs, by the name of the metric.

    Raises:
        ImagesError: there are fewer than two images.
        ApercuError: one of the graphs cannot be measured.
    """
    metrics = (
        ("saliency_metric", "localisation_error") if images.has_boxes else ("saliency_metric",)
    )
    settings = CompareSettings(metrics, images.limit, images.seed, repeats=1, cost_batches=(1,))
    explainers = {
        name: TrainedMethod(_make_attribute(open_session(path)), name, 0.0, scale)
        for name, path in zip((EXACT, EXPORTED), graphs, strict=True)
    }
    results = run_comparison(classifier, images.source, explainers, settings)
    for reason in results.failed.values():
        raise ApercuError(reason)
    rows = {(row.explainer, row.metric): row for row in results.rows}
    return {
        metric: ScorePair(
            exact=rows[EXACT, metric].value,
            exported=rows[EXPORTED, metric].value,
            n=rows[EXACT, metric].n,
        )
        for metric in metrics
    }


def _make_attribute(session: Any) -> Any:
    def attribute(images: Images, targets: Targets) -> Maps:
        return run_session(session, images, targets)["maps"]

    return attribute
