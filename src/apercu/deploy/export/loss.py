"""What a lower precision costs: maps against maps, and both on the yardstick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.deploy.export.graphs import TOP
from apercu.deploy.export.manifest import Loss, Score
from apercu.deploy.export.onnx_graph import open_session, run_session
from apercu.deploy.export.settings import ImageSubset
from apercu.errors import ApercuError
from apercu.evaluation import CompareSettings, run_comparison
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.methods import TrainedMethod
from apercu.methods.base import MapScale
from apercu.metrics import iou
from apercu.types import Images, Maps, Scores, Targets

LEVEL = 0.5
EXACT, EXPORTED = "exact", "exported"


def measure_loss(exact: Path, exported: Path, shown: ImageSubset, passport: ClassifierInfo) -> Loss:
    """How far the answers of one graph are from another's, for the class seen most.

    Raises:
        ImageError: none of the images can be read.
    """
    sessions = open_session(exact), open_session(exported)
    singly = sessions[0].get_inputs()[0].shape[0] == 1
    differences: list[Tensor] = []
    overlaps: list[Scores] = []
    agreements: list[Tensor] = []
    for batch in shown.iterate_batches(passport):
        for some in torch.split(batch, 1 if singly else len(batch)):
            targets = torch.full((len(some),), TOP)
            one, other = (run_session(running, some, targets) for running in sessions)
            differences.append((one["maps"] - other["maps"]).abs().mean((1, 2)))
            overlaps.append(compute_region_iou(one["maps"], other["maps"]))
            if "probabilities" in one:
                tops = [found["probabilities"].argmax(1) for found in (one, other)]
                agreements.append((tops[0] == tops[1]).float())
    shares = torch.cat(differences)
    return Loss(
        images=shown.source.name,
        n=len(shares),
        mean_difference=float(shares.mean()),
        iou=float(torch.cat(overlaps).mean()),
        agreement=float(torch.cat(agreements).mean()) if agreements else None,
    )


def compute_region_iou(one: Maps, other: Maps) -> Scores:
    """Overlap of the regions at level 0.5; two empty ones are the same."""
    first, second = one >= LEVEL, other >= LEVEL
    empty = ~(first | second).flatten(1).any(1)
    return torch.where(empty, 1.0, iou(first, second))


def measure_quality(
    classifier: Classifier, shown: ImageSubset, graphs: tuple[Path, Path], kind: MapScale
) -> dict[str, Score]:
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
    metrics = ("saliency_metric", "localisation_error") if shown.has_boxes else ("saliency_metric",)
    settings = CompareSettings(metrics, shown.limit, shown.seed, repeats=1, cost_batches=(1,))
    explainers = {
        name: TrainedMethod(_make_attribute(open_session(path)), name, 0.0, kind)
        for name, path in zip((EXACT, EXPORTED), graphs, strict=True)
    }
    found = run_comparison(classifier, shown.source, explainers, settings)
    for reason in found.failed.values():
        raise ApercuError(reason)
    rows = {(row.explainer, row.metric): row for row in found.rows}
    return {
        metric: Score(
            exact=rows[EXACT, metric].value,
            exported=rows[EXPORTED, metric].value,
            n=rows[EXACT, metric].n,
        )
        for metric in metrics
    }


def _make_attribute(running: Any) -> Any:
    def attribute(images: Images, targets: Targets) -> Maps:
        return run_session(running, images, targets)["maps"]

    return attribute
