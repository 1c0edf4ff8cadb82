"""One training step of the counterpart explainer, as Lightning runs it."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from torch import Generator, Tensor

from apercu import render
from apercu.classifiers import Classifier
from apercu.explainers.counterpart.discriminator import (
    Discriminator,
    discriminator_loss,
    generator_loss,
    randomly_perturb,
)
from apercu.explainers.counterfactual import exclude_class, measure_difference, runner_up
from apercu.explainers.counterpart.network import CounterpartNetwork, CounterpartPair
from apercu.explainers.counterpart.objective import CounterpartBatch
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.training.augment import RandomViews
from apercu.training.degeneracy import COUNTERPARTS, DegenerateSolution
from apercu.training.module import TrainingModule
from apercu.types import Images, Logits, Scores

MAX_ROTATION = 7.0
"""Largest rotation of a training image, in degrees."""
DISCRIMINATOR_RATE = 0.25
"""Learning rate of the discriminator, as a share of the generators'."""


@final
class CounterpartTraining(TrainingModule):
    """Decisions are the classifier's own; what is wanted is drawn from what it sees besides.

    Args:
        network: the generators, settled.
        classifier: the black box, differentiable with respect to its images.
        settings: objective and schedule.
        seed: of all draws.
    """

    degenerate: ClassVar[DegenerateSolution] = COUNTERPARTS

    def __init__(
        self,
        network: CounterpartNetwork,
        classifier: Classifier,
        settings: CounterpartSettings,
        seed: int,
    ) -> None:
        super().__init__(network, classifier, settings, seed)
        self.network: CounterpartNetwork
        self.settings: CounterpartSettings
        self.views = RandomViews(smallest=0.7, stretch=1.15, turn=MAX_ROTATION)
        contested = settings.objective.plausibility > 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            judge = Discriminator(classifier.channels, len(classifier.classes))
            self.discriminator = judge if contested else None

    def parameter_groups(self) -> list[dict[str, Any]]:
        generators, *_ = super().parameter_groups()
        if self.discriminator is None:
            return [generators]
        judges = list(self.discriminator.parameters())
        theirs = {id(values) for values in judges}
        generators["params"] = [p for p in generators["params"] if id(p) not in theirs]
        return [generators, {"params": judges, "lr": DISCRIMINATOR_RATE * generators["lr"]}]

    def training_step(self, images: Images, batch_index: int) -> Tensor:
        generator, objective = self.step_generator(), self.settings.objective
        images = self.views(images, generator)
        with torch.no_grad():
            asked = self._draw_batch(images, self.classifier(images), generator)
        weather = int(torch.randint(2**31, (1,), generator=generator))

        def judge(shown: Images) -> Logits:
            if self.settings.weathered:
                shown = randomly_perturb(shown, Generator().manual_seed(weather))
            return self.classifier(shown)

        pair = self.network(images, asked.predicted, asked.targets)
        terms = dict(objective.terms(asked, pair, self.network, judge))
        if self.discriminator is not None:
            made = pair.adversarial, asked.targets
            terms["plausibility"] = objective.plausibility * generator_loss(
                self.discriminator, *made
            )
            terms["mistaken"] = discriminator_loss(
                self.discriminator, images, asked.predicted, *made
            )
        self.log_terms(terms, self._measure(asked, pair))
        return torch.stack(list(terms.values())).sum(0).mean()

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        logits = self.classifier(images)
        seen = logits.argmax(1)
        wanted = runner_up(logits, seen)
        pair = self.network(images, seen, wanted)
        asked = CounterpartBatch(images, seen, wanted)
        stable = self.settings.objective.select_stable(asked, pair, self.network)
        named = [self.classifier.classes[int(one)].partition(",")[0] for one in (seen, wanted)]
        shares = [
            self.classifier(shown).softmax(1)[0, wanted].item()
            for shown in (stable, pair.adversarial)
        ]
        difference = (pair.adversarial - stable)[0].cpu()
        return [
            render.Tile(render.to_image(images[0].cpu()), f"seen as {named[0]}"),
            render.Tile(render.to_image(stable[0].cpu()), f"{named[1]} {shares[0]:.2f}"),
            render.Tile(render.to_image(pair.adversarial[0].cpu()), f"{named[1]} {shares[1]:.2f}"),
            render.Tile(
                render.draw_difference(difference), f"at most {difference.abs().max():.2f}"
            ),
        ]

    def _draw_batch(self, images: Images, logits: Logits, generator: Generator) -> CounterpartBatch:
        """What is wanted is drawn with the classifier's probabilities of the other classes."""
        seen = logits.argmax(1)
        drawn = (
            exclude_class(logits, seen).softmax(1).cpu().multinomial(1, generator=generator)[:, 0]
        )
        return CounterpartBatch(images, seen, drawn.to(seen.device))

    @torch.no_grad()
    def _measure(self, batch: CounterpartBatch, pair: CounterpartPair) -> dict[str, Tensor]:
        decided = self.classifier(pair.adversarial).argmax(1)
        stable = self.settings.objective.select_stable(batch, pair, self.network)
        difference = (pair.adversarial - stable).abs().mean(1)
        return measure_difference(difference) | {
            "flipped": (decided == batch.targets).float().mean()
        }
