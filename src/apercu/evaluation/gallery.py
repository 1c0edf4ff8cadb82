"""The same images under every explainer, as pictures for a report; drawn once, then kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image

from apercu import maps, render
from apercu.classifiers import Classifier
from apercu.evaluation import ComparisonResults
from apercu.evaluation.evaluator import Progress, ignore_progress
from apercu.evaluation.measures import cuts
from apercu.evaluation.report import PICTURE_SIDE, GalleryImage
from apercu.evaluation.sample import split_indices
from apercu.images import ImageSource, Item
from apercu.images.stream import scale_boxes
from apercu.methods import Explainer, TrueBox
from apercu.methods.base import MapScale
from apercu.types import Picture

GALLERY_FOLDER = "gallery"
"""Where a comparison's folder keeps them."""
BOX_METRICS = ("localisation_error", "iou", "saliency_metric")


def draw_gallery(
    classifier: Classifier,
    source: ImageSource,
    explainers: Mapping[str, Explainer | TrueBox],
    results: ComparisonResults,
    count: int = 6,
    out: Path | None = None,
    progress: Progress = ignore_progress,
) -> tuple[GalleryImage, ...]:
    """Pictures of `count` of the reported images, spread evenly, not chosen.

    The image shows its true boxes; each explainer's overlay shows the box at its own threshold.
    With `out`, the comparison's folder, nothing is drawn twice, and what earlier calls have drawn
    of explainers that are not given now is shown too.
    """
    settings = results.key.settings
    halves = cuts(settings["metrics"])
    _, test = split_indices(len(source), settings["limit"], settings["seed"], halves=halves)
    step = max(1, len(test) // max(1, count))
    able = {name: one for name, one in explainers.items() if not isinstance(one, TrueBox)}
    views = [
        _ExplainerView(name, identity, _find_threshold(results, name), able.get(name))
        for name, identity in results.explainers.items()
    ]
    album = _DrawingCache(None if out is None else out / GALLERY_FOLDER, classifier.fingerprint)
    chosen, shots = test[::step][:count], []
    for done, index in enumerate(chosen, start=1):
        shots.append(_show_image(classifier, source[index], views, album))
        progress("pictures", done, len(chosen))
    return tuple(shots)


@dataclass(frozen=True)
class _ExplainerView:
    """How one explainer is shown; without it, only as it was drawn before."""

    name: str
    identity: str
    threshold: float
    explainer: Explainer | None


@dataclass(frozen=True)
class _DrawingCache:
    """Drawings by what they show; None keeps nothing."""

    folder: Path | None
    fingerprint: str

    def load_or_draw(
        self,
        view: _ExplainerView,
        item: Item,
        target: int,
        draw: Callable[[Explainer], Image.Image],
    ) -> Image.Image | None:
        """The drawing as it was kept, or a new one; None where the explainer is not at hand."""
        shown = (self.fingerprint, item.name, target, view.identity, view.threshold)
        name = sha256(repr(shown).encode()).hexdigest()[:20]
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


def _show_image(
    classifier: Classifier, item: Item, views: Sequence[_ExplainerView], cache: _DrawingCache
) -> GalleryImage:
    images = classifier.prepare(item.picture)[None].to(classifier.device)
    with torch.no_grad():
        probabilities = classifier(images).softmax(dim=1)[0]
    top = int(probabilities.argmax())
    target = top if item.label is None else classifier.index_of(item.label)
    caption = f"{classifier.classes[target]} ({float(probabilities[target]):.0%})"
    if top != target:
        caption += f", seen as {classifier.classes[top]} ({float(probabilities[top]):.0%})"
    drawings = {}
    for view in views:

        def draw(explainer: Explainer, threshold: float = view.threshold) -> Image.Image:
            found = explainer(classifier, images, torch.tensor([target], device=images.device))
            return _draw_map(item.picture, explainer.map_scale, found, threshold)

        drawing = cache.load_or_draw(view, item, target, draw)
        if drawing is not None:
            drawings[view.name] = drawing
    picture = render.to_image(item.picture)
    if item.boxes is not None:
        picture = render.draw_boxes(picture, item.boxes)
    return GalleryImage(item.name, caption, picture, drawings)


def _draw_map(
    picture: Picture, kind: MapScale, found: torch.Tensor, threshold: float
) -> Image.Image:
    shown = maps.min_max_scale(found) if kind == "map" else found
    box = maps.tight_boxes(maps.find_regions(shown, threshold)).cpu()
    before, after = (shown.shape[1], shown.shape[2]), (picture.shape[1], picture.shape[2])
    overlay = render.draw_overlay(picture, shown[0])
    return render.draw_boxes(overlay, scale_boxes(box, before, after))


def _find_threshold(results: ComparisonResults, explainer: str) -> float:
    """The threshold that was chosen for boxes, or for what else was measured."""
    chosen = {row.metric: row.threshold for row in results.rows if row.explainer == explainer}
    found = [value for metric in BOX_METRICS if (value := chosen.get(metric)) is not None]
    return float(found[0]) if found else 0.5
