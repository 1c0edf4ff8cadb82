"""The training of the counterpart explainer: the loss of each step, as Lightning runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Generator, Tensor

from apercu import render
from apercu.classifiers import Classifier
from apercu.explainers.counterfactual import exclude_class, measure_difference, runner_up
from apercu.explainers.counterpart.network import (
    CounterpartNetwork,
    CounterpartPair,
    Discriminator,
    discriminator_loss,
    generator_loss,
    randomly_perturb,
)
from apercu.explainers.counterpart.objective import CounterpartBatch
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.explainers.embedding_training import EmbeddingPhase
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.augment import RandomViews
from apercu.training.data import TrainingImages
from apercu.training.module import DegenerateSolution, TrainingModule
from apercu.types import Images, Logits

MAX_ROTATION = 7.0
"""Largest rotation of a training image, in degrees."""
DISCRIMINATOR_RATE = 0.25
"""Learning rate of the discriminator, relative to that of the generators."""

MIN_CHANGE, MIN_FLIPPED, MIN_PEAK, MAX_SPREAD = 0.002, 0.5, 0.05, 0.6
"""Bounds of the mean difference, the flipped fraction, the largest difference, the spread."""
FIGURES = ("flipped", "change", "peak", "spread")


def _describe_counterparts(means: Mapping[str, float]) -> str | None:
    """Return one line where counterparts are the same, keep the decision, or differ everywhere."""
    flipped, change = means["flipped"], means["change"]
    if change < MIN_CHANGE:
        return f"both counterparts are the same (mean difference {change:.4f}); raise flip"
    if flipped < MIN_FLIPPED:
        return f"adversarial images keep the decision (flipped {flipped:.2f}); raise flip"
    if means["peak"] < MIN_PEAK:
        return (
            f"adversarial images are invisible noise (largest difference {means['peak']:.3f}); "
            "coarsen the resolution or raise plausibility"
        )
    if means["spread"] > MAX_SPREAD:
        return (
            f"the difference is everywhere (on {means['spread']:.2f} of the image); "
            "raise scarcity or closeness"
        )
    return None


DEGENERATE_COUNTERPARTS = DegenerateSolution(FIGURES, FIGURES, _describe_counterparts)


@final
class CounterpartTraining(TrainingModule):
    """Trains pairs of images; targets are drawn from the classifier's other classes.

    Args:
        network: the generators.
        classifier: the classifier, differentiable with respect to its images.
        settings: the objective and the schedule.
        seed: seed of all draws.
    """

    degenerate: ClassVar[DegenerateSolution] = DEGENERATE_COUNTERPARTS

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
        adversarial = settings.objective.plausibility > 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            discriminator = Discriminator(classifier.channels, len(classifier.classes))
            self.discriminator = discriminator if adversarial else None

    def prepare_network(
        self,
        images: TrainingImages,
        folder: Path,
        say: Callable[[str], None],
        report: ProgressCallback = ignore_progress,
    ) -> dict[str, float]:
        resolution, stride = self.network.decoder.body.resolution, self.network.encoder.strides[-1]
        if resolution != self.settings.generators.resolution:
            say(
                f"generators.resolution: {resolution}, not {self.settings.generators.resolution}, "
                f"as the deepest features of the encoder have a stride of {stride} pixels"
            )
        phase = EmbeddingPhase(self.classifier, images, self.seed, folder, say, report)
        return phase.run(self.network, self.settings.embedding)

    def parameter_groups(self) -> list[dict[str, Any]]:
        generators, *_ = super().parameter_groups()
        if self.discriminator is None:
            return [generators]
        parameters = list(self.discriminator.parameters())
        own = {id(values) for values in parameters}
        generators["params"] = [p for p in generators["params"] if id(p) not in own]
        return [generators, {"params": parameters, "lr": DISCRIMINATOR_RATE * generators["lr"]}]

    def training_step(self, images: Images, batch_index: int) -> Tensor:
        generator, objective = self.step_generator(), self.settings.objective
        images = self.views(images, generator)
        with torch.no_grad():
            batch = self._draw_batch(images, self.classifier(images), generator)
        seed = int(torch.randint(2**31, (1,), generator=generator))

        def classify(inputs: Images) -> Logits:
            if self.settings.weathered:
                inputs = randomly_perturb(inputs, Generator().manual_seed(seed))
            return self.classifier(inputs)

        pair = self.network(images, batch.predicted, batch.targets)
        terms = dict(objective.compute_terms(batch, pair, self.network, classify))
        if self.discriminator is not None:
            generated, targets = pair.adversarial, batch.targets
            realism = generator_loss(self.discriminator, generated, targets)
            terms["plausibility"] = objective.plausibility * realism
            terms["mistaken"] = discriminator_loss(
                self.discriminator, images, batch.predicted, generated, targets
            )
        self.log_terms(terms, self._measure(batch, pair))
        return torch.stack(list(terms.values())).sum(0).mean()

    @torch.no_grad()
    def sample_tiles(self, images: Images) -> list[render.Tile]:
        logits = self.classifier(images)
        predicted = logits.argmax(1)
        targets = runner_up(logits, predicted)
        pair = self.network(images, predicted, targets)
        batch = CounterpartBatch(images, predicted, targets)
        stable = self.settings.objective.select_stable(batch, pair, self.network)
        before, after = (
            self.classifier.names.short_names[int(index)] for index in (predicted, targets)
        )
        low, high = (
            self.classifier(inputs).softmax(1)[0, targets].item()
            for inputs in (stable, pair.adversarial)
        )
        difference = (pair.adversarial - stable)[0].cpu()
        return [
            render.Tile(render.to_image(images[0].cpu()), f"predicted: {before}"),
            render.Tile(render.to_image(stable[0].cpu()), f"{after} {low:.2f}"),
            render.Tile(render.to_image(pair.adversarial[0].cpu()), f"{after} {high:.2f}"),
            render.Tile(render.draw_difference(difference), render.describe_change(difference)),
        ]

    def _draw_batch(self, images: Images, logits: Logits, generator: Generator) -> CounterpartBatch:
        """Draw targets with the classifier's probabilities of the other classes."""
        predicted = logits.argmax(1)
        others = exclude_class(logits, predicted).softmax(1).cpu()
        targets = others.multinomial(1, generator=generator)[:, 0]
        return CounterpartBatch(images, predicted, targets.to(predicted.device))

    @torch.no_grad()
    def _measure(self, batch: CounterpartBatch, pair: CounterpartPair) -> dict[str, Tensor]:
        """Return how often decisions are flipped, and how large the differences are."""
        decided = self.classifier(pair.adversarial).argmax(1)
        stable = self.settings.objective.select_stable(batch, pair, self.network)
        difference = (pair.adversarial - stable).abs().mean(1)
        flipped = (decided == batch.targets).float().mean()
        return measure_difference(difference) | {"flipped": flipped}
