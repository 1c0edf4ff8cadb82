"""The explanation of a counterfactual explainer: the image as it is, and as another class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apercu import maps, render
from apercu.classifiers.network import check_logits
from apercu.classifiers.outputs import check_finite_rows
from apercu.errors import TargetError, name_images
from apercu.explain.explanation import Explanation, NamedClass, StoredImage
from apercu.explain.options import TargetSelector
from apercu.explainers.counterfactual import CounterfactualExplainer
from apercu.types import Picture

if TYPE_CHECKING:
    from apercu.pages import Figure


@final
@dataclass(frozen=True, eq=False, repr=False)
class CounterpartExplanation(Explanation):
    """How one image would have to change to be predicted as another class.

    Attributes:
        prepared: the image as the explainer takes it, `channels × height × width`.
        strip: images from the stable counterpart to the adversarial one, `steps × channels ×
            height × width`.
        probabilities: the classifier's probability of the target at each step; empty where no
            classifier is given.
        strip_classes: the class that the classifier predicts at each step; empty where none is
            given and the explainer does not hold it.
    """

    prepared: Picture
    strip: Float[Tensor, "steps channels height width"]
    probabilities: tuple[float, ...] = ()
    strip_classes: tuple[NamedClass, ...] = ()

    captured_view: ClassVar[str] = "adversarial"

    @property
    def stable(self) -> Picture:
        """The counterpart that is predicted as the image is."""
        return self.strip[0]

    @property
    def similar(self) -> Picture:
        """The counterpart that is predicted as the image is; the same as `stable`."""
        return self.stable

    @property
    def adversarial(self) -> Picture:
        """The counterpart that is meant to be predicted as the target."""
        return self.strip[-1]

    @property
    def kept(self) -> bool | None:
        """Whether the similar counterpart is predicted as the image is; None if nobody checked."""
        if not self.strip_classes or self.predicted is None:
            return None
        return self.strip_classes[0].index == self.predicted.index

    @property
    def flipped(self) -> bool | None:
        """Whether the adversarial counterpart is predicted as the target.

        Only the classifier can tell, so it is None where there is none.
        """
        return self.strip_classes[-1].index == self.target.index if self.strip_classes else None

    @property
    def difference(self) -> Picture:
        """The adversarial counterpart minus the stable one."""
        return self.adversarial - self.stable

    @property
    def map(self) -> Float[Tensor, "height width"]:
        """How much each pixel changes: the mean over the channels of the absolute difference."""
        return render.measure_change(self.difference)

    @property
    def mask(self) -> Float[Tensor, "height width"]:
        """The map, stretched to [0, 1]."""
        return maps.min_max_scale(self.map[None])[0]

    @property
    def capture_description(self) -> str:
        """How the adversarial counterpart was made, and whether it is predicted as the target."""
        description = f"apercu: generated, NOT ACQUIRED; changed to be seen as {self.target.name}"
        if self.flipped is None:
            return f"{description} (not checked)"
        if self.flipped:
            return description
        return f"{description}, but seen as {self.strip_classes[-1].name}"

    def overlay(self) -> Image.Image:
        """Draw the change as heat over the image, at the explainer's size.

        The heat is full where the image changes most; there is none where no change is visible.
        """
        is_visible = float(self.map.max()) >= render.SMALLEST_CHANGE
        return render.draw_overlay(self.prepared, self.mask * is_visible)

    def draw_views(self) -> dict[str, Image.Image]:
        """Draw the image, both counterparts, their difference, and the strip between them."""
        return {
            "input": render.to_image(self.prepared),
            "similar": render.to_image(self.stable),
            "adversarial": render.to_image(self.adversarial),
            "difference": self._draw_difference(),
            "strip": render.draw_contact_sheet([self._make_step_tiles()]),
        }

    def make_tiles(self, name: str) -> list[render.Tile]:
        """Make image, both counterparts and their difference, for a contact sheet."""
        first, last = (
            f", {self.probabilities[end]:.1%}" if self.probabilities else "" for end in (0, -1)
        )
        short = self.target.short_name
        kept = self._describe_end(self.kept, 0, "NOT KEPT")
        flipped = self._describe_end(self.flipped, -1, "NOT FLIPPED")
        return [
            render.Tile(render.to_image(self.prepared), f"{name}\n{self.describe_others()}"),
            render.Tile(render.to_image(self.stable), f"similar: {short}{first}\n{kept}"),
            render.Tile(
                render.to_image(self.adversarial), f"adversarial: {short}{last}\n{flipped}"
            ),
            self._make_difference_tile(),
        ]

    @property
    def summary(self) -> tuple[str, ...]:
        """What the image is changed into, what is predicted, and whether the change succeeded."""
        name = self.target.short_name
        if self.flipped is None:
            reached = f"Nobody checked whether the changed image is predicted as {name}."
        elif self.flipped:
            reached = f"The changed image is predicted as {name}."
        else:
            other = self.strip_classes[-1].short_name
            reached = f"It did not succeed: the changed image is predicted as {other}, not {name}."
        heading = f"{self.stored.name}: what would change it into {name}"
        return tuple(filter(None, (heading, self.verdict, reached, self.trust_line)))

    def make_figures(self) -> list[list[Figure]]:
        """Make image, both counterparts, their difference, and the strip, for a notebook."""
        from apercu.pages import Figure, embed_image

        name, image = self.target.short_name, self.stored.name
        own = "its class" if self.predicted is None else self.predicted.short_name
        kept = self._describe_end(self.kept, 0, "not kept; predicted")
        flipped = self._describe_end(self.flipped, -1, "not flipped; predicted")
        change = render.describe_change(self.difference)

        def make_figure(title: str, view: Image.Image, alt: str, note: str = "") -> Figure:
            return Figure(title, embed_image(view), alt, note)

        figures = [
            make_figure("The image", render.to_image(self.prepared), image),
            make_figure(
                f"Similar: meant to stay {own}",
                render.to_image(self.stable),
                f"{image}, changed to stay {own}",
                kept,
            ),
            make_figure(
                f"Changed: meant to be {name}",
                render.to_image(self.adversarial),
                f"{image}, changed to be predicted as {name}",
                flipped,
            ),
            make_figure(
                "Difference",
                render.draw_difference(self.difference),
                f"what changes in {image}: {change}",
                f"Orange: brighter than in the similar image, blue: darker; {change}.",
            ),
        ]
        steps = [
            make_figure(tile.caption, tile.image, f"step {number} from {own} to {name}")
            for number, tile in enumerate(self._make_step_tiles(f"{name} "), start=1)
        ]
        return [figures, steps]

    def _describe_end(self, succeeded: bool | None, end: int, failure: str) -> str:
        """Return which class is predicted for one end of the strip, for a caption."""
        if succeeded is None:
            return "not checked: no classifier"
        return f"{'predicted' if succeeded else failure}: {self.strip_classes[end].short_name}"

    def _make_difference_tile(self) -> render.Tile:
        difference = self.difference
        return render.Tile(render.draw_difference(difference), render.describe_change(difference))

    def _draw_difference(self) -> Image.Image:
        """Draw the difference, and its scale in words below it."""
        side = max(render.TILE_SIDE, *self.prepared.shape[1:])
        return render.draw_contact_sheet([[self._make_difference_tile()]], side)

    def describe(self) -> dict[str, Any]:
        """Return what `explain.json` says about the counterparts."""
        record: dict[str, Any] = {
            "seen": None if self.predicted is None else self.predicted.name,
            "target": self.target.index,
            "class": self.target.name,
            "change": round(float(self.map.mean()), 6),
            "largest_change": round(float(self.map.max()), 6),
            "kept": self.kept,
            "flipped": self.flipped,
        }
        if self.probabilities:
            record["probabilities"] = [round(value, 6) for value in self.probabilities]
        if self.strip_classes:
            record["strip_classes"] = [named.name for named in self.strip_classes]
        return record

    def _make_step_tiles(self, words: str = "") -> list[render.Tile]:
        last = len(self.strip) - 1
        captions = [f"{words}{probability:.2f}" for probability in self.probabilities]
        captions = captions or [f"{number} of {last}" for number in range(len(self.strip))]
        return [
            render.Tile(render.to_image(picture), caption)
            for picture, caption in zip(self.strip, captions, strict=True)
        ]


def explain_counterparts(
    explainer: CounterfactualExplainer[Any, Any, Any],
    stored: StoredImage,
    selector: TargetSelector,
    explainer_record: dict[str, Any],
) -> Iterator[CounterpartExplanation]:
    """Return the counterparts of an image for each selected class.

    Args:
        explainer: a trained explainer that changes images.
        stored: the image.
        selector: selects the classes to change into.
        explainer_record: what `explain.json` says about the explainer.

    Returns:
        An iterator over the explanations, in the order of the classes.

    Raises:
        TargetError: the image is predicted as the target already.
        NotFiniteError: a logit or a pixel is NaN or infinite.
    """
    images = explainer.prepare(stored.picture)[None]
    with name_images([stored.name]):
        logits = selector.predict_logits(images)
        check_logits(f"{explainer.classifier_info.spec}: the prediction", logits)
    targets = selector.select_others(logits)
    trust = selector.judge(images, logits)
    predicted = int(logits[0].argmax())
    if predicted in targets:
        raise TargetError(
            f"{stored.name}: is predicted as {explainer.classes[predicted]} already; choose "
            "another class"
        )
    for target in targets:
        strip = explainer.counterparts(images, target, logits=logits).strip[:, 0]
        with name_images([stored.name] * len(strip)):
            check_finite_rows(f"{explainer.classifier_info.spec}: the counterpart", strip)
            probabilities, strip_classes = selector.predict_strip(strip, target)
        yield CounterpartExplanation(
            stored=stored,
            target=selector.name_class(target),
            prepared=images[0],
            strip=strip.cpu(),
            probabilities=probabilities,
            strip_classes=strip_classes,
            **selector.describe_prediction(logits, target),
            trust=trust,
            explainer_record=explainer_record,
        )
