"""STRIP: a prediction that stays the same under other images laid over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from apercu.classifiers import Classifier
from apercu.filters.checks import check_count, check_fraction, check_whole
from apercu.option_strings import MAX_SEED
from apercu.robustness.backdoors.base import ScoreFn
from apercu.types import Images, Picture, Scores


@final
@dataclass(frozen=True)
class Strip:
    """Scores how sure the classifier stays when other images are laid over an image.

    After Gao et al. (2019, STRIP). The claim: a trigger carries its class through any blend, so
    that the entropy of the predictions is low, and that of a clean image is high. As in the
    paper, the entropy is averaged over many blends. Our choice: the other image is added with
    `weight`, the image itself keeps its full weight, and the sum is cut at 1.

    Args:
        blends: number of clean images that are laid over each image.
        weight: weight of the other image, from 0 to 1.
        seed: seed that chooses them.
    """

    blends: int = 32
    weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self.blends, "strip: blends")
        check_fraction(self.weight, "strip: weight")
        check_whole("strip", 0, MAX_SEED, seed=self.seed)

    def fit(self, classifier: Classifier, clean: Images) -> ScoreFn:
        """Choose the images that are laid over others.

        Args:
            classifier: classifier that is queried.
            clean: clean images, `batch × channels × height × width`.

        Returns:
            The function that scores images: the negative mean entropy in nats, so that a higher
            score is more like a trigger.
        """
        order = torch.randperm(len(clean), generator=Generator().manual_seed(self.seed))
        others = clean[order[: self.blends].to(clean.device)]

        @torch.no_grad()
        def score(images: Images) -> Scores:
            return torch.stack([self._score_one(classifier, image, others) for image in images])

        return score

    def _score_one(
        self, classifier: Classifier, image: Picture, others: Images
    ) -> Float[Tensor, ""]:
        blended = (image + self.weight * others).clamp(0, 1)
        probabilities = classifier.predict_probabilities(blended)
        return torch.special.entr(probabilities).sum(1).mean().neg()
