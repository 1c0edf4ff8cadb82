"""The explainer as a detector: a small region of evidence that carries its class along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Generator

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.filters.checks import check_between, check_count, check_whole
from apercu.methods import MapExplainer, TrueBox
from apercu.methods.registry import parse_methods
from apercu.option_strings import MAX_SEED
from apercu.robustness.backdoors.base import ScoreFn, fill_regions
from apercu.types import Images, Maps, Regions, Scores


@final
@dataclass(frozen=True)
class CarriedEvidence:
    """Pastes the strongest evidence of an image on clean ones, and counts how many follow it.

    Our own detector. Its idea: the evidence of an object is spread over it and does little
    elsewhere; a trigger is a small region that makes any image its class. The map is that of the
    predicted class; the region is the square that holds most of it.

    Args:
        method: method that draws the map, such as `occlusion`; empty for a trained explainer.
        side: side of the square, as a fraction of the shorter side of the image.
        images: number of clean images on which it is pasted.
        seed: seed that chooses them.
    """

    method: str = ""
    side: float = 0.2
    images: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_between("evidence", 0.01, 0.9, side=self.side)
        check_count(self.images, "evidence: images")
        check_whole("evidence", 0, MAX_SEED, seed=self.seed)
        if self.method:
            self.choose_explainer(None)

    def choose_explainer(self, trained: MapExplainer | None) -> MapExplainer:
        """Return what draws the maps: the method, or else the trained explainer.

        Raises:
            ConfigError: there is neither.
        """
        if self.method:
            method, *others = parse_methods(self.method).values()
            if others or isinstance(method, TrueBox):
                raise ConfigError(
                    f"evidence: method: expected one method that looks at the classifier, "
                    f"got {self.method}"
                )
            return method
        if trained is None:
            raise ConfigError(
                "evidence: needs the maps of a trained explainer (--explainer RUN) or of a method "
                "(evidence:method=NAME, such as occlusion or rise)"
            )
        return trained

    def fit(self, classifier: Classifier, clean: Images, explainer: MapExplainer) -> ScoreFn:
        """Choose the images on which regions are pasted.

        Args:
            classifier: classifier that is queried.
            clean: clean images, `batch × channels × height × width`.
            explainer: what draws the maps.

        Returns:
            The function that scores images: the fraction of clean images of other classes that
            become the image's class with its region, from 0 to 1.
        """
        order = torch.randperm(len(clean), generator=Generator().manual_seed(self.seed))
        others = clean[order[: self.images].to(clean.device)]
        with torch.no_grad():
            present = classifier(others).argmax(1)

        def score(images: Images) -> Scores:
            with torch.no_grad():
                predicted = classifier(images).argmax(1)
            maps = explainer(classifier, images, predicted).detach()
            regions = self.find_regions(maps.to(images))
            rows = [
                self._measure_carried(classifier, image, region, target, others, present)
                for image, region, target in zip(images, regions, predicted, strict=True)
            ]
            return torch.stack(rows)

        return score

    def find_regions(self, maps: Maps) -> Regions:
        """Return the square of each map that holds most of it, `batch × height × width`."""
        side = max(1, round(self.side * min(maps.shape[1:])))
        sums = torch.nn.functional.avg_pool2d(maps[:, None], side, stride=1)[:, 0]
        best, width = sums.flatten(1).argmax(1), sums.shape[2]
        rows = torch.arange(maps.shape[1], device=maps.device)
        columns = torch.arange(maps.shape[2], device=maps.device)
        top, left = (best // width)[:, None], (best % width)[:, None]
        in_rows = (rows >= top) & (rows < top + side)
        in_columns = (columns >= left) & (columns < left + side)
        return in_rows[:, :, None] & in_columns[:, None, :]

    @torch.no_grad()
    def _measure_carried(
        self,
        classifier: Classifier,
        image: torch.Tensor,
        region: torch.Tensor,
        target: torch.Tensor,
        others: Images,
        present: torch.Tensor,
    ) -> torch.Tensor:
        """Return the fraction of images of other classes that become the target with a region."""
        others = others[present != target]
        if not len(others):
            return torch.zeros((), device=image.device)
        pasted = fill_regions(others, region.expand(len(others), -1, -1), image[None])
        return (classifier(pasted).argmax(1) == target).float().mean()
