"""`open_images`: find the source that a specification names, and list folders of images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from apercu.errors import ImageError, ImagesError, NoPixelsError
from apercu.images.alerts import SUFFIXES as ALERT_SUFFIXES
from apercu.images.alerts import open_alerts
from apercu.images.folder import FolderImages, PictureLocation
from apercu.images.formats.dicom import (
    DICOM_MAGIC,
    PREAMBLE,
    DicomHeading,
    is_dicom,
    read_dicom_heading,
)
from apercu.images.formats.dicom import SUFFIXES as DICOM_SUFFIXES
from apercu.images.formats.fits import check_bands, find_first_band_names
from apercu.images.formats.tiff import is_tiff, read_pages
from apercu.images.label_tables import BoxRow, holds_several, read_boxes, read_labels
from apercu.images.listing import EVERYTHING, label_by_folder, list_pictures, warn_left_out
from apercu.images.names import ARCHIVE_SUFFIXES, UNPACK, has_suffix, split_id
from apercu.images.parquet import open_parquet
from apercu.images.planted import open_planted
from apercu.images.reader import SUFFIXES
from apercu.images.source import ChosenImages, ImageSource
from apercu.images.stack import open_stack
from apercu.io import check_path, is_inside
from apercu.log import warn

DICOM_DIRECTORY = "DICOMDIR"
"""Name of the file that lists the images of a CD; opening it opens its folder."""

MAX_NAME = 200
"""Letters of a file's name in an error."""
_PLANTED = "planted"
_TIFF_SUFFIXES = (".tif", ".tiff")
_BRACKETS = re.compile(r"(?P<path>.*[^\[\]/])(?P<bands>(\[[^\[\]]+\])+)")


def open_images(
    spec: str | Path, *, channels: int = 3, bands: tuple[str, ...] | None = None
) -> ImageSource:
    """Open a folder, a picture, a Parquet file, a stack, alerts, or the planted set as a source.

    >>> images = open_images("planted:images=2,size=32")
    >>> len(images), images[0].picture.shape
    (2, torch.Size([3, 32, 32]))

    Args:
        spec: path of the folder or file; or `planted`, or `planted:classes=6,seed=3,…` with the
            fields of `Planted`. A folder named `planted` is opened as `./planted`. A folder with
            `/**` at its end gives all pictures below it without labels. A FITS file or a folder
            of them may end in its bands, `frame.fits[SCI,2][ERR]`. A file may end in the id of
            one image in it, `scan.tif#2` or `stamps.npz#518`.
        channels: channels of every picture.
        bands: names of the channels in FITS files, whose bands may be stored in any order. None
            takes the names of the first file that names as many bands as there are channels,
            each by a different name; if no file does, bands keep their order.

    Returns:
        The images.

    Raises:
        ImagesError: there is no such file or folder, or it holds no images, or not the one named.
        ConfigError: a setting of the planted set is misspelt, or the bands cannot be channels.
    """
    check_path("images", spec)
    check_bands(bands, channels)
    kind, _, settings = str(spec).partition(":")
    if kind == _PLANTED:
        return open_planted(settings, channels=channels)
    path, id = split_id(spec)
    if id is not None:
        return _choose_image(open_images(path, channels=channels, bands=bands), id)
    if not path.exists():
        path, bracketed = _split_bands(str(spec))
        bands = bracketed or bands
        check_bands(bands, channels)
    if path.name == EVERYTHING and path.parent.is_dir():
        return open_folder(path.parent, channels, bands, by_folder=False)
    if path.name == DICOM_DIRECTORY and path.is_file():
        path = path.parent
    if path.is_dir():
        return open_folder(path, channels, bands)
    check_images(path)
    if path.suffix.lower() == ".parquet":
        return open_parquet(path, channels)
    if has_suffix(path.name, ALERT_SUFFIXES):
        return open_alerts(path, channels)
    if path.suffix.lower() == ".npz":
        return open_stack(path, channels)
    return open_file(path, channels, bands)


def check_images(*specs: str | Path | ImageSource | None) -> None:
    """Check that what specifications name is there, before something large is loaded for it.

    Args:
        specs: the folders and files, named as for `open_images`; sources that are open already,
            and None, need no check.

    Raises:
        ImagesError: there is no such file or folder, or it is an archive.
    """
    for spec in specs:
        if spec is None or isinstance(spec, ImageSource):
            continue
        check_path("images", spec)
        path = split_id(spec)[0]
        if not path.exists():
            path = _split_bands(str(spec))[0]
        is_planted = str(spec).partition(":")[0] == _PLANTED
        is_everything = path.name == EVERYTHING and path.parent.is_dir()
        if path.is_file() and has_suffix(path.name, ARCHIVE_SUFFIXES):
            raise ImagesError(f"{path}: {UNPACK}")
        if is_planted or is_everything or path.is_dir() or path.is_file():
            continue
        what = "no plain file, expected a" if path.exists() else "no such"
        raise ImagesError(f"{path}: {what} file or folder of images")


def _choose_image(source: ImageSource, id: str) -> ImageSource:
    """Return the one image of a file that has this id, or this number of a frame or page."""
    frame = f"{Path(source.name).name}#{id}"
    names = source.names
    index = next((i for i, name in enumerate(names) if name in (id, frame)), None)
    if index is None:
        shown = f"{names[0]} to {names[-1]}" if len(names) > 1 else f"{names[0]} alone"
        raise ImagesError(f"{source.name}: no image {id!r}, it holds {shown}")
    if isinstance(source, FolderImages):
        return replace(source, locations=source.locations[index : index + 1])
    return ChosenImages(source, (index,))


def _split_bands(spec: str) -> tuple[Path, tuple[str, ...] | None]:
    """Split `frame.fits[SCI,2][ERR]` into the path and the names of bands, if it has such an end.

    >>> _split_bands("frame.fits[SCI,2][ERR]")
    (PosixPath('frame.fits'), ('SCI:2', 'ERR'))
    """
    match = _BRACKETS.fullmatch(spec)
    if match is None:
        return Path(spec), None
    names = re.findall(r"\[([^\[\]]+)\]", match["bands"])
    return Path(match["path"]), tuple(name.replace(",", ":").replace(" ", "") for name in names)


def open_file(path: Path, channels: int, bands: tuple[str, ...] | None = None) -> FolderImages:
    """Open one file as a source of one picture, or of all its frames.

    Args:
        path: the file.
        channels: channels of every picture.
        bands: names of the channels in a FITS file; None as in `open_images`.

    Returns:
        The pictures of the file.
    """
    locations = tuple(_find_pictures(path.parent, (path.name,)))
    bands = bands or find_first_band_names(path.parent, (path.name,), channels)
    return FolderImages(
        path=path.parent,
        locations=locations,
        labels=None,
        boxes={},
        channels=channels,
        bands=bands,
        file=path.name,
    )


def open_folder(
    path: Path,
    channels: int,
    bands: tuple[str, ...] | None = None,
    *,
    by_folder: bool = True,
) -> FolderImages:
    """Open a folder: by its labels.csv, by one sub-folder per class, or without labels.

    A labels.csv that gives several classes per image is not read, which a warning says.
    A class takes the pictures of its folder at any depth. Files without pixels among DICOM images
    (reports, a DICOMDIR), pipes, devices and links to themselves are left out, which a
    warning says.

    boxes.csv and masks/ are in pixels of the stored pictures, before any EXIF rotation. If
    boxes.csv repeats the label column, only the boxes of an image's label are used; otherwise all.
    Every frame of a DICOM file and every page of a TIFF file is a picture.

    Args:
        path: the folder.
        channels: channels of every picture.
        bands: names of the channels in FITS files; None as in `open_images`.
        by_folder: whether folders are classes; without labels otherwise.

    Returns:
        The pictures of the folder.

    Raises:
        ImagesError: the folder is empty or has an unclear layout, a table does not fit, or the
            folder mixes DICOM series of several sizes.
    """
    column, labels = None, None
    listed_in = path / "labels.csv"
    if by_folder and listed_in.is_file() and holds_several(listed_in):
        warn(
            f"{listed_in}: gives several classes per image, which `train classifier`, `similar` "
            "and `serve` read; here the images have no labels"
        )
        by_folder = False
    if by_folder and listed_in.is_file():
        column, table = read_labels(listed_in)
        files, labels = tuple(table), tuple(table.values())
        _check_present(listed_in, files)
        locations = tuple(_find_pictures(path, files))
    else:
        listed = list_pictures(path, _is_picture).files
        locations = tuple(_find_pictures(path, listed, skip=True))
        files = tuple(dict.fromkeys(location.file for location in locations))
        labels = label_by_folder(path, list(files)) if by_folder else None
    if not files:
        raise ImagesError(f"{path}: no images, {_suggest_instead(path)}")
    boxes: dict[str, tuple[BoxRow, ...]] = {}
    if (path / "boxes.csv").is_file():
        boxes = read_boxes(path / "boxes.csv", column)
        _check_present(path / "boxes.csv", boxes.keys() - set(files))
    if labels is not None:
        label_of_file = dict(zip(files, labels, strict=True))
        labels = tuple(label_of_file[location.file] for location in locations)
    bands = bands or find_first_band_names(path, files, channels)
    return FolderImages(path, locations, labels, boxes, channels, bands)


def _find_pictures(
    path: Path, files: Iterable[str], *, skip: bool = False
) -> Iterator[PictureLocation]:
    """Yield the location of every picture of the files; headings tell how many frames.

    Files that hold no picture are left out if `skip`.
    """
    series: dict[str, set[tuple[int, int]]] = {}
    counts: Counter[str] = Counter()
    empty: list[str] = []
    for file in files:
        if has_suffix(file, _TIFF_SUFFIXES):
            pages = _count_pages(path / file)
            yield from (PictureLocation(file, page, pages) for page in range(pages))
            continue
        try:
            heading = _read_heading(path / file)
        except NoPixelsError:
            if skip:
                empty.append(f"{file} (no pixels)")
                continue
            heading = None
        if heading is None:
            yield PictureLocation(file)
            continue
        series.setdefault(heading.series, set()).add(heading.size)
        counts[heading.series] += 1
        yield from (PictureLocation(file, frame, heading.frames) for frame in range(heading.frames))
    if empty:
        warn_left_out(path, empty)
    sizes = set().union(*series.values())
    if len(series) > 1 and len(sizes) > 1 and max(counts.values()) > 1:
        raise ImagesError(
            f"{path}: holds slices of {len(series)} DICOM series in {len(sizes)} sizes; "
            "give each series a folder of its own"
        )


def _count_pages(path: Path) -> int:
    """Return the number of pages of a TIFF file; 1 if it is damaged; reading it raises an error."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
            return len(read_pages(stream, str(path))) if is_tiff(start) else 1
    except (ImageError, OSError):
        return 1


def _read_heading(path: Path) -> DicomHeading | None:
    """Read the heading of a DICOM file; None for other files and for damaged ones."""
    if path.suffix.lower() not in DICOM_SUFFIXES and not _is_dicom_without_suffix(path):
        return None
    try:
        with path.open("rb") as stream:
            return read_dicom_heading(stream, str(path))
    except NoPixelsError:
        raise
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


def _is_picture(path: Path) -> bool:
    """Return whether a plain file is a picture, by its suffix or as DICOM by its first bytes."""
    return has_suffix(path.name, SUFFIXES) or _is_dicom_without_suffix(path)


def _suggest_instead(path: Path) -> str:
    """Return the end of the error message for a folder without images."""
    tables = sorted([*path.rglob("*.parquet"), *path.rglob("*.npz")])
    if tables:
        return f"but Parquet files or stacks; open one of them, such as {tables[0]}"
    return f"expected files that end in {' '.join(sorted(SUFFIXES))}"


def _check_present(table: Path, files: Iterable[str]) -> None:
    """Raise ImagesError if a table names files that do not exist, or are outside of its folder."""
    files, folder = list(files), table.parent
    inside = cache(lambda parent: is_inside(parent, folder))
    missing = []
    for file in files:
        path = folder / file
        try:
            stays = inside(path.parent) and (not path.is_symlink() or is_inside(path, folder))
            is_there = path.is_file()
        except OSError:  # a name that is too long
            stays, is_there = True, False
        if not stays:
            raise ImagesError(
                f"{table}: {file[:MAX_NAME]} leads out of its folder; copy the pictures there, or "
                "put the table beside them"
            )
        if not is_there:
            missing.append(file)
    if missing:
        raise ImagesError(
            f"{table}: names files that do not exist, {len(missing)} in all, first "
            f"{min(missing)[:MAX_NAME]}"
        )
