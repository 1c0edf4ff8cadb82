"""The latent explainer: a path through an autoencoder's codes, from one decision to another."""

from __future__ import annotations

from typing import ClassVar, final

import torch

from apercu.explainers.counterfactual import CounterfactualExplainer, Counterparts, EncodedImages
from apercu.explainers.latent.network import Codes, LatentNetwork
from apercu.explainers.latent.settings import LatentSettings
from apercu.types import Images, Logits, Targets


@final
class LatentExplainer(CounterfactualExplainer[LatentNetwork, LatentSettings, Codes]):
    """Images between two decisions, after Ojeda-Marin et al. (2020).

    The training needs the classifier's logits only, so the classifier may be any. A path is found
    by gradient descent, which needs no forward pass of the classifier, but more time than one.

    Example:
        >>> explainer = LatentExplainer.from_pretrained("runs/path")  # doctest: +SKIP
        >>> strip = explainer.counterparts(images, target="normal").strip  # doctest: +SKIP
    """

    kind: ClassVar[str] = "latent"

    def _encode(self, images: Images) -> EncodedImages[Codes]:
        codes = self.network.encode(images)[0]
        return EncodedImages(images, codes, self.network.predict_logits(codes))

    def _generate(
        self, encoded: EncodedImages[Codes], logits: Logits, targets: Targets
    ) -> Counterparts:
        with torch.inference_mode(mode=False):
            images, codes, start, targets_here = (
                values.clone() for values in (encoded.images, encoded.codes, logits, targets)
            )
            with torch.no_grad():
                before = self.network.logit_shift(codes)
            path, _ = self.settings.path.find_path(
                codes, lambda moved: start + self.network.logit_shift(moved) - before, targets_here
            )
            with torch.no_grad():
                steps = [self.network.move(images, codes, point) for point in path[1:]]
        return Counterparts(images, steps[-1], logits.argmax(1), targets, tuple(steps[:-1]))
