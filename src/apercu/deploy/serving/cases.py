"""Similar cases in the responses of a server, and the features behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias, final

import torch

from apercu import render
from apercu.deploy.inference import is_export
from apercu.deploy.serving.labelling import LabellingQueue
from apercu.deploy.serving.served_explainer import CaseSearcher, Record, to_base64
from apercu.deploy.serving.settings import CaseFolders, ServeSettings
from apercu.errors import ConfigError, ImagesError
from apercu.images.label_tables import LABELS_FILE, LabelTable
from apercu.learning.active import LabelChooser
from apercu.learning.case_features import CaseEncoder, open_case_encoder
from apercu.learning.case_index import build_index, read_index
from apercu.learning.labelling import open_unlabelled
from apercu.learning.retrieval import CaseFinder, open_labelled_cases
from apercu.learning.similar_cases import SimilarCase, draw_case
from apercu.log import warn
from apercu.progress import ProgressCallback, ignore_progress
from apercu.types import Images

ProgressDisplay: TypeAlias = Callable[[], AbstractContextManager[ProgressCallback]]
"""Opens what shows the progress of work, and closes it at the end."""
SIDE = 160
"""Longest side of the picture of a case in pixels."""
DIGITS = 6


@final
class CaseSearch(CaseSearcher):
    """Finds similar cases for the images of requests.

    Args:
        finder: the cases.
    """

    def __init__(self, finder: CaseFinder) -> None:
        self.finder = finder

    @property
    def count(self) -> int:
        """The number of cases."""
        return len(self.finder.index)

    @classmethod
    def open(
        cls,
        encoder: CaseEncoder,
        folders: CaseFolders,
    ) -> CaseSearch:
        """Open the cases of a worker, whose features are computed already.

        Args:
            encoder: the classifier, and what explains it.
            folders: the images and their features.

        Returns:
            The search.

        Raises:
            RunError: the features are those of another classifier.
        """
        source, rows = open_labelled_cases(folders.among, encoder, folders.labels)
        return cls(CaseFinder(encoder, read_index(folders.index, source, encoder), labels=rows))

    def find(self, image: Images, target: int | None, count: int) -> Record:
        """Find the cases that are nearest to one image.

        Args:
            image: the image as the explainer takes it, `1 × channels × height × width`.
            target: the class whose region is compared; None for the predicted one.
            count: how many cases for each way to compare.

        Returns:
            The cases by the whole image and by the region, with small pictures.
        """
        finder = self.finder
        targets = None if target is None else torch.tensor([target])
        with torch.inference_mode(False):  # some methods need gradients
            encoded = finder.encoder.encode(image.clone(), targets)
        by_region = finder.rank_by_region(encoded, count)[0] or ()
        by_features = finder.rank_cases(encoded.features[0], finder.features, count)
        return {
            "by_features": [self._write(case) for case in by_features],
            "by_region": [self._write(case, has_region=True) for case in by_region],
        }

    def _write(self, case: SimilarCase, *, has_region: bool = False) -> Record:
        index = self.finder.index
        weights = None if index.weights is None or not has_region else index.weights[case.row]
        picture = draw_case(index, case.row, SIDE, weights)
        return {
            "name": case.name,
            "label": case.label,
            "predicted": case.predicted,
            "distance": round(case.distance, DIGITS),
            "picture": to_base64(render.encode_image(picture, "JPEG")),
        }


def ignore_all() -> AbstractContextManager[ProgressCallback]:
    """Return a place for progress where nobody sees it."""
    return nullcontext(ignore_progress)


@dataclass(frozen=True)
class PreparedCases:
    """What a server has computed before it starts.

    Attributes:
        folders: where workers find similar cases; None without.
        labelling: the images that are labelled on the page; None without.
    """

    folders: CaseFolders | None = None
    labelling: LabellingQueue | None = None


@contextmanager
def prepare_cases(
    settings: ServeSettings, show_progress: ProgressDisplay = ignore_all
) -> Iterator[PreparedCases]:
    """Compute the features of all images that a server knows, before its workers start.

    Args:
        settings: settings of the server.
        show_progress: shows how many images are done.

    Yields:
        What the workers and the page need; features that are not kept are removed at the end.

    Raises:
        ConfigError: an export is served, which holds no features.
        RunError: the classifier is missing, or the features that are kept belong to another one.
        ImagesError: there are no images.
    """
    cases = settings.cases
    if cases.among is None and cases.label is None:
        yield PreparedCases()
        return
    if is_export(settings.run):
        raise ConfigError(
            f"{settings.run}: an export gives no features, which --among and --label need; serve "
            "the run that it was made of"
        )
    with ExitStack() as resources:
        folder = cases.index
        if folder is None:
            folder = Path(resources.enter_context(TemporaryDirectory(prefix="apercu-")))
        folders, labelling = None, None
        with show_progress() as progress:
            if cases.among is not None:
                folders = _prepare_similar(settings, cases.among, folder / "similar", progress)
            if cases.label is not None:
                labelling = _prepare_labelling(settings, cases.label, folder / "label", progress)
        yield PreparedCases(folders, labelling)


def _prepare_similar(
    settings: ServeSettings, among: str, folder: Path, progress: ProgressCallback
) -> CaseFolders:
    encoder = open_case_encoder(
        settings.run, classifier=settings.classifier, device=settings.workers.device
    )
    labels = settings.cases.labels
    if labels is not None and settings.cases.label is not None:
        labels = labels if has_rows_for(labels, among, encoder) else None
    source, rows = open_labelled_cases(among, encoder, labels)
    index = build_index(encoder, source, folder, progress)
    CaseFinder(encoder, index, labels=rows)  # the table is checked before the workers start
    return CaseFolders(among, folder, labels)


def has_rows_for(labels: Path, among: str, encoder: CaseEncoder) -> bool:
    """Whether a table, to which labels are written, has labels of the similar images, too.

    Args:
        labels: the table, which need not exist.
        among: the similar images.
        encoder: the classifier.

    Returns:
        False where the table is still empty, or names other images, which a warning says.
    """
    if not labels.is_file():
        return False
    source, rows = open_labelled_cases(among, encoder, labels)
    if rows is None or not rows.labels:
        return False
    try:
        rows.match(source)
    except ImagesError as error:
        warn(f"similar cases have no labels of this table: {error}")
        return False
    return True


def _prepare_labelling(
    settings: ServeSettings, label: Path, folder: Path, progress: ProgressCallback
) -> LabellingQueue:
    encoder = open_case_encoder(
        settings.run,
        classifier=settings.classifier,
        explains=False,
        device=settings.workers.device,
    )
    index = build_index(encoder, open_unlabelled(label, encoder), folder, progress)
    chooser = LabelChooser.from_encoder(encoder, index)
    table = LabelTable(settings.cases.labels or label / LABELS_FILE, chooser.classes)
    return LabellingQueue(chooser, table)
