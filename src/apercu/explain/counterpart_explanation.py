"""The explanation of a counterfactual explainer: the image as it is, and as another class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apercu import maps, render
from apercu.errors import TargetError
from apercu.explain.explanation import Explanation, NamedClass, StoredImage
from apercu.explain.options import TargetSelector
from apercu.explainers.counterfactual import CounterfactualExplainer
from apercu.types import Picture


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
    """

    prepared: Picture
    strip: Float[Tensor, "steps channels height width"]
    probabilities: tuple[float, ...] = ()

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
    def difference(self) -> Picture:
        """The adversarial counterpart minus the stable one."""
        return self.adversarial - self.stable

    @property
    def map(self) -> Float[Tensor, "height width"]:
        """How much each pixel changes: the mean over the channels of the absolute difference."""
        return self.difference.abs().mean(0)

    @property
    def mask(self) -> Float[Tensor, "height width"]:
        """The map, stretched to [0, 1]."""
        return maps.min_max_scale(self.map[None])[0]

    @property
    def capture_description(self) -> str:
        """How the adversarial counterpart was made."""
        return f"apercu: generated, NOT ACQUIRED; changed to be seen as {self.target.name}"

    def overlay(self) -> Image.Image:
        """Draw the change as heat over the image, at the explainer's size."""
        return render.draw_overlay(self.prepared, self.mask)

    def draw_views(self) -> dict[str, Image.Image]:
        """Draw the image, both counterparts, their difference, and the strip between them."""
        return {
            "input": render.to_image(self.prepared),
            "similar": render.to_image(self.stable),
            "adversarial": render.to_image(self.adversarial),
            "difference": render.draw_difference(self.difference),
            "strip": render.draw_contact_sheet([self._make_step_tiles()]),
        }

    def make_tiles(self, name: str) -> list[render.Tile]:
        """Make image, both counterparts and their difference, for a contact sheet."""
        first, last = (
            f" {self.probabilities[end]:.2f}" if self.probabilities else "" for end in (0, -1)
        )
        short, largest = self.target.short_name, float(self.difference.abs().max())
        return [
            render.Tile(render.to_image(self.prepared), name),
            render.Tile(render.to_image(self.stable), f"similar: {short}{first}"),
            render.Tile(render.to_image(self.adversarial), f"adversarial: {short}{last}"),
            render.Tile(render.draw_difference(self.difference), f"at most {largest:.2f}"),
        ]

    def describe(self) -> dict[str, Any]:
        """Return what `explain.json` says about the counterparts."""
        record: dict[str, Any] = {
            "seen": None if self.predicted is None else self.predicted.name,
            "target": self.target.index,
            "class": self.target.name,
            "change": round(float(self.difference.abs().mean()), 6),
        }
        if self.probabilities:
            record["probabilities"] = [round(value, 6) for value in self.probabilities]
        return record

    def _make_step_tiles(self) -> list[render.Tile]:
        last = len(self.strip) - 1
        captions = [f"{probability:.2f}" for probability in self.probabilities]
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
    """
    images = explainer.prepare(stored.picture)[None]
    logits = selector.predict_logits(images)
    targets = selector.select_others(logits)
    classes, predicted = explainer.classes, int(logits[0].argmax())
    if predicted in targets:
        raise TargetError(
            f"target: the image is predicted as {classes[predicted]} already; choose another class"
        )
    for target in targets:
        strip = explainer.counterparts(images, target, logits=logits).strip[:, 0]
        probabilities = selector.predict_probabilities(strip, target)
        yield CounterpartExplanation(
            stored,
            NamedClass(target, classes[target]),
            images[0],
            strip.cpu(),
            probabilities,
            predicted=NamedClass(predicted, classes[predicted]),
            probability=selector.find_probability(logits, target),
            value=selector.find_value(logits),
            explainer_record=explainer_record,
        )
