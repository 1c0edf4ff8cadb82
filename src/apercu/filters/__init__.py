"""Input filters that defend a classifier, and a filter as a layer in front of a classifier."""

from __future__ import annotations

from apercu.errors import ConfigError
from apercu.filters.base import BpdaMode, Filter, FilterLayer
from apercu.filters.bit_depth import BitDepth
from apercu.filters.blue_noise import BlueNoise
from apercu.filters.error_diffusion import (
    Atkinson,
    ErrorDiffusion,
    FloydSteinberg,
    JarvisJudiceNinke,
)
from apercu.filters.gaussian import Gaussian
from apercu.filters.inverse_halftone import InverseHalftone
from apercu.filters.jpeg import Jpeg
from apercu.filters.low_resolution import LowResolution
from apercu.filters.median import Median
from apercu.filters.non_local_means import NonLocalMeans
from apercu.filters.ordered import Bayer
from apercu.filters.quantised_autoencoder import QuantisedAutoencoder
from apercu.filters.stochastic_student import StochasticStudent
from apercu.filters.total_variation import TotalVariation
from apercu.option_strings import parse_named

FILTERS: dict[str, type[Filter]] = {
    "floyd_steinberg": FloydSteinberg,
    "jarvis_judice_ninke": JarvisJudiceNinke,
    "atkinson": Atkinson,
    "bayer": Bayer,
    "blue_noise": BlueNoise,
    "inverse_halftone": InverseHalftone,
    "jpeg": Jpeg,
    "bit_depth": BitDepth,
    "median": Median,
    "gaussian": Gaussian,
    "total_variation": TotalVariation,
    "non_local_means": NonLocalMeans,
    "low_resolution": LowResolution,
    "quantised_autoencoder": QuantisedAutoencoder,
    "stochastic_student": StochasticStudent,
}
"""Filter classes by the names that people type."""

NONE = "none"
"""Name of no filter, and of no attack."""


def parse_filter(text: str, option: str = "filters") -> Filter | None:
    """Parse the name of a filter, such as `jpeg:quality=75`; return None for `none`.

    Args:
        text: name with settings.
        option: name of the option, for error messages.

    Returns:
        The filter.

    Raises:
        ConfigError: there is no such filter or setting.
    """
    if text == NONE:
        return None
    return parse_named(text, FILTERS, option, other_names=(NONE,))


def find_folder(text: str) -> str | None:
    """Return the folder that the name of a filter holds, such as that of a purifier's network.

    >>> find_folder("stochastic_student:folder=purifier,seed=1")
    'purifier'
    """
    settings = text.partition(":")[2].split(",")
    folders = [s.removeprefix("folder=") for s in settings if s.startswith("folder=")]
    return folders[0] if folders else None


def move_folder(text: str, folder: str) -> str:
    """Return the name of a filter with another folder, where it holds one.

    Raises:
        ConfigError: the path of the folder has a comma, which separates settings.

    >>> move_folder("stochastic_student:folder=purifier,seed=1", "runs/purifier")
    'stochastic_student:folder=runs/purifier,seed=1'
    """
    if "," in folder:
        raise ConfigError(
            f"{text.partition(':')[0]}: folder {folder}: expected a path without a comma, which "
            "separates settings; rename the folder"
        )
    name, mark, rest = text.partition(":")
    settings = [
        f"folder={folder}" if setting.startswith("folder=") else setting
        for setting in rest.split(",")
    ]
    return name + mark + ",".join(settings)


__all__ = [
    "FILTERS",
    "NONE",
    "Atkinson",
    "Bayer",
    "BitDepth",
    "BlueNoise",
    "BpdaMode",
    "ErrorDiffusion",
    "Filter",
    "FilterLayer",
    "FloydSteinberg",
    "Gaussian",
    "InverseHalftone",
    "JarvisJudiceNinke",
    "Jpeg",
    "LowResolution",
    "Median",
    "NonLocalMeans",
    "QuantisedAutoencoder",
    "StochasticStudent",
    "TotalVariation",
    "find_folder",
    "move_folder",
    "parse_filter",
]
