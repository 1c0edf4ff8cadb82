"""The same images under every explainer, as pictures for a report; drawn once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apercu import maps, render
from apercu.classifiers import Classifier
from apercu.evaluation.report import PICTURE_SIDE, GalleryImage
from apercu.evaluation.results import FIXED_THRESHOLD, ComparisonResults
from apercu.evaluation.sample import split_indices
from apercu.images import ImageSource, Item
from apercu.images.stream import scale_boxes
from apercu.methods import MapExplainer, TrueBox
from apercu.metrics.registry import is_threshold_needed
from apercu.progress import ProgressCallback, ignore_progress
from apercu.types import Picture

GALLERY_FOLDER = "gallery"
"""Folder inside that of a comparison, for the drawings."""
BOX_METRICS = ("localisation_error", "iou", "saliency_metric")
"""Metrics whose threshold is good for boxes, the best one first."""


@dataclass(frozen=True)
class ExplainerView:
    """How one explainer is shown.

    Attributes:
        name: the name of the explainer.
        cache_key: the text that is equal only for explainers that give the same maps.
        threshold: where its maps are cut for boxes.
        explainer: the explainer itself; None to show only what was drawn before.
    """

    name: str
    cache_key: str
    threshold: float
    explainer: MapExplainer | None


@dataclass(frozen=True)
class DrawingCache:
    """Drawings on disk, named by what they show.

    Attributes:
        folder: the folder of the drawings; None keeps nothing.
        fingerprint: the digest of the classifier's weights.
    """

    folder: Path | None
    fingerprint: str

    def load_or_draw(
        self,
        view: ExplainerView,
        item: Item,
        target: int,
        draw: Callable[[MapExplainer], Image.Image],
    ) -> Image.Image | None:
        """Return the kept drawing, or a new one; None where there is none and no explainer."""
        content = (self.fingerprint, item.name, target, view.cache_key, view.threshold)
        name = sha256(repr(content).encode()).hexdigest()[:20]
        path = None if self.folder is None else self.folder / f"{name}.png"
        if path is not None and path.is_file():
            with Image.open(path) as kept:
                return kept.convert("RGB")
        if view.explainer is None:
            return None
        drawing = render.fit_to_side(draw(view.explainer), PICTURE_SIDE)
        if path is not None:
            render.save_image(path, drawing)
        return drawing


def draw_gallery(
    classifier: Classifier,
    source: ImageSource,
    explainers: Mapping[str, MapExplainer | TrueBox],
    results: ComparisonResults,
    count: int = 6,
    out: Path | None = None,
    progress: ProgressCallback = ignore_progress,
) -> tuple[GalleryImage, ...]:
    """Draw some of the reported images, spread evenly and not chosen, under every explainer.

    The image shows its true boxes; each explainer's overlay shows the box at its own threshold,
    unless that is the whole image.

    Args:
        classifier: the classifier that is explained.
        source: the images of the comparison.
        explainers: the explainers by name; drawings of others are shown where they are kept.
        results: the results of the comparison.
        count: the number of images.
        out: the folder of the comparison, where drawings are kept; None keeps nothing.
        progress: is called with the images that are done.

    Returns:
        The images with one drawing per explainer.
    """
    settings = results.key.settings
    halves = is_threshold_needed(results.get_metric(name) for name in settings["metrics"])
    unreadable = frozenset(settings.get("left_out", ()))
    names = source.names if unreadable else ()
    left_out = {index for index, name in enumerate(names) if name in unreadable}
    _, test = split_indices(
        len(source), settings["limit"], settings["seed"], halves=halves, left_out=left_out
    )
    step = max(1, len(test) // max(1, count))
    views = [
        ExplainerView(
            name, cache_key, _find_threshold(results, name), _find_drawable(explainers, name)
        )
        for name, cache_key in results.explainers.items()
    ]
    cache = DrawingCache(None if out is None else out / GALLERY_FOLDER, classifier.fingerprint)
    indices, images = test[::step][:count], []
    for done, index in enumerate(indices, start=1):
        images.append(_draw_image(classifier, source[index], views, cache))
        progress("pictures", done, len(indices))
    return tuple(images)


def _find_drawable(
    explainers: Mapping[str, MapExplainer | TrueBox], name: str
) -> MapExplainer | None:
    """Return an explainer whose maps can be drawn: the true boxes are shown on the image itself."""
    explainer = explainers.get(name)
    return None if isinstance(explainer, TrueBox) else explainer


def _draw_image(
    classifier: Classifier, item: Item, views: Sequence[ExplainerView], cache: DrawingCache
) -> GalleryImage:
    images = classifier.prepare(item.picture)[None].to(classifier.device)
    with torch.no_grad():
        probabilities = classifier.predict_probabilities(images)[0]
    predicted = int(probabilities.argmax())
    target = predicted if item.label is None else classifier.names.find_label(item.label)
    caption = f"{classifier.classes[target]}: probability {float(probabilities[target]):.0%}"
    if predicted != target:
        name, probability = classifier.classes[predicted], float(probabilities[predicted])
        caption += f"; the classifier predicts {name}, {probability:.0%}"
    targets = torch.tensor([target], device=images.device)
    drawings = {}
    for view in views:

        def draw(explainer: MapExplainer, threshold: float = view.threshold) -> Image.Image:
            raw = explainer(classifier, images, targets)
            unit_map = maps.min_max_scale(raw) if explainer.map_scale == "map" else raw
            return _draw_overlay(item.picture, unit_map, threshold)

        drawing = cache.load_or_draw(view, item, target, draw)
        if drawing is not None:
            drawings[view.name] = drawing
    picture = render.to_image(item.picture)
    if item.boxes is not None:
        picture = render.draw_boxes(picture, item.boxes)
    return GalleryImage(item.name, caption, picture, drawings)


def _draw_overlay(
    picture: Picture, unit_map: Float[Tensor, "1 rows columns"], threshold: float
) -> Image.Image:
    """Draw one map in [0, 1] over a picture, with the box at a threshold."""
    before, after = (unit_map.shape[1], unit_map.shape[2]), (picture.shape[1], picture.shape[2])
    box = maps.tight_boxes(maps.find_regions(unit_map, threshold)).cpu()
    overlay = render.draw_overlay(picture, unit_map[0])
    if box[0].tolist() == [0, 0, before[1], before[0]]:
        return overlay  # a box around all says nothing
    return render.draw_boxes(overlay, scale_boxes(box, before, after))


def _find_threshold(results: ComparisonResults, explainer: str) -> float:
    """Return the threshold that was chosen for boxes, or else the fixed one."""
    chosen = {row.metric: row.threshold for row in results.rows if row.explainer == explainer}
    for metric in (*BOX_METRICS, *chosen):
        if (threshold := chosen.get(metric)) is not None:
            return float(threshold)
    return FIXED_THRESHOLD
