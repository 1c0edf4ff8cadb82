"""The explanation of a mask explainer: the evidence for one class, as a mask."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from jaxtyping import Float
from PIL import Image
from torch import Tensor, tensor

from apercu import maps, render
from apercu.classifiers.network import check_logits
from apercu.classifiers.outputs import check_finite_rows
from apercu.errors import NotFiniteError, name_images
from apercu.explain.explanation import (
    Explanation,
    StoredImage,
    format_percent,
    get_size,
    shrink_picture,
)
from apercu.explain.options import SecondLookResult, TargetSelector
from apercu.explainers.base import MaskingExplainer
from apercu.explainers.mask.objectives.crop_search import INNER_LEVEL
from apercu.images.stream import scale_boxes
from apercu.types import Boxes, Picture

if TYPE_CHECKING:
    from apercu.pages import Figure

FIGURE_SIDE = 320
"""Longer side in pixels of the pictures that a notebook shows."""
WEAK_EVIDENCE, NO_EVIDENCE = 0.5, 0.1
"""Largest values of masks that hold little evidence, and none."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class MaskExplanation(Explanation):
    """The mask of one class on one image.

    Attributes:
        mask: the mask in [0, 1] at the explainer's size, `height × width`; 1 keeps.
        level: where the mask is cut for the box and the crop.
        second_look: what a second look found; None where none was asked for. The mask is the one
            after it.
    """

    mask: Float[Tensor, "height width"]
    level: float = 0.5
    second_look: SecondLookResult | None = None

    captured_view: ClassVar[str] = "overlay"

    @property
    def map(self) -> Float[Tensor, "height width"]:
        """The raw map of a mask explainer is the mask itself."""
        return self.mask

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """xmin, ymin, xmax and ymax of the tightest box at the level, in pixels of the image.

        It is None where no pixel reaches the level.
        """
        return tight_box(self.mask, self.level, get_size(self.image))

    @property
    def area(self) -> float:
        """The mean of the mask; `region_area` is the region's area."""
        return float(self.mask.mean())

    @property
    def region_area(self) -> float:
        """The area of the region where the mask reaches the level, as a fraction of the image."""
        return float(maps.find_regions(self.mask[None], self.level).float().mean())

    @property
    def sufficient_box(self) -> tuple[int, int, int, int] | None:
        """The box of the best crop of the second look, in pixels of the image; None without.

        It is that of the mask where no other was better.
        """
        if self.second_look is None or not self.second_look.found:
            return None
        return tight_box(self.mask, INNER_LEVEL, get_size(self.image))

    @property
    def capture_description(self) -> str:
        """How the overlay was made."""
        return f"apercu: evidence for {self.target.name}, mask level {self.level:g}"

    def overlay(self) -> Image.Image:
        """Draw the mask as heat over the image, with the box."""
        return self._draw_overlay(shrink_picture(self.image))

    def kept(self) -> Image.Image:
        """Draw what the mask keeps; the rest is dark and grey."""
        return render.draw_masked(shrink_picture(self.image), self.mask)

    def removed(self) -> Image.Image:
        """Draw what the mask removes; the rest is dark and grey."""
        return render.draw_masked(shrink_picture(self.image), 1 - self.mask)

    def crop(self) -> Image.Image | None:
        """Draw the part of the image inside the box; None where there is no box."""
        return self._draw_crop(self.box)

    def sufficient_crop(self) -> Image.Image | None:
        """Draw the crop that the second look found; None where there is none."""
        return self._draw_crop(self.sufficient_box)

    def draw_views(self) -> dict[str, Image.Image]:
        """Draw the overlay, what is kept, what is removed, and the crops that there are."""
        crops = {"crop": self.crop(), "sufficient": self.sufficient_crop()}
        views = {"overlay": self.overlay(), "mask": self.kept(), "removed": self.removed()}
        return views | {name: crop for name, crop in crops.items() if crop is not None}

    def _draw_crop(self, box: tuple[int, int, int, int] | None) -> Image.Image | None:
        if box is None:
            return None
        left, top, right, bottom = box
        return render.to_image(self.image[:, top:bottom, left:right])

    def make_tiles(self, name: str) -> list[render.Tile]:
        """Make image, overlay and what is kept, for a contact sheet."""
        small = shrink_picture(self.image, 2 * 224)
        area = self.region_area
        region = f"region: {area:.1%} of the image" if area else "no region"
        return [
            render.Tile(render.to_image(small), name),
            render.Tile(
                self._draw_overlay(small),
                f"{self.describe_class(self.target)}\n{self.describe_others()}",
            ),
            render.Tile(render.draw_masked(small, self.mask), f"{region}\nat level {self.level:g}"),
        ]

    @property
    def summary(self) -> tuple[str, ...]:
        heading = f"{self.stored.name}: what speaks for {self.target.short_name}"
        return tuple(
            filter(None, (heading, self.verdict, self.doubt, self.search_line, self.trust_line))
        )

    @property
    def search_line(self) -> str:
        """What a second look found, in one sentence; empty where there was none."""
        result, box = self.second_look, self.sufficient_box
        if result is None or not result.looked:
            return ""
        if box is None:
            return "A second look found no better crop."
        height, width = get_size(self.image)
        area = format_percent((box[2] - box[0]) * (box[3] - box[1]) / (height * width))
        score, first = f"{result.score:z.2f}", f"{result.first_score:z.2f}"
        if score == first:
            return f"A second look found no better crop than that of the mask, {area} of the image."
        return (
            f"A second look found a crop of {area} of the image, with a score of {score} instead "
            f"of {first} (lower is better)."
        )

    @property
    def doubt(self) -> str:
        """A sentence where the evidence is weak or below the level; empty elsewhere."""
        name, strongest = self.target.short_name, float(self.mask.max())
        if strongest < WEAK_EVIDENCE:
            return (
                f"{'Nothing' if strongest < NO_EVIDENCE else 'Little'} here speaks for {name}: "
                f"the strongest evidence is {strongest:.2f}, of at most 1."
            )
        if strongest < self.level:
            return f"No region reaches the level: the strongest evidence is {strongest:.2f}."
        return ""

    @property
    def line(self) -> str:
        """The line of every explanation, the doubt, and what a second look found, if anything."""
        return ". ".join(filter(None, (super().line, f"{self.doubt} {self.search_line}".strip())))

    def make_figures(self) -> list[list[Figure]]:
        """Make the image, its evidence, what is kept and removed, and a second look's crop."""
        from apercu.pages import Figure, embed_image

        name, image = self.target.short_name, self.stored.name
        small, area = shrink_picture(self.image, FIGURE_SIDE), self.region_area
        factor = FIGURE_SIDE // max(get_size(small))  # heat and box are finer than a few pixels
        small = small.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        region = "no region"
        if area:
            region = f"the box is around the region, {format_percent(area)} of the image"

        def make_figure(title: str, view: Image.Image, alt: str, note: str = "") -> Figure:
            return Figure(title, embed_image(view, FIGURE_SIDE), alt, note)

        rows = [
            [
                make_figure("The image", render.to_image(small), image),
                make_figure(
                    f"Evidence for {name}",
                    self._draw_overlay(small),
                    f"{image} with the evidence for {name} as heat: {region}",
                    f"Bright where it is strong; {region} (level {self.level:g}).",
                ),
                make_figure(
                    "Kept",
                    render.draw_masked(small, self.mask),
                    f"what the mask keeps of {image}",
                    "The evidence is in colour, the rest is dark and grey.",
                ),
                make_figure(
                    "Removed",
                    render.draw_masked(small, 1 - self.mask),
                    f"what the mask removes of {image}",
                    "The image without its evidence.",
                ),
            ]
        ]
        crop = self.sufficient_crop()
        if crop is not None:
            title, alt = "The best crop", f"the crop of {image} that the second look found"
            rows.append([make_figure(title, crop, alt, "What the second look found.")])
        return rows

    def describe(self) -> dict[str, Any]:
        """Return what `explain.json` says about the mask."""
        record: dict[str, Any] = {
            "target": self.target.index,
            "class": self.target.name,
            "box": None if self.box is None else list(self.box),
            "area": round(self.area, 6),
            "region_area": round(self.region_area, 6),
        }
        if self.second_look is not None:
            box = self.sufficient_box
            record["second_look"] = {
                **self.second_look.describe(),
                "box": None if box is None else list(box),
            }
        return record

    def _draw_overlay(self, picture: Picture) -> Image.Image:
        return render.draw_boxes(render.draw_overlay(picture, self.mask), self._scale_box(picture))

    def _scale_box(self, picture: Picture) -> Boxes:
        boxes = maps.tight_boxes(maps.find_regions(self.mask[None], self.level))
        return scale_boxes(boxes, get_size(self.mask), get_size(picture))


def tight_box(
    mask: Float[Tensor, "height width"], level: float, size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Return the tightest box around the pixels that reach a level; None if there are none.

    Args:
        mask: a mask in [0, 1].
        level: where it is cut.
        size: the height and width of the picture.

    Returns:
        xmin, ymin, xmax and ymax in whole pixels of the picture.
    """
    region = maps.find_regions(mask[None], level)
    if not region.any():
        return None
    edges = scale_boxes(maps.tight_boxes(region), get_size(mask), size)[0].tolist()
    left, top = (math.floor(edge + 1e-4) for edge in edges[:2])
    right, bottom = (math.ceil(edge - 1e-4) for edge in edges[2:])
    return left, top, right, bottom


def explain_masks(
    explainer: MaskingExplainer[Any, Any],
    stored: StoredImage,
    selector: TargetSelector,
    level: float,
    explainer_record: dict[str, Any],
) -> Iterator[MaskExplanation]:
    """Return one mask for each selected class of an image, for one pass of the encoder.

    Args:
        explainer: a trained explainer that makes masks.
        stored: the image.
        selector: selects the classes.
        level: where masks are cut for boxes and crops.
        explainer_record: what `explain.json` says about the explainer.

    Returns:
        An iterator over the explanations, in the order of the classes.

    Raises:
        NotFiniteError: a logit, also one of a crop, or a map is NaN or infinite.
    """
    images = explainer.prepare(stored.picture)[None]
    subject = f"{explainer.classifier_info.spec}:"
    with name_images([stored.name]):
        logits, features = selector.predict_with_features(images)
        check_logits(f"{subject} the prediction", logits)
        targets = selector.select_most_predicted(logits)
        indices = tensor([targets], device=explainer.device)
        masks = explainer.decode_classes(features, indices)[0]
        check_finite_rows(f"{subject} the map", masks[None])
    predicted = int(logits[0].argmax())
    own = masks[targets.index(predicted)][None] if predicted in targets else None
    trust, masks = selector.judge(images, logits, features, own), masks.cpu()
    results: list[SecondLookResult | None] = [None] * len(targets)
    if selector.second_looks is not None:
        copies = images.expand(len(targets), -1, -1, -1)
        try:
            masks, results[:] = selector.second_looks.look(copies, indices[0], masks)
        except NotFiniteError as error:  # its rows are crops
            raise error.name_row(stored.name) from error
    for target, mask, result in zip(targets, masks, results, strict=True):
        yield MaskExplanation(
            stored,
            selector.name_class(target),
            mask,
            level,
            result,
            **selector.describe_prediction(logits, target),
            trust=trust,
            explainer_record=explainer_record,
        )
