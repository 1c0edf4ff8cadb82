"""One explanation: the image, the class, the map, and the files that show it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apercu import render
from apercu.classifiers.names import ClassNames
from apercu.explain.files import (
    build_secondary_capture,
    choose_stem,
    describe_image,
    list_stems,
    read_other_images,
    write_record,
)
from apercu.images.formats.dicom import DicomReference
from apercu.images.resizing import resize_picture
from apercu.io import write_file, write_map
from apercu.types import Picture
from apercu.verdicts import Trust

if TYPE_CHECKING:
    from apercu.pages import Figure

CLASSIFIER, EXPLAINER = "classifier", "explainer"
"""Who predicts the classes of an image, and their probabilities."""
LARGEST_SIDE = 1600
"""Pixels; larger pictures are drawn smaller, except the crop."""


@dataclass(frozen=True)
class NamedClass:
    """One class of the classifier.

    Attributes:
        index: its index.
        name: its name, with all synonyms.
        unique_name: a short name that no other class has; empty where the others are not known.
    """

    index: int
    name: str
    unique_name: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, names: ClassNames, index: int) -> NamedClass:
        """Return a class with a short name that no other class has."""
        return cls(index, names.names[index], names.short_names[index])

    @property
    def short_name(self) -> str:
        """The first of several synonyms, or a longer name that no other class has."""
        return self.unique_name or self.name.partition(",")[0]

    @property
    def slug(self) -> str:
        """Index and name, as part of a file name.

        >>> NamedClass(281, "tabby, tabby cat").slug
        '281-tabby'
        """
        name = re.sub(r"[^\w]+", "-", self.name.partition(",")[0]).strip("-").lower()
        return f"{self.index}-{name[:40]}"


@dataclass(frozen=True, eq=False)
class StoredImage:
    """One image before it is prepared for an explainer.

    Attributes:
        picture: the image as stored, upright, `channels × height × width`.
        name: its name, from which those of the written files are made.
        source: where it comes from.
        reference: how another DICOM file refers to it, where it is DICOM.
    """

    picture: Picture
    name: str = "image"
    source: str = "memory"
    reference: DicomReference | None = None


@dataclass(frozen=True, eq=False)
class Explanation(ABC):
    """What an explainer shows of one image and one class; in a notebook a picture.

    Attributes:
        stored: the image, with its name and source.
        target: the class that is explained.
        predicted: the class that the classifier predicts, or else the explainer.
        runner_up: the class that is predicted second; None where there is only one class.
        probability: the classifier's probability of the target; None where there is no classifier.
        class_probabilities: the probability of each class, by the classifier where there is one,
            and else as the explainer estimates it: `read_by` says which.
        read_by: who predicts, `classifier` or `explainer`; None where nobody does.
        predicted_classes: all predicted classes, the ones predicted most first, where each class is
            decided by itself; else None.
        value: the value of a regression, where a classifier is given.
        trust: whether the prediction may be believed; None without a guard.
        explainer_record: what `explain.json` says about the explainer.
    """

    stored: StoredImage
    target: NamedClass
    predicted: NamedClass | None = field(default=None, kw_only=True)
    runner_up: NamedClass | None = field(default=None, kw_only=True)
    probability: float | None = field(default=None, kw_only=True)
    class_probabilities: Float[Tensor, " classes"] | None = field(default=None, kw_only=True)
    read_by: str | None = field(default=None, kw_only=True)
    predicted_classes: tuple[NamedClass, ...] | None = field(default=None, kw_only=True)
    value: float | None = field(default=None, kw_only=True)
    trust: Trust | None = field(default=None, kw_only=True)
    explainer_record: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    captured_view: ClassVar[str]
    """The view that goes back into an archive of DICOM images."""

    @property
    def image(self) -> Picture:
        """The image as stored, upright, `channels × height × width`."""
        return self.stored.picture

    @property
    def estimated_probability(self) -> float | None:
        """The explainer's own estimate of the probability; None where the classifier gives it."""
        return None if self.read_by == CLASSIFIER else self.find_probability(self.target)

    def find_probability(self, named: NamedClass | None) -> float | None:
        """Return the probability of any class, by whoever predicts (`read_by`); None if unknown."""
        if named is None or self.class_probabilities is None:
            return None
        return float(self.class_probabilities[named.index])

    @property
    @abstractmethod
    def map(self) -> Float[Tensor, "height width"]:
        """The raw map at the explainer's size."""

    @property
    @abstractmethod
    def capture_description(self) -> str:
        """How the captured view was made, in a sentence that names no patient."""

    @abstractmethod
    def overlay(self) -> Image.Image:
        """Draw the map as heat over the image."""

    @abstractmethod
    def draw_views(self) -> dict[str, Image.Image]:
        """Draw all pictures that are written, by the words in their file names."""

    @abstractmethod
    def make_tiles(self, name: str) -> list[render.Tile]:
        """Make the pictures of a contact sheet.

        Args:
            name: the caption of the image itself.

        Returns:
            The tiles of one row, the image first.
        """

    @abstractmethod
    def make_figures(self) -> list[list[Figure]]:
        """Make rows of pictures with words, which a notebook shows."""

    @property
    @abstractmethod
    def summary(self) -> tuple[str, ...]:
        """What is explained, and what is to be said of it, in sentences."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what `explain.json` says about this explanation, without its files."""

    @property
    def flipped(self) -> bool | None:
        """Whether a counterpart is predicted as its target; None for masks."""
        return None

    def sheet(self) -> Image.Image:
        """Draw the image and what explains it, side by side with captions."""
        return render.draw_contact_sheet([self.make_tiles(choose_stem(self.stored.name, set()))])

    def save(self, folder: str | Path) -> Path:
        """Write the map, all pictures and `explain.json`, as `apercu explain` does.

        Other images that `explain.json` lists already of the same classifier stay in it.

        Returns:
            The folder.

        Raises:
            OutputError: the folder cannot be written.
        """
        folder = Path(folder)
        others = read_other_images(folder, self.explainer_record, self.stored.name)
        stem = choose_stem(self.stored.name, list_stems(others))
        entry = describe_image(self.stored, [self.write_files(folder, stem)])
        write_record(folder, self.explainer_record, [*others, entry])
        return folder

    def write_files(self, folder: Path, stem: str) -> dict[str, Any]:
        """Write the map and all pictures.

        Args:
            folder: the folder of the files.
            stem: the beginning of their names.

        Returns:
            What `explain.json` says about them.

        Raises:
            OutputError: the folder cannot be written.
        """
        files = {"map": f"{stem}.map.npy"}
        write_map(folder / files["map"], self.map)
        for view, image in self.draw_views().items():
            files[view] = f"{stem}.{view}.png"
            render.save_image(folder / files[view], image)
            if view == self.captured_view and self.stored.reference is not None:
                files["capture"] = f"{stem}.{view}.dcm"
                capture = build_secondary_capture(
                    image, self.stored.reference, self.capture_description
                )
                write_file(folder / files["capture"], capture)
        return {**self.describe(), **self._describe_prediction(), "files": files}

    def describe_class(self, named: NamedClass | None) -> str:
        """Return the short name of a class and its probability, for a caption.

        A probability that the explainer estimates has the sign ~ before it.
        """
        if named is None:
            return "unknown"
        probability = self.find_probability(named)
        sign = f"{self._sign} " if self._sign else ""
        return named.short_name + ("" if probability is None else f", {sign}{probability:.1%}")

    def describe_others(self) -> str:
        """Return the predicted class where it is not the target, else the runner-up."""
        if self.predicted is not None and self.predicted.index != self.target.index:
            return f"predicted: {self.describe_class(self.predicted)}"
        return "" if self.runner_up is None else f"then {self.describe_class(self.runner_up)}"

    def _describe_prediction(self) -> dict[str, Any]:
        """Return what is predicted, and how probable it is."""
        record: dict[str, Any] = {
            **self._describe_probability(self.target),
            "read_by": self.read_by,
            "predicted_class": self._name_class(self.predicted),
            "runner_up": self._name_class(self.runner_up),
        }
        if self.predicted_classes is not None:
            record["predicted"] = [predicted.name for predicted in self.predicted_classes]
        if self.value is not None:
            record["value"] = self.value
        if self.trust is not None:
            record["trust"] = self.trust.to_record()
        return record

    def _describe_probability(self, named: NamedClass) -> dict[str, float | None]:
        """Return the classifier's probability of a class, and else the explainer's estimate."""
        probability = self.find_probability(named)
        rounded = None if probability is None else round(probability, 6)
        if self.read_by == CLASSIFIER:
            return {"probability": rounded}
        return {"probability": None, "estimated_probability": rounded}

    def _name_class(self, named: NamedClass | None) -> dict[str, Any] | None:
        if named is None:
            return None
        return {"index": named.index, "class": named.name, **self._describe_probability(named)}

    @property
    def verdict(self) -> str:
        """What is predicted and how probable it is, in a sentence; empty where nobody predicts."""
        if self.predicted is None:
            return ""
        who = "The classifier"
        if self.read_by != CLASSIFIER:
            who = "The classifier, as the explainer reads it,"
        if self.value is not None:
            return f"{who} says {self.value:.4g}."
        if self.predicted_classes is not None:
            names = ", ".join(map(self._name_probable, self.predicted_classes))
            return f"{who} finds {names or 'none of its classes'}."
        says, second = f"{who} says {self._name_probable(self.predicted)}", self.runner_up
        if self.predicted.index == self.target.index:
            return f"{says}." if second is None else f"{says}, then {self._name_probable(second)}."
        probability = self.find_probability(self.target)
        if not probability:
            return f"{says}."
        percent = format_percent(probability, self._sign)
        return f"{says}. It gives {self.target.short_name} {percent}."

    @property
    def trust_line(self) -> str:
        """Whether the prediction may be believed, in one line; empty without a guard."""
        return "" if self.trust is None else self.trust.line

    @property
    def line(self) -> str:
        """The image, what is predicted and what is explained, with probabilities, in one line.

        A probability that the explainer estimates has the sign ~ before it.
        """
        name, target = self.stored.name, self.target
        if self.predicted is None:
            return f"{name}: {target.short_name}"
        if self.value is not None:
            return f"{name}: {self.value:.4g}; explained: {target.short_name}"
        if self.predicted_classes is not None:
            names = ", ".join(map(self._name_probable, self.predicted_classes)) or "none"
            return f"{name}: {names}; explained: {self._name_probable(target)}"
        line = f"{name}: {self._name_probable(self.predicted)}"
        if self.predicted.index != target.index:
            return f"{line}; explained: {self._name_probable(target)}"
        if self.runner_up is None:
            return line
        return f"{line}, then {self._name_probable(self.runner_up)}"

    @property
    def _sign(self) -> str:
        """The sign before a probability: ~ where the explainer estimates it."""
        return "" if self.read_by == CLASSIFIER else "~"

    def _name_probable(self, named: NamedClass) -> str:
        """Return the short name of a class with its probability in brackets, if it is known."""
        probability = self.find_probability(named)
        if probability is None:
            return named.short_name
        return f"{named.short_name} ({format_percent(probability, self._sign)})"

    def _repr_html_(self) -> str:
        """Return sentences and pictures, for notebooks."""
        from apercu.pages import render_output

        return render_output(self.summary, self.make_figures())

    def _repr_png_(self) -> bytes:
        """Return the sheet, for consoles that show pictures but no HTML."""
        return render.encode_image(self.sheet())

    def __repr__(self) -> str:
        parts = [repr(self.stored.name), f"target={self.target.short_name!r}"]
        if self.predicted is not None:
            parts.append(f"predicted={self.predicted.short_name!r}")
        if self.probability is not None:
            parts.append(f"probability={self.probability:.2f}")
        elif self.estimated_probability is not None:
            parts.append(f"estimated_probability={self.estimated_probability:.2f}")
        if self.value is not None:
            parts.append(f"value={self.value:.4g}")
        return f"{type(self).__name__}({', '.join(parts)})"


def format_percent(fraction: float, sign: str = "") -> str:
    """Return a fraction in %, as precise as people need it, with a sign such as ~ before it.

    >>> [format_percent(fraction) for fraction in (0.97, 0.0613, 0.0001)]
    ['97 %', '6.1 %', 'less than 0.1 %']
    >>> [format_percent(fraction, "~") for fraction in (0.97, 0.0001)]
    ['~97 %', 'less than ~0.1 %']
    """
    if fraction < 0.0005:
        return f"less than {sign}0.1 %"
    digits = 1 if fraction < 0.0995 else 0
    return f"{sign}{100 * fraction:.{digits}f} %"


def get_size(values: Tensor) -> tuple[int, int]:
    """Return the height and width of a picture or a map."""
    return values.shape[-2], values.shape[-1]


def shrink_picture(
    picture: Picture, side: int = LARGEST_SIDE
) -> Float[Tensor, "channels rows columns"]:
    """Return a picture whose longer side has at most `side` pixels."""
    height, width = get_size(picture)
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return resize_picture(picture, size)
