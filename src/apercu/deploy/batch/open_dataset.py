"""Images as they are typed → a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from apercu.classifiers import InputSpec
from apercu.deploy.batch.dataset import Dataset, RandomSubset, SourceDataset, UrlDataset
from apercu.deploy.batch.parquet_dataset import ParquetDataset
from apercu.deploy.batch.remote_files import RemoteFiles, is_url, list_files
from apercu.deploy.batch.settings import BatchSettings
from apercu.errors import ImagesError
from apercu.images import open_images
from apercu.images.names import has_suffix
from apercu.images.reader import SUFFIXES

TABLE_SUFFIXES = (".parquet",)


def open_dataset(spec: str, input: InputSpec, settings: BatchSettings) -> Dataset:
    """Opens images by what is typed, and draws some of them where only some are asked for.

    A folder or a URL that holds Parquet files is one data set of all their rows.

    Raises:
        ImagesError: there is nothing of that name, or nothing that can be explained, or there are
            pictures beside Parquet files and no labels.csv tells which files are meant.
        UnreachableError: the storage does not answer.
    """
    images = _open_all(spec, input)
    return images if settings.limit is None else RandomSubset(images, settings.limit, settings.seed)


def _open_all(spec: str, input: InputSpec) -> Dataset:
    if is_url(spec):
        return _open_remote(list_files(spec), input)
    path = Path(spec)
    if path.is_dir() and any(path.glob("*.parquet")) and not (path / "labels.csv").is_file():
        return _open_remote(list_files(spec), input)
    if path.is_file() and has_suffix(spec, TABLE_SUFFIXES):
        return ParquetDataset(list_files(spec), input.channels)
    return SourceDataset(open_images(spec, channels=input.channels, bands=input.bands))


def _open_remote(files: RemoteFiles, input: InputSpec) -> Dataset:
    """Pictures, or the rows of tables."""
    pictures, tables = _select_suffixes(files, SUFFIXES), _select_suffixes(files, TABLE_SUFFIXES)
    if pictures and tables:
        raise ImagesError(
            f"{files.url}: expected either pictures or Parquet files, got both (such as "
            f"{pictures.paths[0]} and {tables.paths[0]}); give each a folder of its own"
        )
    if pictures:
        return UrlDataset(pictures, input)
    if tables:
        return ParquetDataset(tables, input.channels)
    raise ImagesError(
        f"{files.url}: no images, expected files that end in {' '.join(sorted(SUFFIXES))} "
        "or .parquet"
    )


def _select_suffixes(
    files: RemoteFiles, suffixes: frozenset[str] | tuple[str, ...]
) -> RemoteFiles | None:
    """The files with such a suffix; None where there are none."""
    listed = zip(files.paths, files.sizes, strict=True)
    chosen = [(file, size) for file, size in listed if has_suffix(file, suffixes)]
    if not chosen:
        return None
    return replace(files, files=tuple(f for f, _ in chosen), sizes=tuple(s for _, s in chosen))
