"""The same images under every explainer, as pictures for a report."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from PIL import Image

from apercu import maps, render
from apercu.classifiers import Classifier
from apercu.compare import Results
from apercu.compare.bench import Progress, quiet
from apercu.compare.sample import split
from apercu.images import ImageSource, Item
from apercu.images.stream import scale_boxes
from apercu.methods import Explainer, TrueBox
from apercu.report import Shot
from apercu.types import Picture

GOOD_FOR_BOXES = ("localisation_error", "iou", "saliency_metric")


def gallery(
    classifier: Classifier,
    source: ImageSource,
    explainers: Mapping[str, Explainer | TrueBox],
    results: Results,
    count: int = 6,
    progress: Progress = quiet,
) -> tuple[Shot, ...]:
    """Pictures of `count` images of the half that is reported, spread evenly, not chosen.

    The image shows its true boxes; each explainer's overlay shows the box at its own threshold.
    """
    settings = results.subject.settings
    _, test = split(len(source), settings["limit"], settings["seed"])
    step = max(1, len(test) // max(1, count))
    shown = {
        name: one
        for name, one in explainers.items()
        if not isinstance(one, TrueBox) and name in results.explainers
    }
    thresholds = {name: _threshold(results, name) for name in shown}
    chosen, shots = test[::step][:count], []
    for done, index in enumerate(chosen, start=1):
        shots.append(_shot(classifier, source[index], shown, thresholds))
        progress("pictures", done, len(chosen))
    return tuple(shots)


def _shot(
    classifier: Classifier,
    item: Item,
    explainers: Mapping[str, Explainer],
    thresholds: Mapping[str, float],
) -> Shot:
    images = classifier.prepare(item.picture)[None].to(classifier.device)
    with torch.no_grad():
        probabilities = classifier(images).softmax(dim=1)[0]
    top = int(probabilities.argmax())
    target = top if item.label is None else classifier.index_of(item.label)
    caption = f"{classifier.classes[target]} ({float(probabilities[target]):.0%})"
    if top != target:
        caption += f", seen as {classifier.classes[top]} ({float(probabilities[top]):.0%})"
    views = {}
    for name, explainer in explainers.items():
        found = explainer(classifier, images, torch.tensor([target], device=images.device))
        views[name] = _view(item.picture, explainer, found, thresholds[name])
    picture = render.picture_image(item.picture)
    if item.boxes is not None:
        picture = render.draw_boxes(picture, item.boxes)
    return Shot(item.name, caption, picture, views)


def _view(
    picture: Picture, explainer: Explainer, found: torch.Tensor, threshold: float
) -> Image.Image:
    shown = maps.min_max(found) if explainer.kind == "map" else found
    box = maps.boxes(maps.regions(shown, threshold)).cpu()
    before, after = (shown.shape[1], shown.shape[2]), (picture.shape[1], picture.shape[2])
    overlay = render.overlay(picture, shown[0])
    return render.draw_boxes(overlay, scale_boxes(box, before, after))


def _threshold(results: Results, explainer: str) -> float:
    """The threshold that was chosen for boxes, or for what else was measured."""
    chosen = {row.metric: row.threshold for row in results.rows if row.explainer == explainer}
    found = [chosen[metric] for metric in GOOD_FOR_BOXES if chosen.get(metric) is not None]
    return float(found[0] or 0.5) if found else 0.5
