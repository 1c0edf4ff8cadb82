"""The latent explainer: a path through an autoencoder's codes, from one decision to another."""

from __future__ import annotations

from typing import TypeAlias, final

import torch

from apercu.explainers.counterfactual import CounterfactualExplainer, Counterparts
from apercu.explainers.latent.network import Codes, LatentNetwork
from apercu.explainers.latent.settings import LatentSettings
from apercu.types import Images, Logits, Targets

Encoded: TypeAlias = tuple[Images, Codes]
"""Images and their codes."""


@final
class LatentExplainer(CounterfactualExplainer[LatentNetwork, LatentSettings]):
    """Images between two decisions, after Ojeda-Marin et al. (2020).

    The classifier was only evaluated in training, so it may be any. A path is descended on, which
    costs no forward pass of the classifier, but more time than one.

    Example:
        >>> explainer = LatentExplainer.from_pretrained("runs/path")  # doctest: +SKIP
        >>> strip = explainer.counterparts(images, target="normal").strip  # doctest: +SKIP
    """

    def _read(self, images: Images) -> tuple[Encoded, Logits]:
        codes = self.network.encode(images)[0]
        return (images, codes), self.network.read(codes)

    def _generate(self, encoded: Encoded, logits: Logits, targets: Targets) -> Counterparts:
        with torch.inference_mode(mode=False):
            images, codes, start, asked = (values.clone() for values in (*encoded, logits, targets))
            with torch.no_grad():
                before = self.network.logit_shift(codes)
            path, _ = self.settings.path.find_path(
                codes, lambda passed: start + self.network.logit_shift(passed) - before, asked
            )
            with torch.no_grad():
                moved = [self.network.move(images, codes, passed) for passed in path[1:]]
        return Counterparts(images, moved[-1], logits.argmax(1), targets, tuple(moved[:-1]))
