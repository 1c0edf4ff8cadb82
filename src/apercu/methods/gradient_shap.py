"""GradientSHAP, or expected gradients (Lundberg & Lee 2017; Erion et al. 2021)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError, ImageError, suggest_nearest
from apercu.images import open_images
from apercu.images.stream import describe_left_out
from apercu.log import warn
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.smooth_grad import compute_input_gradients
from apercu.removal import Black, Blur, Colour, Flat, Removal
from apercu.types import Images, Maps, Picture, Targets

REMOVALS: Final[Mapping[str, Removal]] = {
    "colour": Colour(noise=0.0),
    "black": Black(),
    "grey": Flat((0.5,)),
    "blur": Blur(),
}
NOISE = "noise"
BASELINES: Final = (*REMOVALS, NOISE)
"""Baselines by name; any other text names images of one's own."""


@final
@dataclass(frozen=True)
class GradientShap(Method):
    """Mean of (pixel − baseline) × derivative at a random point between, summed over the channels.

    In expectation the values of a map sum up to the logit of the image minus the mean logit of the
    baselines. A single baseline is blind to pixels that look like it: a black one to all that is
    dark. So by default each draw has one random colour, which hides the whole object and which no
    pixel resembles on average.

    The points of the draws are spread evenly over the path, and random within their part of it.
    All images have the same draws.

    Attributes:
        samples: the number of draws of a baseline and a point.
        baselines: `colour`, one random colour per draw; `black`; `grey`; `blur`, the image itself
            without detail; `noise`, a random value per pixel; or images of one's own, as
            `open_images` takes them: a folder, a file, `planted`.
        seed: the seed of all draws.
        batch: the number of points that the classifier receives at once.

    Raises:
        ConfigError: samples or batch is below 1, or there are no such baselines.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients",)
    samples: int = 25
    baselines: str = "colour"
    seed: int = 0
    batch: int = 32

    def __post_init__(self) -> None:
        if min(self.samples, self.batch) < 1:
            raise ConfigError(
                "gradient_shap: expected samples and batch of at least 1, "
                f"got {self.samples} and {self.batch}"
            )
        if self.baselines not in BASELINES and not self._names_images():
            raise ConfigError(
                f"gradient_shap: expected baselines {', '.join(BASELINES)}, or a folder of images, "
                f"got {self.baselines!r}{suggest_nearest(self.baselines, BASELINES)}"
            )

    @property
    def cache_key(self) -> str:
        """A text that is equal only for explainers that give the same maps.

        With images of one's own it holds a digest of their names, sizes and times of change.
        """
        path = Path(self.baselines.removesuffix("/**"))
        if self.baselines in BASELINES or not path.exists():
            return repr(self)
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            state = file.stat()
            digest.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
        return f"{self!r} of {digest.hexdigest()}"

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "gradient_shap")
        pictures = None
        if self.baselines not in BASELINES:
            read = self._read_pictures(classifier.channels, classifier.bands)
            pictures = torch.stack([classifier.prepare(picture) for picture in read])
        parts = (torch.split(whole, self.batch) for whole in (images.detach(), targets))
        return torch.cat(
            [
                self._explain_batch(classifier, batch_images, batch_targets, pictures)
                for batch_images, batch_targets in zip(*parts, strict=True)
            ]
        ).sum(dim=1)

    def _explain_batch(
        self, classifier: Classifier, images: Images, targets: Targets, pictures: Tensor | None
    ) -> Images:
        """Return the mean of difference × gradient over all draws, per pixel and channel."""
        total = torch.zeros_like(images)
        draws = list(self._draw(images, pictures))
        at_once = max(1, self.batch // len(images))
        for first in range(0, self.samples, at_once):
            fractions, baselines = zip(*draws[first : first + at_once], strict=True)
            differences = torch.stack([images - baseline for baseline in baselines])
            points = torch.stack(baselines).expand_as(differences)
            points = points + torch.stack(fractions).view(-1, 1, 1, 1, 1).to(images) * differences
            gradients = compute_input_gradients(
                classifier, points.flatten(0, 1), targets.repeat(len(fractions))
            )
            total += (differences * gradients.view_as(differences)).sum(dim=0)
        return total / self.samples

    def _draw(self, images: Images, pictures: Tensor | None) -> Iterator[tuple[Tensor, Images]]:
        """Yield a point of the path, as a fraction of it, and baselines for each draw.

        They are drawn on the CPU, so that they are the same on every device and in every batch.
        """
        generator = torch.Generator().manual_seed(self.seed)
        removal = REMOVALS.get(self.baselines)
        fixed = None
        if removal is not None and not isinstance(removal, Colour):
            fixed = removal.make_replacement(images)
        for number in range(self.samples):
            fraction = (number + torch.rand((), generator=generator)) / self.samples
            if fixed is not None:
                baseline = fixed
            elif removal is not None:
                baseline = removal.make_replacement(images[:1], generator)
            elif pictures is not None:
                baseline = pictures[number % len(pictures)][None].to(images)
            else:
                baseline = torch.rand(images[:1].shape, generator=generator).to(images)
            yield fraction, baseline.expand_as(images)

    def _names_images(self) -> bool:
        """Whether the baselines are images that exist."""
        name, exists = self.baselines, Path(self.baselines).exists()
        return exists or name.partition(":")[0] == "planted" or name.endswith("/**")

    def _read_pictures(self, channels: int, bands: tuple[str, ...] | None = None) -> list[Picture]:
        """Return the random images that are baselines, at most one for each draw.

        Others are drawn in the place of those that cannot be read.
        """
        source = open_images(self.baselines, channels=channels, bands=bands)
        generator = torch.Generator().manual_seed(self.seed)
        pictures: list[Picture] = []
        errors: list[ImageError] = []
        for index in torch.randperm(len(source), generator=generator).tolist():
            if len(pictures) == self.samples:
                break
            try:
                pictures.append(source.picture(index))
            except ImageError as error:
                errors.append(error)
        if errors and not pictures:
            raise errors[0]
        if errors:
            _warn_once(describe_left_out(source.name, errors, len(errors) + len(pictures)))
        return pictures


@cache
def _warn_once(line: str) -> None:
    """Warn, but not again for every batch."""
    warn(line)
