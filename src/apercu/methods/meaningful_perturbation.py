"""Meaningful perturbation: a mask fitted to one image (Fong & Vedaldi 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, final, get_args

import torch
import torch.nn.functional as F
from torch import Generator

from apercu.classifiers import Classifier
from apercu.errors import ConfigError, nearest
from apercu.explainers.mask.network import combine_fields, enlarge
from apercu.explainers.mask.objectives import ExtentAndCore, MaskBatch
from apercu.explainers.mask.objectives.base import log_probability, roughness
from apercu.explainers.mask.objectives.dial import SEARCHED_FRACTION
from apercu.methods.base import Kind, Method, Need, need_gradients
from apercu.networks.decoder import Evidence
from apercu.removal import Blur
from apercu.types import Images, LogOdds, Maps, Scores, Targets

Aim: TypeAlias = Literal["destroying", "sufficient", "full"]
Loss: TypeAlias = Callable[..., Scores]
"""Fields of log-odds → one number per image."""

AREA, SMOOTHNESS = 1e-3, 1e-2
"""Weights of the sums over all cells, as the paper sets them for localisation."""
SOFTNESS, JITTER = Blur(5 / 224), 4 / 224
"""Blur of the enlarged mask, and largest shift of what the classifier sees, as shares."""


@final
@dataclass(frozen=True)
class MeaningfulPerturbation(Method):
    """A coarse mask, fitted with Adam by asking the classifier with gradients at every step.

    Args:
        aim: `destroying`, the smallest region whose blur takes the class away; `sufficient`, the
            smallest one that keeps it when all else is blurred; `full`, the objective that the
            mask explainer learns, so that its single pass can be held against the fit.
        steps: of Adam.
        cells: of the mask, along each side.
        rate: of learning, on log-odds, which start at 0.
        seed: of the shifts, and of what `full` draws.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """

    needs: ClassVar[tuple[Need, ...]] = ("gradients",)
    kind: ClassVar[Kind] = "mask"
    aim: Aim = "destroying"
    steps: int = 300
    cells: int = 28
    rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.aim not in get_args(Aim):
            raise ConfigError(
                f"meaningful_perturbation: expected aim {', '.join(get_args(Aim))}, "
                f"got {self.aim!r}{nearest(self.aim, get_args(Aim))}"
            )
        if self.steps < 1 or self.cells < 1 or not self.rate > 0:
            raise ConfigError(
                "meaningful_perturbation: expected steps and cells of at least 1 and rate above 0, "
                f"got steps {self.steps}, cells {self.cells}, rate {self.rate}"
            )

    def __call__(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        need_gradients(classifier, "meaningful_perturbation")
        images = images.detach()
        if self.aim != "full":
            (fields,) = self._fitted(self._region(classifier, images, targets), images, count=1)
            return soft(fields, images)
        alone = zip(
            torch.split(images, 1), torch.split(targets, 1), strict=True
        )  # what one draws, none shares
        masks = [self._dialled(self._learnt(classifier, *one), one[0]) for one in alone]
        return torch.cat(masks)

    def _fitted(self, loss: Loss, images: Images, count: int) -> list[LogOdds]:
        """So many fields of log-odds after all steps; images do not touch one another."""
        shape = (count, len(images), self.cells, self.cells)
        fields = images.new_zeros(shape, requires_grad=True)
        adam = torch.optim.Adam([fields], lr=self.rate)
        for _ in range(self.steps):
            with torch.enable_grad():
                (fields.grad,) = torch.autograd.grad(loss(*fields).sum(), fields)
            adam.step()
        return list(fields.detach())

    def _region(self, classifier: Classifier, images: Images, targets: Targets) -> Loss:
        """The loss of the smallest region that destroys, or keeps, the class."""
        generator = Generator().manual_seed(self.seed)
        blurred, destroys = Blur().replacement(images), self.aim == "destroying"

        def loss(*fields: LogOdds) -> Scores:
            cells, masks = fields[0].sigmoid(), soft(fields[0], images)
            keep = (1 - masks if destroys else masks)[:, None]
            seen = shifted(images * keep + blurred * (1 - keep), generator)
            probability = log_probability(classifier(seen), targets).exp()
            size = AREA * cells.sum(dim=(1, 2)) + SMOOTHNESS * roughness(cells)
            return size + (probability if destroys else -probability)

        return loss

    def _learnt(self, classifier: Classifier, image: Images, target: Targets) -> Loss:
        """The loss that a mask explainer is trained with; one image alone is always searched."""
        generator = Generator().manual_seed(self.seed)
        objective = ExtentAndCore(sufficient=SEARCHED_FRACTION * ExtentAndCore().sufficient)
        question = MaskBatch(image, target, torch.ones_like(target, dtype=torch.bool), target)

        def loss(*fields: LogOdds) -> Scores:
            terms = objective.terms(classifier, question, Evidence(*fields), generator)
            return torch.stack(list(terms.values())).sum(dim=0)

        return loss

    def _dialled(self, loss: Loss, image: Images) -> Maps:
        """Extent and core, fitted and joined to one mask as the mask explainer joins them."""
        extent, core = self._fitted(loss, image, count=2)
        return enlarge(combine_fields(extent.sigmoid(), core.sigmoid()), image.shape[2:]).sigmoid()


def soft(log_odds: LogOdds, images: Images) -> Maps:
    """The mask at the size of the images, enlarged and blurred."""
    masks = enlarge(log_odds.sigmoid(), images.shape[2:])
    return SOFTNESS.replacement(masks[:, None])[:, 0]


def shifted(images: Images, generator: Generator) -> Images:
    """All images moved by the same few pixels, the border repeated."""
    most = max(1, round(JITTER * min(images.shape[2:])))
    top, left = torch.randint(2 * most + 1, (2,), generator=generator).tolist()
    framed = F.pad(images, (most, most, most, most), mode="replicate")
    return framed[:, :, top : top + images.shape[2], left : left + images.shape[3]]
