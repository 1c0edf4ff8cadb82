"""Open a data set by the name of a folder, a file or a URL."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from apercu.classifiers import InputSpec
from apercu.deploy.batch.dataset import Dataset, RandomSubset, SourceDataset, UrlDataset
from apercu.deploy.batch.parquet_dataset import ParquetDataset
from apercu.deploy.batch.remote_files import RemoteFiles, is_url, list_files
from apercu.deploy.batch.settings import BatchSettings
from apercu.errors import ConfigError, ImagesError
from apercu.images import open_images
from apercu.images.names import has_suffix
from apercu.images.reader import SUFFIXES

TABLE_SUFFIXES = (".parquet",)


def open_dataset(spec: str, input: InputSpec, settings: BatchSettings) -> Dataset:
    """Open images by their name, and draw some of them at random where the settings have a limit.

    A folder or a URL that holds Parquet files is one data set of all their rows.

    Args:
        spec: a folder, a file, or a URL.
        input: the number of channels and the names of the bands.
        settings: the limit and the seed of the draw.

    Returns:
        The data set.

    Raises:
        ImagesError: the name leads to nothing, or to nothing that can be explained, or there are
            pictures beside Parquet files and no labels.csv says which files are meant.
        ConfigError: a column that shall be kept is not there.
        UnreachableError: the storage does not answer.
    """
    images = _open_all(spec, input, settings.keep)
    if settings.keep and not isinstance(images, ParquetDataset):
        raise ConfigError(f"keep: {spec} has no columns; only Parquet files have")
    return images if settings.limit is None else RandomSubset(images, settings.limit, settings.seed)


def _open_all(spec: str, input: InputSpec, keep: tuple[str, ...]) -> Dataset:
    if is_url(spec):
        return _open_remote(list_files(spec), input, keep)
    path = Path(spec)
    if path.is_dir() and _has_tables(path) and not (path / "labels.csv").is_file():
        return _open_remote(list_files(spec), input, keep)
    if path.is_file() and has_suffix(spec, TABLE_SUFFIXES):
        return ParquetDataset(list_files(spec), input.channels, keep)
    return SourceDataset(open_images(spec, channels=input.channels, bands=input.bands))


def _has_tables(path: Path) -> bool:
    """Return whether a folder holds Parquet files, or only folders below it do."""
    if any(path.glob("*.parquet")):
        return True
    files = (file for file in path.rglob("*") if not file.name.startswith("."))
    names = [file.name for file in files if has_suffix(file.name, (*SUFFIXES, *TABLE_SUFFIXES))]
    return bool(names) and all(has_suffix(name, TABLE_SUFFIXES) for name in names)


def _open_remote(files: RemoteFiles, input: InputSpec, keep: tuple[str, ...]) -> Dataset:
    """Return a data set of pictures, or of the rows of tables."""
    pictures, tables = _select_suffixes(files, SUFFIXES), _select_suffixes(files, TABLE_SUFFIXES)
    if pictures and tables:
        raise ImagesError(
            f"{files.url}: expected either pictures or Parquet files, got both (such as "
            f"{pictures.paths[0]} and {tables.paths[0]}); give each a folder of its own"
        )
    if pictures:
        return UrlDataset(pictures, input)
    if tables:
        return ParquetDataset(tables, input.channels, keep)
    raise ImagesError(
        f"{files.url}: no images, expected files that end in {' '.join(sorted(SUFFIXES))} "
        "or .parquet"
    )


def _select_suffixes(
    files: RemoteFiles, suffixes: frozenset[str] | tuple[str, ...]
) -> RemoteFiles | None:
    """Return the files with one of the suffixes; None if there are none."""
    chosen = [index for index, path in enumerate(files.paths) if has_suffix(path, suffixes)]
    if not chosen:
        return None
    return replace(
        files,
        paths=tuple(files.paths[index] for index in chosen),
        sizes=tuple(files.sizes[index] for index in chosen),
    )
