"""ONNX Runtime, or an exported program, against PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.deploy.export.graphs import TOP
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

TOLERANCE = 1e-3
"""Largest difference of any number that a graph may have from PyTorch's."""
BATCH_SIZES = (1, 2, 5)
JUMP_NOISE = 1e-5
"""A map may jump where a pixel moves by so little; there no two programs agree."""

Trial: TypeAlias = tuple[Images, Targets]


def check_outputs(exported: GraphFn, reference: GraphFn, trials: Iterable[Trial]) -> GraphCheck:
    """Compares answers with those of PyTorch.

    Raises:
        ApercuError: they differ by more than `LIMIT`.
    """
    worst, where, images, jumps = 0.0, "", 0, 0
    for one in trials:
        expected, found = reference(*one), exported(*one)
        images += len(one[0])
        for name, values in expected.items():
            difference = (found[name].float() - values).abs()
            if difference.amax() > TOLERANCE:
                jumping = _find_jumps(reference, one, name)
                jumps += int(jumping.sum())
                difference = torch.where(jumping, 0.0, difference)
            if not difference.amax() <= worst:  # NaN counts as worse, too
                worst, where = float(difference.amax()), name
    if not worst <= TOLERANCE:
        raise ApercuError(
            f"export: {where} differ from PyTorch's by {worst:.3g}, expected at most {TOLERANCE:g}; "
            "nothing was exported, try other versions of onnxscript and onnxruntime"
        )
    return GraphCheck(worst, images, jumps)


def make_trials(
    shape: Sequence[int], class_count: int, real_images: Images | None = None
) -> Iterator[Trial]:
    """What is asked: batches of several sizes of noise, a flat image, and real images.

    Args:
        shape: channels, height and width of the images.
        classes: how many there are.
        real: images to ask about besides; each also for the class seen most.
    """
    generator = torch.Generator().manual_seed(1)
    for batch in BATCH_SIZES:
        images = torch.rand(batch, *shape, generator=generator)
        yield images, torch.randint(TOP, class_count, (batch,), generator=generator)
    yield torch.full((1, *shape), 0.5), torch.tensor([TOP])
    if real_images is not None:
        yield real_images, torch.full((len(real_images),), TOP)
        yield real_images, torch.randint(0, class_count, (len(real_images),), generator=generator)


def make_class_trials(trials: Iterable[Trial], class_count: int) -> Iterator[Trial]:
    """Of each batch the first image alone, for as many targets as the batch has images, and more.

    Args:
        asked: batches and their targets.
        classes: how many there are.
    """
    generator = torch.Generator().manual_seed(3)
    for images, targets in trials:
        others = torch.randint(0, class_count, (2,), generator=generator)
        yield images[:1], targets
        yield images[:1], torch.cat([targets, others])


def _find_jumps(reference: GraphFn, trial: Trial, output: str) -> Tensor:
    """Where PyTorch's own answer moves by more than the limit for images that hardly do."""
    images, targets = trial
    generator = torch.Generator().manual_seed(2)
    expected = reference(*trial)[output]
    moved = torch.zeros_like(expected, dtype=torch.bool)
    for _ in range(4):
        noise = JUMP_NOISE * torch.randn(images.shape, generator=generator)
        moved |= (reference(images + noise, targets)[output] - expected).abs() > TOLERANCE
    return moved


REGION_LEVEL = 0.5
EXACT, EXPORTED = "exact", "exported"


def measure_precision_loss(
    exact: Path, exported: Path, images: ImageSubset, classifier_info: ClassifierInfo
) -> PrecisionLoss:
    """How far the answers of one graph are from another's, for the class seen most.

    Raises:
        ImageError: none of the images can be read.
    """
    sessions = open_session(exact), open_session(exported)
    singly = sessions[0].get_inputs()[0].shape[0] == 1
    differences: list[Tensor] = []
    overlaps: list[Scores] = []
    agreements: list[Tensor] = []
    for batch in images.iterate_batches(classifier_info):
        for some in torch.split(batch, 1 if singly else len(batch)):
            targets = torch.full((len(some),), TOP)
            one, other = (run_session(running, some, targets) for running in sessions)
            differences.append((one["maps"] - other["maps"]).abs().mean((1, 2)))
            overlaps.append(compute_region_iou(one["maps"], other["maps"]))
            if "probabilities" in one:
                tops = [found["probabilities"].argmax(1) for found in (one, other)]
                agreements.append((tops[0] == tops[1]).float())
    shares = torch.cat(differences)
    return PrecisionLoss(
        images=images.source.name,
        n=len(shares),
        mean_difference=float(shares.mean()),
        iou=float(torch.cat(overlaps).mean()),
        agreement=float(torch.cat(agreements).mean()) if agreements else None,
    )


def compute_region_iou(first: Maps, second: Maps) -> Scores:
    """Overlap of the regions at level 0.5; two empty ones are the same."""
    first, second = first >= REGION_LEVEL, second >= REGION_LEVEL
    empty = ~(first | second).flatten(1).any(1)
    return torch.where(empty, 1.0, iou(first, second))


def measure_quality(
    classifier: Classifier, images: ImageSubset, graphs: tuple[Path, Path], scale: MapScale
) -> dict[str, ScorePair]:
    """The metrics that a comparison ranks by, of both graphs on the same images.

    Localisation error where boxes are known, the saliency metric always; thresholds come from one
    half of the images, figures from the other.

    Args:
        classifier: the explained one.
        shown: the images.
        graphs: the exact one, and the exported one.
        kind: how the values of a map are read.

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
    found = run_comparison(classifier, images.source, explainers, settings)
    for reason in found.failed.values():
        raise ApercuError(reason)
    rows = {(row.explainer, row.metric): row for row in found.rows}
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
