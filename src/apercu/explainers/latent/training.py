"""One training step of the latent explainer, as Lightning runs it."""

from __future__ import annotations

from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from apercu import render
from apercu.classifiers import Classifier
from apercu.explainers.counterpart.objective import runner_up
from apercu.explainers.latent.network import Codes, LatentNetwork
from apercu.explainers.latent.settings import LatentSettings
from apercu.training.augment import Views
from apercu.training.degeneracy import LATENT, Trivial
from apercu.training.module import Training
from apercu.types import Images, Logits, Scores, Targets

STRIDES, STRIDE = 12, 0.6
"""Most steps that a walk takes towards another decision, and their length."""
MIXED = 4
"""One image in so many is mixed with another, rather than walked."""


@final
class LatentTraining(Training):
    """An autoencoder by the evidence lower bound; its readers by what the classifier answers to
    images, and to images that are moved. It is asked, and never looked into.

    They learn where they will be used: on codes that they lead to themselves, and on mixtures.

    Args:
        network: what is trained.
        classifier: the black box.
        settings: noise and schedule.
        seed: of all draws.
    """

    trivial: ClassVar[Trivial] = LATENT

    def __init__(
        self, network: LatentNetwork, classifier: Classifier, settings: LatentSettings, seed: int
    ) -> None:
        super().__init__(network, classifier, settings, seed)
        self.network: LatentNetwork
        self.settings: LatentSettings
        self.views = Views(smallest=0.7, stretch=1.15, turn=7.0)

    def training_step(self, images: Images, batch_index: int) -> Tensor:
        generator, network = self.generator(), self.network
        images = self.views(images, generator)
        codes, spread = network.encode(images)
        noise = torch.randn(codes.shape, generator=generator).to(codes)
        pictures = network.decode(codes + noise * (spread / 2).exp())
        small = network.shrink(images)
        errors = (pictures - small).square().mean((1, 2, 3))
        surprise = (codes.square() + spread.exp() - 1 - spread).sum(1) / 2
        terms: dict[str, Scores] = {
            "picture": errors / (2 * self.settings.noise**2),
            "surprise": surprise / small[0].numel(),
        }
        start = codes.detach()
        with torch.no_grad():
            answers = self.classifier(images)
        reached = self._reached(start, answers, generator)
        with torch.no_grad():
            found = self.classifier(network.moved(images, start, reached)) - answers
        told = network.sway(reached) - network.sway(start)
        read = F.smooth_l1_loss(network.read(start), answers, reduction="none")
        terms["reading"] = read.mean(1)
        terms["moving"] = F.smooth_l1_loss(told, found, reduction="none").mean(1)
        variance = (small - small.mean(0)).square().mean()
        self.note(
            terms,
            {
                "told": 1 - errors.detach().mean() / variance,
                "misread": (told.detach() - found).abs().mean() / found.abs().mean(),
            },
        )
        return torch.stack(list(terms.values())).sum(0).mean()

    @torch.no_grad()
    def tiles(self, images: Images) -> list[render.Tile]:
        network, answers = self.network, self.classifier(images)
        start = network.encode(images)[0]
        wanted = runner_up(answers, answers.argmax(1))

        def read(codes: Codes) -> Logits:
            return answers + network.sway(codes) - network.sway(start)

        path, _ = self.settings.path.shortest(start, read, wanted)
        moved = network.moved(images, start, path[-1])
        name = self.classifier.classes[int(wanted[0])].partition(",")[0]
        shown = [
            (images, f"{name} {self._share(images, wanted):.2f}"),
            (network.decode(start), "as coded"),
            (moved, f"{name} {self._share(moved, wanted):.2f}"),
        ]
        return [render.Tile(render.picture_image(one[0].cpu()), said) for one, said in shown]

    def _share(self, images: Images, wanted: Targets) -> float:
        return float(self.classifier(images).softmax(1)[0, wanted[0]])

    def _reached(self, start: Codes, answers: Logits, generator: Generator) -> Codes:
        """Codes that are led to on the way to another decision, and mixtures."""
        count = len(start)
        others = answers.scatter(1, answers.argmax(1, keepdim=True), -torch.inf).softmax(1)
        wanted = others.cpu().multinomial(1, generator=generator)[:, 0].to(start.device)
        far = torch.randint(1, STRIDES + 1, (count, 1), generator=generator).to(start.device)
        base = self.network.sway(start).detach()
        codes = start
        for number in range(STRIDES):
            leaf = codes.detach().requires_grad_()
            doubt = F.cross_entropy(answers + self.network.sway(leaf) - base, wanted)
            (slopes,) = torch.autograd.grad(doubt, leaf)
            codes = torch.where(number < far, codes - STRIDE * F.normalize(slopes), codes)
        share = torch.rand(count, 1, generator=generator).to(start)
        mixed = (torch.arange(count, device=start.device) % MIXED == 0)[:, None]
        return torch.where(mixed, torch.lerp(start, start.roll(1, 0), share), codes)
