"""`choose_images_to_label`: the images of a folder to label next, with the reasons, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from apercu.classifiers import Classifier
from apercu.devices import choose_device
from apercu.errors import ConfigError, suggest_nearest
from apercu.images import ImageSource
from apercu.images.folder import FolderImages
from apercu.images.label_tables import LABELS_FILE
from apercu.images.listing import EVERYTHING
from apercu.images.parquet import ParquetImages
from apercu.io import format_csv_rows, is_folder, write_file
from apercu.learning.active import COLUMNS, STRATEGIES, LabelChoice, LabelChooser, Strategy
from apercu.learning.case_features import CaseEncoder, CaseSource, open_case_encoder
from apercu.learning.case_index import CaseIndex, build_index
from apercu.learning.labels import read_label_rows
from apercu.learning.retrieval import INDEX_FOLDER, open_cases
from apercu.learning.similar_cases import draw_case
from apercu.pages import Figure, embed_image, render_output
from apercu.progress import ProgressOption, open_progress

NEXT = "next.csv"
LABELLED_INDEX = "index-labelled"
MOST_SHOWN, SIDE = 12, 150
"""Images that a notebook shows, and the width of their pictures in pixels."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class ImagesToLabel:
    """The images that should be labelled next; in a notebook their pictures.

    Attributes:
        choices: the images with the reasons, the most useful first.
        by: how they were chosen.
        index: all images.
        labelled: how many images have labels already.
    """

    choices: tuple[LabelChoice, ...]
    by: str
    index: CaseIndex
    labelled: int

    def __len__(self) -> int:
        return len(self.choices)

    @property
    def lines(self) -> list[str]:
        """One line for each image: its place, its name and the reason."""
        return [f"{each.rank:4d}  {each.name}: {each.reason}" for each in self.choices]

    @property
    def summary(self) -> str:
        """How many images are listed, of how many."""
        left = len(self.index) - self.labelled
        return f"{len(self)} of {left:,} images without label, by {self.by}"

    def save(self, out: str | Path) -> Path:
        """Write `next.csv`, one row for each image.

        Args:
            out: the folder that is written.

        Returns:
            The path of the table.

        Raises:
            OutputError: the folder cannot be written.
        """
        rows = [COLUMNS, *(each.list_cells() for each in self.choices)]
        return write_file(Path(out) / NEXT, format_csv_rows(rows))

    def _repr_html_(self) -> str:
        """Return the first pictures with their reasons, for notebooks."""
        figures = [
            Figure(
                f"{each.rank}. {each.name}",
                embed_image(draw_case(self.index, each.row, SIDE), SIDE),
                f"{each.name}: {each.reason}",
                each.reason,
            )
            for each in self.choices[:MOST_SHOWN]
        ]
        left = len(self) - len(figures)
        notes = [f"… and {left} more in choices"] if left else []
        return render_output([self.summary], [figures], notes=notes, width=SIDE)

    def __repr__(self) -> str:
        return "\n".join([self.summary, *self.lines])


def choose_images_to_label(
    source: CaseSource,
    images: str | Path | ImageSource,
    *,
    by: Strategy = "combined",
    batch: int = 20,
    labels: str | Path | None = None,
    labelled: str | Path | ImageSource | None = None,
    classifier: str | Path | Classifier | None = None,
    index: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
) -> ImagesToLabel:
    """Choose the images of a folder whose labels would help a classifier most.

    >>> import apercu
    >>> chosen = apercu.choose_images_to_label("runs/first", "photos/", batch=50)  # doctest: +SKIP
    >>> print(chosen.summary)  # doctest: +SKIP

    Args:
        source: SPEC or card of a classifier or a pretrained network, or the run folder of a trained
            explainer, whose classifier is taken; or either opened.
        images: folder of images, of which some may have labels.
        by: `margin` or `entropy` (the most uncertain), `centre` (unlike all labelled ones), or
            `combined`.
        batch: how many images are chosen.
        labels: table of the labels that there are; by default `labels.csv` in the folder, where
            there is one.
        labelled: further images that are labelled already, in another folder.
        classifier: the explained classifier, for a run that does not hold it.
        index: folder where the features are kept; by default `index` in `out`, where that is given.
        out: folder for `next.csv`; None writes nothing.
        device: `auto`, `cpu`, `cuda` or `mps`.
        trust: whether a card or a folder may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.

    Returns:
        The images with reasons; they show themselves in a notebook.

    Raises:
        ImagesError: there are no images, all are labelled, or a label names no image.
        ClassifierError: the classifier cannot be opened, or shows no features.
        ConfigError: a setting is wrong, or the network knows no classes.
    """
    check_strategy(by, batch)
    encoder = open_case_encoder(
        source,
        classifier=classifier,
        explains=False,
        device=choose_device(device),
        trust=trust,
    )
    opened = open_unlabelled(images, encoder)
    rows_labelled = find_labelled(opened, labels)
    others = None if labelled is None else open_cases(labelled, encoder)
    kept = None if out is None else Path(out)
    with open_progress(progress) as report:
        folder = Path(index) if index is not None else kept and kept / INDEX_FOLDER
        cases = build_index(encoder, opened, folder, report)
        extra = None
        if others is not None:
            extra = build_index(encoder, others, kept and kept / LABELLED_INDEX, report)
    chooser = LabelChooser.from_encoder(encoder, cases, extra)
    rows = [row for row, case in enumerate(cases.cases) if case.name in rows_labelled]
    result = ImagesToLabel(tuple(chooser.choose(rows, by, batch)), by, cases, len(rows))
    if out is not None:
        result.save(out)
    return result


def check_strategy(by: str, batch: int) -> None:
    """Check how images are to be chosen, and how many; raises ConfigError."""
    if by not in STRATEGIES:
        raise ConfigError(
            f"by: expected one of {', '.join(STRATEGIES)}, got {by}"
            f"{suggest_nearest(by, STRATEGIES)}"
        )
    if batch < 1:
        raise ConfigError(f"batch: expected at least 1 image, got {batch}")


def open_unlabelled(images: str | Path | ImageSource, encoder: CaseEncoder) -> ImageSource:
    """Open all images of a folder, those that its `labels.csv` does not list, too.

    Args:
        images: a folder, or another source.
        encoder: says which channels are needed.

    Returns:
        The images, without labels.
    """
    if isinstance(images, ImageSource):
        return images
    path = Path(images)
    return open_cases(path / EVERYTHING if is_folder(path) else images, encoder)


def find_labelled(source: ImageSource, labels: str | Path | None = None) -> set[str]:
    """Return the names of the images of a source that have a label in a table.

    Args:
        source: the images.
        labels: the table; None for `labels.csv` in the folder of the images, where there is one, or
            the labels in a Parquet file.

    Returns:
        Names of images.

    Raises:
        ImagesError: the table cannot be read, or none of its files is an image of the source.
    """
    if labels is None:
        if isinstance(source, ParquetImages):
            return {name for row, name in enumerate(source.names) if source.label(row) is not None}
        if not isinstance(source, FolderImages) or not (source.path / LABELS_FILE).is_file():
            return set()
        labels = source.path / LABELS_FILE
    rows = read_label_rows(labels)
    names = source.names
    return {names[index] for index in rows.match(source)} if rows.labels else set()
