"""`open_images`: find the source that a specification names, and list folders of images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from apercu.errors import ImageError, ImagesError
from apercu.images.folder import MASKS_FOLDER, FolderImages, PictureLocation
from apercu.images.formats.dicom import (
    DICOM_MAGIC,
    PREAMBLE,
    DicomHeading,
    is_dicom,
    read_dicom_heading,
)
from apercu.images.formats.dicom import SUFFIXES as DICOM_SUFFIXES
from apercu.images.formats.fits import check_bands, find_first_band_names
from apercu.images.label_tables import BoxRow, Label, read_boxes, read_labels
from apercu.images.names import has_suffix
from apercu.images.parquet import open_parquet
from apercu.images.planted import open_planted
from apercu.images.reader import SUFFIXES
from apercu.images.source import ImageSource
from apercu.images.stack import open_stack

_PLANTED = "planted"


def open_images(
    spec: str | Path, *, channels: int = 3, bands: tuple[str, ...] | None = None
) -> ImageSource:
    """Open a folder, a picture, a Parquet file, a stack (`.npz`), or the planted set as a source.

    Args:
        spec: Path of the folder or file; or `planted`, or `planted:classes=6,seed=3,…` with the
            fields of `Planted`. A folder named `planted` is opened as `./planted`.
        channels: Channels of every picture.
        bands: Names of the channels in FITS files, whose bands may be stored in any order. None
            takes the names of the first file that names as many bands as there are channels,
            each by a different name; if no file does, bands keep their order.

    Returns:
        The images.

    Raises:
        ImagesError: there is no such file or folder, or it holds no images.
        ConfigError: a setting of the planted set is misspelt, or the bands cannot be channels.
    """
    check_bands(bands, channels)
    kind, _, settings = str(spec).partition(":")
    if kind == _PLANTED:
        return open_planted(settings, channels=channels)
    path = Path(spec)
    if path.is_dir():
        return open_folder(path, channels, bands)
    if not path.is_file():
        raise ImagesError(f"{path}: no such file or folder of images")
    if path.suffix.lower() == ".parquet":
        return open_parquet(path, channels)
    if path.suffix.lower() == ".npz":
        return open_stack(path, channels)
    return open_file(path, channels, bands)


def open_file(path: Path, channels: int, bands: tuple[str, ...] | None = None) -> FolderImages:
    """Open one file as a source of one picture, or of all its frames.

    Args:
        path: The file.
        channels: Channels of every picture.
        bands: Names of the channels in a FITS file; None as in `open_images`.

    Returns:
        The pictures of the file.
    """
    locations = tuple(_find_pictures(path.parent, (path.name,)))
    bands = bands or find_first_band_names(path.parent, (path.name,), channels)
    return FolderImages(path.parent, locations, None, {}, channels, bands, path.name)


def open_folder(path: Path, channels: int, bands: tuple[str, ...] | None = None) -> FolderImages:
    """Open a folder: by its labels.csv, by one sub-folder per class, or without labels.

    boxes.csv and masks/ are in pixels of the stored pictures, before any EXIF rotation. If
    boxes.csv repeats the label column, only the boxes of an image's label are used; otherwise all.
    Every frame of a DICOM file is a picture.

    Args:
        path: The folder.
        channels: Channels of every picture.
        bands: Names of the channels in FITS files; None as in `open_images`.

    Returns:
        The pictures of the folder.

    Raises:
        ImagesError: the folder is empty or has an unclear layout, a table does not fit, or the
            folder mixes DICOM series of several sizes.
    """
    column, labels = None, None
    if (path / "labels.csv").is_file():
        column, table = read_labels(path / "labels.csv")
        files, labels = tuple(table), tuple(table.values())
        _check_present(path / "labels.csv", files)
    else:
        files, labels = _list_pictures(path)
    if not files:
        raise ImagesError(f"{path}: no images, {_suggest_instead(path)}")
    boxes: dict[str, tuple[BoxRow, ...]] = {}
    if (path / "boxes.csv").is_file():
        boxes = read_boxes(path / "boxes.csv", column)
        _check_present(path / "boxes.csv", boxes.keys() - set(files))
    locations = tuple(_find_pictures(path, files))
    if labels is not None:
        label_of_file = dict(zip(files, labels, strict=True))
        labels = tuple(label_of_file[location.file] for location in locations)
    bands = bands or find_first_band_names(path, files, channels)
    return FolderImages(path, locations, labels, boxes, channels, bands)


def _find_pictures(path: Path, files: Iterable[str]) -> Iterator[PictureLocation]:
    """Yield the location of every picture of the files; DICOM headings tell how many frames."""
    series: dict[str, set[tuple[int, int]]] = {}
    counts: Counter[str] = Counter()
    for file in files:
        heading = _read_heading(path / file)
        if heading is None:
            yield PictureLocation(file)
            continue
        series.setdefault(heading.series, set()).add(heading.size)
        counts[heading.series] += 1
        yield from (PictureLocation(file, frame, heading.frames) for frame in range(heading.frames))
    sizes = set().union(*series.values())
    if len(series) > 1 and len(sizes) > 1 and max(counts.values()) > 1:
        raise ImagesError(
            f"{path}: holds slices of {len(series)} DICOM series in {len(sizes)} sizes; "
            "give each series a folder of its own"
        )


def _read_heading(path: Path) -> DicomHeading | None:
    """Read the heading of a DICOM file; None for other files and for damaged ones."""
    if path.suffix.lower() not in DICOM_SUFFIXES and not _is_dicom_without_suffix(path):
        return None
    try:
        with path.open("rb") as stream:
            return read_dicom_heading(stream, str(path))
    except (ImageError, OSError):
        return None


def _is_dicom_without_suffix(path: Path) -> bool:
    """Return whether a file without a known suffix is DICOM, as hospital archives write them."""
    if has_suffix(path.name, SUFFIXES):
        return False
    try:
        with path.open("rb") as stream:
            return is_dicom(stream.read(PREAMBLE + len(DICOM_MAGIC)))
    except OSError:
        return False


def _list_pictures(path: Path) -> tuple[tuple[str, ...], tuple[Label, ...] | None]:
    """List the files of a folder without labels.csv, and their labels if it has sub-folders."""
    plain, folders = _scan(path)
    folders = [folder for folder in folders if folder != MASKS_FOLDER]
    inner = {folder: _scan(path / folder) for folder in folders}
    classes = {folder: files for folder, (files, _) in inner.items() if files}
    if plain and classes:
        raise ImagesError(
            f"{path}: expected either images or one folder per class, got both "
            f"({len(plain)} images, first {plain[0]}, and {len(classes)} folders of images)"
        )
    if plain:
        return tuple(plain), None
    deeper = next((folder for folder, (_, folders) in inner.items() if folders), None)
    if not classes and deeper:
        raise ImagesError(
            f"{path}: no images here or one folder below; open a folder inside, "
            f"such as {path / deeper}"
        )
    pairs = [(f"{label}/{file}", label) for label, files in classes.items() for file in files]
    return tuple(file for file, _ in pairs), tuple(label for _, label in pairs)


def _scan(path: Path) -> tuple[list[str], list[str]]:
    """List the pictures and the sub-folders of a folder by name, sorted, without hidden ones."""
    try:
        with os.scandir(path) as entries:
            listing = sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    except OSError as error:
        raise ImagesError(f"{path}: cannot be listed ({error.strerror})") from error
    names = [name for name, is_dir in listing if not is_dir]
    files = [
        name
        for name in names
        if has_suffix(name, SUFFIXES) or _is_dicom_without_suffix(path / name)
    ]
    return files, [name for name, is_dir in listing if is_dir]


def _suggest_instead(path: Path) -> str:
    """Return the end of the error message for a folder without images."""
    tables = sorted([*path.rglob("*.parquet"), *path.rglob("*.npz")])
    if tables:
        return f"but Parquet files or stacks; open one of them, such as {tables[0]}"
    return f"expected files that end in {' '.join(sorted(SUFFIXES))}"


def _check_present(table: Path, files: Iterable[str]) -> None:
    """Raise ImagesError if a table names files that do not exist."""
    missing = sorted(file for file in files if not (table.parent / file).is_file())
    if missing:
        raise ImagesError(
            f"{table}: names files that do not exist, {len(missing)} in all, first {missing[0]}"
        )
