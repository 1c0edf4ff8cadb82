"""Meaningful perturbation: a mask fitted to one image (Fong & Vedaldi 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, final, get_args

import torch
import torch.nn.functional as F
from torch import Generator

from apercu.classifiers import Classifier
from apercu.errors import ConfigError, suggest_nearest
from apercu.explainers.mask.network import combine_fields, enlarge
from apercu.explainers.mask.objectives import ExtentAndCore, MaskBatch
from apercu.explainers.mask.objectives.base import roughness
from apercu.explainers.mask.objectives.extent_and_core import SEARCHED_FRACTION
from apercu.methods.base import MapScale, Method, Requirement, require_gradients
from apercu.networks.decoder import Evidence
from apercu.removal import Blur
from apercu.types import Images, LogOdds, Maps, Scores, Targets

PerturbationAim: TypeAlias = Literal["destroying", "sufficient", "full"]
FieldLoss: TypeAlias = Callable[..., Scores]
"""A function of fields of log-odds to one number per image."""

AREA_WEIGHT, SMOOTHNESS_WEIGHT = 1e-3, 1e-2
"""The weights of the sums over all cells, as in the paper's localisation experiment."""
MASK_BLUR, MAX_SHIFT = Blur(5 / 224), 4 / 224
"""The blur of the enlarged mask, and the largest shift of an image, as fractions of its side."""


@final
@dataclass(frozen=True)
class MeaningfulPerturbation(Method):
    """A coarse mask that is fitted to each image with Adam and the classifier's gradients.

    Attributes:
        aim: `destroying` finds the smallest region whose blur removes the class; `sufficient` finds
            the smallest region that keeps the class when all else is blurred; `full` fits the
            objective of the mask explainer, so that its single pass can be compared with a fit.
        steps: the number of steps of Adam.
        cells: the number of cells along each side of the mask.
        rate: the learning rate of the log-odds, which start at 0.
        seed: the seed of the shifts, and of the random numbers of `full`.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients",)
    slow: ClassVar[bool] = True
    map_scale: ClassVar[MapScale] = "mask"
    aim: PerturbationAim = "destroying"
    steps: int = 300
    cells: int = 28
    rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.aim not in get_args(PerturbationAim):
            raise ConfigError(
                f"meaningful_perturbation: expected aim {', '.join(get_args(PerturbationAim))}, "
                f"got {self.aim!r}{suggest_nearest(self.aim, get_args(PerturbationAim))}"
            )
        if self.steps < 1 or self.cells < 1 or not self.rate > 0:
            raise ConfigError(
                "meaningful_perturbation: expected steps and cells of at least 1 and rate above 0, "
                f"got steps {self.steps}, cells {self.cells}, rate {self.rate}"
            )

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "meaningful_perturbation")
        images = images.detach()
        if self.aim != "full":
            (fields,) = self._fit(
                self._build_region_loss(classifier, images, targets), images, count=1
            )
            return upsample_mask(fields, images)
        # one by one, so that the random numbers of an image do not depend on its batch
        singles = zip(torch.split(images, 1), torch.split(targets, 1), strict=True)
        masks = [
            self._fit_extent_and_core(self._build_explainer_loss(classifier, image, target), image)
            for image, target in singles
        ]
        return torch.cat(masks)

    def _fit(self, loss: FieldLoss, images: Images, count: int) -> list[LogOdds]:
        """Return `count` fields of log-odds after all steps; images do not influence each other."""
        shape = (count, len(images), self.cells, self.cells)
        fields = images.new_zeros(shape, requires_grad=True)
        adam = torch.optim.Adam([fields], lr=self.rate)
        for _ in range(self.steps):
            with torch.enable_grad():
                (fields.grad,) = torch.autograd.grad(loss(*fields).sum(), fields)
            adam.step()
        return list(fields.detach())

    def _build_region_loss(
        self, classifier: Classifier, images: Images, targets: Targets
    ) -> FieldLoss:
        """Return the loss of the smallest region that destroys, or keeps, the class."""
        generator = Generator().manual_seed(self.seed)
        blurred, destroys = Blur().make_replacement(images), self.aim == "destroying"

        def loss(*fields: LogOdds) -> Scores:
            cells, masks = fields[0].sigmoid(), upsample_mask(fields[0], images)
            keep = (1 - masks if destroys else masks)[:, None]
            masked = shift_randomly(images * keep + blurred * (1 - keep), generator)
            probability = classifier.decision.log_probability(classifier(masked), targets).exp()
            penalty = AREA_WEIGHT * cells.sum(dim=(1, 2)) + SMOOTHNESS_WEIGHT * roughness(cells)
            return penalty + (probability if destroys else -probability)

        return loss

    def _build_explainer_loss(
        self, classifier: Classifier, image: Images, target: Targets
    ) -> FieldLoss:
        """Return the loss of the mask explainer's training for one image.

        A training step tries crops for a fraction of its images. A single image is always tried, so
        that term is scaled by the fraction.
        """
        generator = Generator().manual_seed(self.seed)
        objective = ExtentAndCore(sufficient=SEARCHED_FRACTION * ExtentAndCore().sufficient)
        batch = MaskBatch(image, target, torch.ones_like(target, dtype=torch.bool), target)

        def loss(*fields: LogOdds) -> Scores:
            terms = objective.compute_terms(classifier, batch, Evidence(*fields), generator)
            return torch.stack(list(terms.values())).sum(dim=0)

        return loss

    def _fit_extent_and_core(self, loss: FieldLoss, image: Images) -> Maps:
        """Fit extent and core, and return them as one mask, as the mask explainer does."""
        extent, core = self._fit(loss, image, count=2)
        return enlarge(combine_fields(extent.sigmoid(), core.sigmoid()), image.shape[2:]).sigmoid()


def upsample_mask(log_odds: LogOdds, images: Images) -> Maps:
    """Return the mask at the size of the images, enlarged and blurred."""
    masks = enlarge(log_odds.sigmoid(), images.shape[2:])
    return MASK_BLUR.make_replacement(masks[:, None])[:, 0]


def shift_randomly(images: Images, generator: Generator) -> Images:
    """Return all images shifted by the same few pixels; the border is repeated."""
    limit = max(1, round(MAX_SHIFT * min(images.shape[2:])))
    top, left = torch.randint(2 * limit + 1, (2,), generator=generator).tolist()
    padded = F.pad(images, (limit, limit, limit, limit), mode="replicate")
    return padded[:, :, top : top + images.shape[2], left : left + images.shape[3]]
