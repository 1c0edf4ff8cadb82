"""The cases that are most similar to an image: as a whole, and in the region that was explained."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.names import ClassWord
from apercu.devices import choose_device, enable_gradients
from apercu.errors import ConfigError
from apercu.explain.explain_images import ImageLike, read_image
from apercu.explain.explanation import NamedClass, StoredImage
from apercu.images import ImageSource, open_images
from apercu.images.folder import FolderImages
from apercu.images.listing import EVERYTHING
from apercu.images.names import split_id
from apercu.io import is_folder
from apercu.learning.case_features import (
    CaseEncoder,
    CaseSource,
    EncodedCases,
    Features,
    open_case_encoder,
)
from apercu.learning.case_index import CaseIndex, build_index, name_label
from apercu.learning.labels import LabelRows, find_own_table, read_label_rows
from apercu.learning.similar_cases import SimilarCase, SimilarCases
from apercu.progress import ProgressOption, open_progress

INDEX_FOLDER = "index"
NO_CLASS = "no class"
"""Label of an image that has none of several classes."""


@enable_gradients()
def find_similar(
    source: CaseSource,
    image: ImageLike,
    among: str | Path | ImageSource,
    *,
    labels: str | Path | None = None,
    count: int = 6,
    target: ClassWord | None = None,
    method: str | None = None,
    classifier: str | Path | Classifier | None = None,
    index: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
) -> SimilarCases:
    """Find the images of a folder that are nearest to an image in a classifier's features.

    Images are compared twice: by the mean of the deepest feature map, and by its mean over the
    region that speaks for the predicted class. The features of the folder are computed once, where
    they are kept.

    >>> import apercu
    >>> cases = apercu.find_similar("runs/mine", "cat.jpg", "photos/")  # doctest: +SKIP
    >>> print(*cases.lines, sep="\\n")  # doctest: +SKIP

    Args:
        source: SPEC or card of a classifier, run folder of a trained explainer, or either opened.
        image: a file, a Pillow image, an array or a tensor, as `explain` takes it.
        among: a folder or another source of images, with labels or without.
        labels: CSV table of the labels of these images, as `train_classifier` reads it; their
            folders or `labels.csv` among them when None.
        count: how many cases are returned for each way to compare.
        target: the class whose evidence is the region of the image; None for the predicted one.
        method: what explains, where `source` is a classifier: a method as in a comparison, or
            `none`. By default CAM, or Grad-CAM where the classifier does not allow it.
        classifier: the explained classifier, for a run that does not hold it.
        index: folder where the features are kept; by default `index` in `out`, where that is given.
        out: folder for the report and `similar.json`; None writes nothing.
        device: `auto`, `cpu`, `cuda` or `mps`.
        trust: whether a card or a folder may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.

    Returns:
        The nearest cases, which show themselves in a notebook.

    Raises:
        ImageError: the image cannot be read.
        ImagesError: there are no images to compare with.
        ClassifierError: the classifier cannot be opened, or shows no features.
        RunError: the run cannot be opened, or the index is that of another classifier.
        ConfigError: a setting is wrong.
        TargetError: there is no such class.
    """
    encoder = open_case_encoder(
        source, classifier=classifier, method=method, device=choose_device(device), trust=trust
    )
    check_question(encoder, count, target)
    stored = read_image(image, encoder.classifier.network.input)
    opened, rows = open_labelled_cases(among, encoder, labels)
    kept = None if out is None else Path(out) / INDEX_FOLDER
    folder = kept if index is None else Path(index)
    with open_progress(progress) as report:
        cases = build_index(encoder, opened, folder, report)
    result = CaseFinder(encoder, cases, among=str(opened.name), labels=rows).find(
        stored, count, target, exclude=image if isinstance(image, str | Path) else None
    )
    if out is not None:
        result.save(out)
    return result


def check_question(encoder: CaseEncoder, count: int, target: ClassWord | None) -> None:
    """Check what is asked for, before anything is computed.

    Args:
        encoder: the classifier, and what explains it.
        count: how many cases.
        target: the class to explain; None for the predicted one.

    Raises:
        ConfigError: the count is not at least 1, or a class is named where none is explained.
        TargetError: there is no such class.
    """
    if count < 1:
        raise ConfigError(f"count: expected at least 1 case, got {count}")
    if target is not None and encoder.explain is None:
        raise ConfigError("target: no region is compared, so there is no class to explain")
    if target is not None:
        encoder.classifier.index_of(target)


def open_cases(among: str | Path | ImageSource, encoder: CaseEncoder) -> ImageSource:
    """Open the images to compare with, in the channels of the classifier."""
    if isinstance(among, ImageSource):
        return among
    spec = encoder.classifier.network.input
    return open_images(among, channels=spec.channels, bands=spec.bands)


def open_labelled_cases(
    among: str | Path | ImageSource, encoder: CaseEncoder, labels: str | Path | None = None
) -> tuple[ImageSource, LabelRows | None]:
    """Open the images to compare with, and the table of their labels.

    Args:
        among: a folder or another source of images.
        encoder: the classifier, which says the channels.
        labels: table of the labels; None for the labels of the images themselves.

    Returns:
        The images; and the rows of the table, None where images have labels of their own.

    Raises:
        ImagesError: there are no images, or the table cannot be read.
    """
    table = find_own_table(among) if labels is None else Path(labels)
    if table is None:
        return open_cases(among, encoder), None
    if not isinstance(among, ImageSource) and is_folder(Path(among)):
        among = Path(among) / EVERYTHING
    return open_cases(among, encoder), read_label_rows(table)


class CaseFinder:
    """Finds the nearest cases of images in an index.

    Args:
        encoder: computes the features of an image.
        index: the features of the cases.
        among: what the cases are called in records.
        labels: table of the labels of the cases; None for the labels that they have themselves.

    Raises:
        ImagesError: no image is in the table.
    """

    def __init__(
        self,
        encoder: CaseEncoder,
        index: CaseIndex,
        among: str = "",
        labels: LabelRows | None = None,
    ) -> None:
        self.encoder = encoder
        self.index = index
        names = encoder.classifier.names
        self.labels = tuple(index.list_labels(names))
        if labels is not None:
            files = labels.match(index.source)
            of_image = {
                image: "|".join(name_label(word, None, names) for word in labels.labels[file])
                or NO_CLASS
                for image, file in files.items()
            }
            self.labels = tuple(of_image.get(image) for image in index.positions)
        self.features = F.normalize(index.features, dim=1)
        self.region_features = (
            None if index.region_features is None else F.normalize(index.region_features, dim=1)
        )
        self.record = {
            "classifier": encoder.classifier.spec,
            "fingerprint": encoder.classifier.fingerprint,
            "region": encoder.region,
            "among": among or index.source.name,
            "cases": len(index),
            "left_out": len(index.unread),
        }

    def find(
        self,
        stored: StoredImage,
        count: int = 6,
        target: ClassWord | None = None,
        exclude: str | Path | None = None,
    ) -> SimilarCases:
        """Find the nearest cases of one image, in one pass of the classifier.

        Args:
            stored: the image.
            count: how many cases.
            target: the class to explain; None for the predicted one.
            exclude: the file of the image, or the image in it, which is no case of its own.

        Returns:
            The nearest cases.

        Raises:
            ConfigError: the count is not at least 1, or a class is named for a network without any.
            TargetError: there is no such class.
        """
        check_question(self.encoder, count, target)
        classifier = self.encoder.classifier
        targets = None if target is None else torch.tensor([classifier.index_of(target)])
        encoded = self.encoder.encode(classifier.prepare(stored.picture)[None], targets)
        excluded = self._find_row(exclude)
        predicted, explained, probability = None, None, None
        if self.encoder.has_classes:
            top = int(encoded.logits.argmax(1))
            predicted = NamedClass.of(classifier.names, top)
            probability = float(classifier.decision.probabilities(encoded.logits)[0, top])
            chosen = self.encoder.choose_targets(encoded.logits) if targets is None else targets
            explained = NamedClass.of(classifier.names, int(chosen))
        return SimilarCases(
            stored=stored,
            target=explained if encoded.maps is not None else None,
            predicted=predicted,
            probability=probability,
            map=None if encoded.maps is None else encoded.maps[0],
            by_features=self.rank_cases(encoded.features[0], self.features, count, excluded),
            by_region=self.rank_by_region(encoded, count, excluded)[0],
            index=self.index,
            labels=self.labels,
            record=self.record,
            own=excluded,
        )

    def rank_by_region(
        self, encoded: EncodedCases, count: int, excluded: int | None = None
    ) -> list[tuple[SimilarCase, ...] | None]:
        """Return the nearest cases by the region of each image.

        Args:
            encoded: features of the images.
            count: how many cases.
            excluded: row of a case that is left out.

        Returns:
            Cases of each image; none where nothing speaks for the class, None without regions.
        """
        if encoded.region_features is None or self.region_features is None:
            return [None] * len(encoded.features)
        return [
            self.rank_cases(features, self.region_features, count, excluded)
            if features.any()
            else ()
            for features in encoded.region_features
        ]

    def rank_cases(
        self,
        features: Float[Tensor, " features"],
        cases: Features,
        count: int,
        excluded: int | None = None,
    ) -> tuple[SimilarCase, ...]:
        """Return the cases with the largest cosine to some features, the nearest first.

        Args:
            features: features of one image.
            cases: features of all cases, each of length 1, or 0 where there is no region.
            count: how many cases.
            excluded: row of a case that is left out.

        Returns:
            The cases; those without a region are none.
        """
        distances = measure_distances(features, cases)
        if excluded is not None:
            distances[excluded] = torch.inf
        order = distances.argsort(stable=True)[:count].tolist()
        return tuple(self._describe(row, distances) for row in order if distances[row].isfinite())

    def _describe(self, row: int, distances: Tensor) -> SimilarCase:
        case, logits = self.index.cases[row], self.index.logits[row : row + 1]
        predicted, probability = None, None
        if self.encoder.has_classes:
            top = int(logits.argmax(1))
            predicted = self.encoder.classifier.names.short_names[top]
            probability = float(self.encoder.classifier.decision.probabilities(logits)[0, top])
        distance = float(distances[row])
        return SimilarCase(row, case.name, self.labels[row], predicted, probability, distance)

    def _find_row(self, image: str | Path | None) -> int | None:
        """Return the row of a file, or of an image in it, among the cases; None if it is none."""
        if image is None:
            return None
        path, id = split_id(image)
        wanted, source = path.resolve(), self.index.source
        if isinstance(source, FolderImages):
            for row, position in enumerate(self.index.positions):
                location = source.locations[position]
                is_frame = id is None or id == str(location.frame + 1)
                if is_frame and (source.path / location.file).resolve() == wanted:
                    return row
        elif id is not None and Path(source.name).resolve() == wanted:
            names = source.names
            rows = enumerate(self.index.positions)
            return next((row for row, position in rows if names[position] == id), None)
        return None


def measure_distances(
    features: Float[Tensor, " features"], cases: Features
) -> Float[Tensor, " cases"]:
    """Return 1 less the cosine between features and each case, from 0 to 2.

    Args:
        features: features of one image.
        cases: features of all cases, each of length 1; a case of length 0 has no region.

    Returns:
        One distance per case; infinite for a case without region.

    >>> measure_distances(torch.tensor([3.0, 0.0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor([0., 1.])
    """
    cosines = cases @ F.normalize(features, dim=0)
    distances = (1 - cosines).clamp(0, 2)
    return torch.where(cases.any(1), distances, torch.inf)
