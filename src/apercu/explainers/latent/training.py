"""The training of the latent explainer: the loss of each step, as Lightning runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from apercu import render
from apercu.classifiers import Classifier
from apercu.explainers.counterfactual import runner_up
from apercu.explainers.latent.network import Codes, LatentNetwork
from apercu.explainers.latent.settings import LatentSettings
from apercu.training.augment import RandomViews
from apercu.training.module import DegenerateSolution, TrainingModule
from apercu.types import Images, Logits, Scores, Targets

MAX_WALK_STEPS, WALK_STEP = 12, 0.6
"""Largest number of steps that a walk takes towards another decision, and their length."""
MIXED_EVERY = 4
"""One image in so many is mixed with another one instead."""


MIN_VARIANCE_FRACTION, MAX_LOGIT_ERROR = 0.1, 1.0
"""Least fraction of the images' variance in codes, and largest relative error of the logits."""
FIGURES = ("told", "misread")


def _describe_codes(means: Mapping[str, float]) -> str | None:
    """Return one line where codes hold little of their images, or logits are predicted badly."""
    if means["told"] < MIN_VARIANCE_FRACTION:
        return (
            f"codes say little of their images ({means['told']:.2f} of the variance); lower noise"
        )
    if means["misread"] > MAX_LOGIT_ERROR:
        return (
            "the classifier's logits cannot be predicted from the codes (error "
            f"{means['misread']:.2f} of the change); enlarge shape.side, or train on"
        )
    return None


DEGENERATE_CODES = DegenerateSolution(FIGURES, FIGURES, _describe_codes)


@final
class LatentTraining(TrainingModule):
    """Trains an autoencoder by the evidence lower bound, and its logit heads by logits.

    The heads learn the logits of images, and of images that are moved, where they will be used: at
    codes to which the heads themselves lead, and at mixtures. The classifier needs no
    gradients.

    Args:
        network: the network that is trained.
        classifier: the classifier.
        settings: the noise and the schedule.
        seed: seed of all draws.
    """

    degenerate: ClassVar[DegenerateSolution] = DEGENERATE_CODES

    def __init__(
        self, network: LatentNetwork, classifier: Classifier, settings: LatentSettings, seed: int
    ) -> None:
        super().__init__(network, classifier, settings, seed)
        self.network: LatentNetwork
        self.settings: LatentSettings
        self.views = RandomViews(smallest=0.7, stretch=1.15, turn=7.0)

    def training_step(self, images: Images, batch_index: int) -> Tensor:
        generator, network = self.step_generator(), self.network
        images = self.views(images, generator)
        codes, spread = network.encode(images)
        noise = torch.randn(codes.shape, generator=generator).to(codes)
        pictures = network.decode(codes + noise * (spread / 2).exp())
        small = network.shrink(images)
        errors = (pictures - small).square().mean((1, 2, 3))
        divergence = (codes.square() + spread.exp() - 1 - spread).sum(1) / 2
        terms: dict[str, Scores] = {
            "picture": errors / (2 * self.settings.noise**2),
            "surprise": divergence / small[0].numel(),
        }
        start = codes.detach()
        with torch.no_grad():
            logits = self.classifier(images)
        moved = self._walk_codes(start, logits, generator)
        with torch.no_grad():
            shift = self.classifier(network.move(images, start, moved)) - logits
        predicted = network.logit_shift(moved) - network.logit_shift(start)
        errors_of_logits = F.smooth_l1_loss(network.predict_logits(start), logits, reduction="none")
        terms["reading"] = errors_of_logits.mean(1)
        terms["moving"] = F.smooth_l1_loss(predicted, shift, reduction="none").mean(1)
        variance = (small - small.mean(0)).square().mean()
        self.log_terms(
            terms,
            {
                "told": 1 - errors.detach().mean() / variance,
                "misread": (predicted.detach() - shift).abs().mean() / shift.abs().mean(),
            },
        )
        return torch.stack(list(terms.values())).sum(0).mean()

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        network, logits = self.network, self.classifier(images)
        start = network.encode(images)[0]
        targets = runner_up(logits, logits.argmax(1))

        def shifted_logits(codes: Tensor) -> Tensor:
            return logits + network.logit_shift(codes) - network.logit_shift(start)

        path, _ = self.settings.path.find_path(start, shifted_logits, targets)
        moved = network.move(images, start, path[-1])
        name = self.classifier.names.short_names[int(targets[0])]
        tiles = [
            (images, f"{name} {self._predict_probability(images, targets):.2f}"),
            (network.decode(start), "as coded"),
            (moved, f"{name} {self._predict_probability(moved, targets):.2f}"),
        ]
        return [render.Tile(render.to_image(images[0].cpu()), text) for images, text in tiles]

    def _predict_probability(self, images: Images, targets: Targets) -> float:
        return float(self.classifier(images).softmax(1)[0, targets[0]])

    def _walk_codes(self, start: Codes, logits: Logits, generator: Generator) -> Codes:
        """Return codes on the way to another decision, and mixtures of two codes."""
        count = len(start)
        others = logits.scatter(1, logits.argmax(1, keepdim=True), -torch.inf).softmax(1)
        targets = others.cpu().multinomial(1, generator=generator)[:, 0].to(start.device)
        far = torch.randint(1, MAX_WALK_STEPS + 1, (count, 1), generator=generator).to(start.device)
        base = self.network.logit_shift(start).detach()
        codes = start
        for number in range(MAX_WALK_STEPS):
            leaf = codes.detach().requires_grad_()
            shifted = logits + self.network.logit_shift(leaf) - base
            (gradient,) = torch.autograd.grad(F.cross_entropy(shifted, targets), leaf)
            codes = torch.where(number < far, codes - WALK_STEP * F.normalize(gradient), codes)
        fraction = torch.rand(count, 1, generator=generator).to(start)
        mixed = (torch.arange(count, device=start.device) % MIXED_EVERY == 0)[:, None]
        return torch.where(mixed, torch.lerp(start, start.roll(1, 0), fraction), codes)
