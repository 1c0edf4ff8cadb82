"""Explain one image, or image after image into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias, cast, final, overload

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from apercu.classifiers import Classifier, InputSpec
from apercu.classifiers.names import ClassWord
from apercu.errors import ConfigError, ImageError, ImagesError, InputError
from apercu.explain.counterpart_explanation import CounterpartExplanation, explain_counterparts
from apercu.explain.explanation import StoredImage
from apercu.explain.files import RECORD_FILE, FolderWriter
from apercu.explain.mask_explanation import MaskExplanation, explain_masks
from apercu.explain.options import ExplainOptions, SecondLookChoice, TargetSelector
from apercu.explainers.base import AnyExplainer, MaskingExplainer
from apercu.explainers.counterfactual import CounterfactualExplainer
from apercu.images import ImageSource, open_images
from apercu.images.folder import FolderImages
from apercu.images.reader import convert_picture
from apercu.log import warn
from apercu.verdicts import GuardChoice

AnyExplanation: TypeAlias = MaskExplanation | CounterpartExplanation
ImageLike: TypeAlias = str | Path | Image.Image | NDArray[Any] | Tensor
"""A file, a Pillow image, an array `height × width × channels`, or a tensor with channels first."""

MOST_SHOWN, SMALL_WIDTH = 12, 150
"""Explanations that a notebook shows of several, and the width of their pictures in pixels."""
RECORD_EVERY = 50
"""Images after which `explain.json` is written again, so that it lists what is finished."""
MAX_LINES = 20
"""Images that get a line each."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Explanations(Sequence[AnyExplanation]):
    """The explanations of several images or classes; a notebook shows them one below the other.

    Attributes:
        items: the explanations in the order of the images; those of one image follow each other.
        has_classes: whether an image may have several, so that names of files hold the class.
    """

    items: tuple[AnyExplanation, ...]
    has_classes: bool = False

    @overload
    def __getitem__(self, index: int) -> AnyExplanation: ...

    @overload
    def __getitem__(self, index: slice) -> Explanations: ...

    def __getitem__(self, index: int | slice) -> AnyExplanation | Explanations:
        if isinstance(index, slice):
            return Explanations(self.items[index], self.has_classes)
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def save(self, folder: str | Path) -> Path:
        """Write the map, the pictures and the record of each image, as `apercu explain` does.

        Args:
            folder: the folder that is written; images of one name get a number each.

        Returns:
            The folder.

        Raises:
            OutputError: the folder cannot be written.
        """
        folder = Path(folder)
        writer = FolderWriter(folder, self.items[0].explainer_record, 1, self.has_classes)
        for stored, explanations in groupby(self.items, attrgetter("stored")):
            writer.add(stored, explanations)
        writer.finish()
        return folder

    def _repr_html_(self) -> str:
        """Return the pictures of the first images, for notebooks."""
        from apercu.pages import render_output

        parts = [
            render_output(each.summary, each.make_figures(), width=SMALL_WIDTH)
            for each in self.items[:MOST_SHOWN]
        ]
        if left := len(self) - len(parts):
            parts.append(render_output(notes=[f"… and {left} more: explanations[{MOST_SHOWN}:]"]))
        return "".join(parts)

    def __repr__(self) -> str:
        lines = [f"  {each!r}," for each in self.items[:MOST_SHOWN]]
        lines += [f"  … and {len(self) - len(lines)} more"] if len(self) > MOST_SHOWN else []
        return "\n".join([f"{len(self)} explanations:", *lines])


def explain_image(
    explainer: AnyExplainer,
    image: ImageLike | Sequence[ImageLike],
    target: ClassWord | None = None,
    *,
    top: int | None = None,
    level: float = 0.5,
    second_look: SecondLookChoice | None = None,
    classifier: Classifier | None = None,
    guard: GuardChoice = None,
) -> AnyExplanation | Explanations:
    """Explain one image, or each of several; `TrainedExplainer.explain` calls this.

    Args:
        explainer: a trained explainer of any kind.
        image: a file, a Pillow image, an array `height × width × channels` (uint8, or floats in
            [0, 1]), or a tensor `channels × height × width`, of any size; or a list of these.
        target: the class to explain by name or index; None for the predicted one, `all` and
            `predicted` for several. With counterparts it is the class to change into; None for the
            runner-up.
        top: the largest number of classes of an image; None for 20.
        level: where a mask is cut for its box, in (0, 1).
        second_look: see `ExplainOptions`.
        classifier: predicts the classes and their probabilities; without it the explainer
            predicts the class itself, and only its estimate of the probability is known.
        guard: a guard or its folder, which says whether the prediction may be believed; `none` for
            none, None for the one that the card of the classifier names.

    Returns:
        A `MaskExplanation` or a `CounterpartExplanation`; `Explanations` of several images or
        classes.

    Raises:
        ImageError: an image cannot be read, or has another number of channels, or there is none.
        TargetError: there is no such class, or the image is predicted as it already.
        RunError: the explainer was trained for another classifier.
        ConfigError: the level is not between 0 and 1, or counterparts are given one.
    """
    limit = ExplainOptions.top if top is None else top
    options = ExplainOptions(target, limit, level, second_look)
    if top is not None and not options.is_multiple:
        raise ConfigError("top: only the targets all and predicted show several classes")
    run = ExplainRun(explainer, options, classifier, guard)
    images: Sequence[ImageLike] = (image,)  # type: ignore[assignment]
    if is_several := isinstance(image, Sequence) and not isinstance(image, str | bytes):
        images = image
    if not images:
        raise ImageError("image: expected at least one, got an empty list")
    inputs = (read_image(each, explainer.classifier_info.input) for each in images)
    found = tuple(each for stored in inputs for each in run.explain(stored))
    if is_several or options.is_multiple:
        return Explanations(found, options.is_multiple)
    return found[0]


def read_image(image: ImageLike, input: InputSpec) -> StoredImage:
    """Read one image, whatever it is.

    Args:
        image: a file, a Pillow image, an array or a tensor.
        input: channels and bands of the images.

    Returns:
        The image as it is stored, with its name.

    Raises:
        ImageError: it cannot be read, or is not one image.
    """
    if isinstance(image, str | Path):
        refs = select_images([image], input)
        if len(refs) != 1:
            hint = f"one of them as {image}#ID" if Path(image).is_file() else "a single file"
            raise ImageError(f"{image}: expected one image, got {len(refs)}; name {hint}")
        return refs[0].read_image()
    if isinstance(image, Tensor) and image.ndim == 4 and len(image) == 1:
        image = image[0]
    return StoredImage(convert_picture(image, input.channels))


@dataclass(frozen=True)
class ImageRef:
    """One image of a source, not read yet.

    Attributes:
        source: the images.
        index: position in the source, from 0.
    """

    source: ImageSource
    index: int

    def check(self) -> None:
        """Read the picture and drop it, to refuse it before an explainer is loaded for it.

        Raises:
            ImageError: it cannot be read.
        """
        self.source.picture(self.index)

    def read_image(self) -> StoredImage:
        """Read the picture, and how DICOM files refer to it.

        Raises:
            ImageError: it cannot be read.
        """
        item = self.source[self.index]
        if item.moves:
            warn(f"{item.name}: this picture moves; its first frame is explained")
        reference = None
        if isinstance(self.source, FolderImages):
            reference = self.source.dicom_reference(self.index)
        return StoredImage(item.picture, item.name, self.source.name, reference)


def select_images(
    specs: Sequence[str | Path],
    input: InputSpec,
    random: int | None = None,
    seed: int = 0,
    bands: tuple[str, ...] | None = None,
) -> list[ImageRef]:
    """Return all images of some sources, or some of them at random.

    Args:
        specs: images, folders or Parquet files.
        input: the number of channels and the names of the bands.
        random: the number of images that are drawn; None for all.
        seed: the seed of the draw.
        bands: names of the bands of FITS files, one per channel or one for all; None takes those
            of `input`.

    Returns:
        The images, in the order of the sources.

    Raises:
        ImagesError: a file or folder is missing, or holds no images.
    """
    bands = bands or input.bands
    sources = [open_images(spec, channels=input.channels, bands=bands) for spec in specs]
    refs = [ImageRef(source, index) for source in sources for index in range(len(source))]
    if random is None or random >= len(refs):
        return refs
    order = torch.randperm(len(refs), generator=torch.Generator().manual_seed(seed))
    return [refs[index] for index in sorted(order[:random].tolist())]


class ExplainRun:
    """One explainer and what it explains.

    Args:
        explainer: a trained explainer of any kind.
        options: what is explained in every image.
        classifier: predicts the classes and their probabilities, where it is given.
        guard: a guard or its folder, which says whether the prediction may be believed; `none` for
            none, None for the one that the card of the classifier names.

    Raises:
        RunError: the explainer was trained for another classifier, or the guard does not belong to
            it.
        TargetError: there is no such class.
        ConfigError: a level is given for an explainer that makes no masks.
    """

    def __init__(
        self,
        explainer: AnyExplainer,
        options: ExplainOptions,
        classifier: Classifier | None = None,
        guard: GuardChoice = None,
    ) -> None:
        self.explainer = explainer
        self.options = options
        self.selector = TargetSelector(explainer, options, classifier, guard)
        info = explainer.classifier_info
        self.record: dict[str, Any] = {
            "classifier": info.spec,
            "fingerprint": info.fingerprint,
            **({"level": options.level} if explainer.makes_masks else {}),
            "map_size": list(info.input.size),
        }

    def explain(self, stored: StoredImage) -> Iterator[AnyExplanation]:
        """Yield the explanations of one image, one for each selected class."""
        if self.explainer.makes_masks:
            masks = cast(MaskingExplainer[Any, Any], self.explainer)
            yield from explain_masks(masks, stored, self.selector, self.options.level, self.record)
        else:
            changing = cast(CounterfactualExplainer[Any, Any, Any], self.explainer)
            yield from explain_counterparts(changing, stored, self.selector, self.record)

    def write(
        self,
        refs: Sequence[ImageRef],
        out: Path,
        progress: Callable[[int, int], None],
        warn: Callable[[str], None],
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Write the files of each image, contact sheets, and `explain.json`.

        Args:
            refs: the images.
            out: the folder that is written.
            progress: is called with the images that are done, and the images in all.
            warn: receives one line about each image that cannot be explained, and one about
                counterparts that are not predicted as their target.
            report: receives one line about each of the first images, and how often each class is
                predicted where there are more.

        Raises:
            ImageError: the only image cannot be read.
            ImagesError: some images could not be explained; the others are finished.
            OutputError: the folder cannot be written.
        """
        expected = len(refs) * self.selector.count
        writer = FolderWriter(out, self.record, expected, self.options.is_multiple)
        failed = 0
        try:
            for done, ref in enumerate(refs, start=1):
                try:
                    stored = ref.read_image()
                    line = writer.add(stored, self.explain(stored))
                    if done <= MAX_LINES:
                        report(line)
                except InputError as error:
                    if len(refs) == 1:
                        raise
                    failed += 1
                    warn(str(error))
                if done % RECORD_EVERY == 0:
                    writer.write_record()
                progress(done, len(refs))
        finally:
            writer.finish()
        if len(refs) > MAX_LINES:
            report(writer.count_classes())
        if writer.flipped.count(False):
            warn(
                f"{writer.flipped.count(False)} of {len(writer.flipped)} counterparts are not "
                f"predicted as their target: flipped is false in {out / RECORD_FILE}"
            )
        if failed:
            if failed == len(refs):
                raise ImagesError(f"none of the {failed} images could be explained")
            raise ImagesError(
                f"{failed} of {len(refs)} images could not be explained; the others are in {out}"
            )
