"""Real photographs explained by a ready-made explainer: how the demo begins."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from apercu import render
from apercu.evaluation.report import GalleryImage
from apercu.explain.mask_explanation import MaskExplanation
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.ready import DEFAULT_RUN, list_photographs
from apercu.explainers.run_folder import load_run
from apercu.progress import ProgressCallback, ignore_progress

SECOND_CLASSES = {"coffee.jpg": ("cup",)}
"""Photographs that are explained for other classes than the predicted one, too."""


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
        images.append(GalleryImage(path.name, describe(explanation), picture, views))
        report("photographs", number + 1, len(requests))
    return images


def describe(explanation: MaskExplanation) -> str:
    """Return what a photograph is explained for, and how probable the classifier finds it."""
    target, probability = explanation.target.short_name, explanation.probability
    return target if probability is None else f"{target}, {probability:.0%}"
