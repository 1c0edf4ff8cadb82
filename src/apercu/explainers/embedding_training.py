"""The embedding phase: before the explainer itself is trained, its gate learns the classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Generator, Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from apercu.classifiers import Classifier
from apercu.classifiers.distillation_data import DistillationData, compute_agreement, stack_images
from apercu.errors import RunError
from apercu.explainers.class_embedding import (
    BinaryEmbedding,
    FeatureBatch,
    RidgeEmbedding,
    RidgeMoments,
    solve_ridge,
)
from apercu.io import write_file
from apercu.networks.gate import GatedNetwork
from apercu.progress import ProgressCallback, ignore_progress
from apercu.run_record import Phase
from apercu.training.augment import RandomViews
from apercu.training.data import (
    FORWARD_BATCH,
    EndlessSampler,
    TrainingImages,
    cache_in_memory,
    iterate_batches,
)
from apercu.types import Images

EMBEDDED = "embedded.safetensors"
"""File of the phase's result, in the folder of the checkpoints."""
LOGITS, STATE = "embedding-logits.ckpt", "embedding.ckpt"
"""Files of what is kept until then: the classifier's logits, and the state."""
DESCENT = "embedding steps"
MIN_DEVIATION = 1e-6
"""Least deviation of the logits of a classifier that predicts the same for all images."""

MAX_HELD_OUT_IMAGES = 512
"""Largest number of images held out from the encoder's training; at most a tenth of all."""

StepResult: TypeAlias = tuple[Tensor, Tensor]
"""The loss of one step, and for each of its images whether it was predicted right."""


@dataclass(frozen=True)
class EmbeddingPhase:
    """Trains the class embedding of a network, or reads the stored result of an earlier run.

    Args:
        classifier: the classifier that teaches the classes.
        images: the training images.
        seed: seed of all draws.
        folder: folder in which state and result are kept, so that a resumed training reads them.
        say: receives one message.
        report: receives the name of each part of the work, how much is done, and how much there is.
    """

    classifier: Classifier
    images: TrainingImages
    seed: int
    folder: Path
    say: Callable[[str], None] = field(repr=False)
    report: ProgressCallback = field(default=ignore_progress, repr=False)

    def run(
        self, network: GatedNetwork, settings: RidgeEmbedding | BinaryEmbedding
    ) -> dict[str, float]:
        """Train embedding and encoder in place, and freeze both.

        Args:
            network: the network, as it was built.
            settings: how the embedding is learned.

        Returns:
            `embedding_agreement`, the fraction of images whose class the embedding predicts right.

        Raises:
            RunError: an embedding that was kept is damaged.
        """
        path = self.folder / EMBEDDED
        if path.is_file():
            try:
                state = load_file(path)
                agreement = float(state.pop("agreement").item())
                network.load_state_dict(state, strict=False)
            except (OSError, SafetensorError, RuntimeError, LookupError) as error:
                raise RunError(f"{path}: damaged; remove it to begin anew") from error
        else:
            agreement = self._train(network, settings)
            state = network.state_without_frozen_encoder()
            write_file(path, save(state | {"agreement": torch.tensor(agreement)}))
            for name in (LOGITS, STATE):
                self.make_phase("embedding", name).remove()
        network.freeze_encoder()
        return {"embedding_agreement": agreement}

    def make_phase(self, name: str, file: str, settings: object = None) -> Phase:
        """Return one part of the work, whose state is kept in a file of the folder."""
        key = f"{self.classifier.fingerprint} {len(self.images)} {self.seed} {settings}"
        return Phase(name, self.report, self.folder / file, key)

    def _train(self, network: GatedNetwork, settings: RidgeEmbedding | BinaryEmbedding) -> float:
        if isinstance(settings, BinaryEmbedding):
            accuracy = train_binary_embedding(network, self, settings)
            self.say(
                f"class embedding: separates real from fake classes in {accuracy:.1%} of cases"
            )
            return accuracy
        train_ridge = fit_ridge_embedding if network.frozen else train_ridge_embedding
        agreement = train_ridge(network, self, settings)
        measured = agreement == agreement  # NaN where no image was held out
        held_out = f"in {agreement:.1%} of cases" if measured else "(too few to hold some out)"
        several = self.classifier.decision.is_multiple
        subject = "classes" if several else "top class"
        self.say(f"class embedding: predicts the classifier's {subject} {held_out}")
        return agreement


@torch.no_grad()
def fit_ridge_embedding(
    network: GatedNetwork, work: EmbeddingPhase, settings: RidgeEmbedding
) -> float:
    """Fit the embedding to all of the classifier's logits; the encoder stays as it is.

    The gate's threshold comes from the peaks on images held out: on those that it was fitted to, an
    embedding peaks higher than on any other.

    Args:
        network: the network, whose gate is set.
        work: classifier and images.
        settings: the penalties and the number of images.

    Returns:
        How often embedding and classifier agree on images held out, see `Decision.agreement`.
    """
    network.eval()
    device, count = next(network.parameters()).device, min(settings.images, len(work.images))
    fitted, held_out = split_batches(count)
    phase = work.make_phase("embedding images", STATE, settings)
    state = phase.load()
    done = state.get("done", 0)
    moments = RidgeMoments(network.gate.embedding.shape[1], len(work.classifier.classes))
    moments.load_state_dict(state.get("moments", {}))
    unseen = [FeatureBatch(*tensors) for tensors in state.get("unseen", [])]
    phase.note(done * FORWARD_BATCH, count)

    def make_state() -> dict[str, Any]:
        rows = [tuple(batch) for batch in unseen]
        return {"done": done, "moments": moments.state_dict(), "unseen": rows}

    for batch in iterate_batches(work.images, count, [*fitted, *held_out][done:]):
        batch = batch.to(device)
        pooled, logits = network.encoder(batch)[-1].mean((2, 3)), work.classifier(batch)
        if done < len(fitted):
            moments.add(pooled, logits)
        else:
            unseen.append(FeatureBatch(pooled.cpu(), logits.cpu()))
        done += 1
        phase.note(min(count, done * FORWARD_BATCH), count, make_state)
    decision = work.classifier.decision
    agreement = solve_ridge(network.gate, moments, unseen, settings.penalties, decision)
    batches = iterate_batches(work.images, count, held_out or fitted)
    network.gate.set_threshold(*_measure_peaks(network, work.classifier, batches))
    return agreement


def train_ridge_embedding(
    network: GatedNetwork, work: EmbeddingPhase, settings: RidgeEmbedding
) -> float:
    """Train encoder and embedding to predict the classifier's logits, by gradient descent.

    The classifier predicts each image and its mirror image once. The network sees both shifted a
    little, which leaves the logits as they are.

    Args:
        network: the network, whose encoder and gate are trained.
        work: classifier, images and seed.
        settings: the steps.

    Returns:
        How often embedding and classifier agree on images held out, see `Decision.agreement`; NaN
        where there are too few images to hold some out.
    """
    device, classifier, count = next(network.parameters()).device, work.classifier, len(work.images)
    cached = cache_in_memory(work.images, work.report)
    order = torch.tensor(list(islice(EndlessSampler(count, work.seed), count)))
    held_out = min(MAX_HELD_OUT_IMAGES, count // 10)
    queries = work.make_phase("classifier's logits", LOGITS)
    data = DistillationData.query_teacher(
        classifier, cached, order[held_out:], settings.batch, queries
    )
    network.gate.set_logit_units(
        data.teacher_logits.mean().item(), max(data.teacher_logits.std().item(), MIN_DEVIATION)
    )

    def predict(views: Images) -> Tensor:
        return network.gate.predict_logits(network.encode(views)[-1])

    def steps(first: int) -> Iterator[StepResult]:
        generator = torch.Generator().manual_seed(work.seed)
        for views, logits in data.draw_batches(settings.batch, generator, first):
            logits = logits.to(device)
            predicted = predict(views.to(device))
            loss = F.mse_loss(predicted, network.gate.standardise(logits))
            yield loss, predicted.argmax(1) == logits.argmax(1)

    descend(network, settings, steps, work.make_phase(DESCENT, STATE, settings))
    chunks = torch.split(order[: max(held_out, FORWARD_BATCH)], FORWARD_BATCH)
    unseen = [stack_images(cached, indices).to(device) for indices in chunks]
    network.gate.set_threshold(*_measure_peaks(network, classifier, unseen))
    if not held_out:
        return float("nan")

    def estimate(views: Images) -> Tensor:
        return network.gate.restore_units(predict(views))

    return compute_agreement(estimate, classifier, unseen)


def train_binary_embedding(
    network: GatedNetwork, work: EmbeddingPhase, settings: BinaryEmbedding
) -> float:
    """Train encoder and embedding to separate real from fake classes, as published.

    The evidence that a class exists is its mean activation a: logits (−a/2, a/2), cross-entropy
    (the paper speaks of the maximum, the released code takes the mean).

    Args:
        network: the network, whose encoder and gate are trained.
        work: classifier, images and seed.
        settings: the steps.

    Returns:
        The accuracy over the last tenth of the steps.
    """
    device = next(network.parameters()).device

    def steps(first: int) -> Iterator[StepResult]:
        order = EndlessSampler(len(work.images), work.seed, start=first * settings.batch)
        loader = DataLoader(work.images, settings.batch, sampler=order, num_workers=1)
        for step, batch in enumerate(loader, start=first):
            generator = torch.Generator().manual_seed(work.seed * 1_000_003 + step)
            views = RandomViews()(batch.to(device), generator)
            targets, real = _draw_targets(work.classifier, views, settings.fakes, generator)
            features = network.encode(views)[-1]
            existence = network.gate.compute_activation(features, targets).mean((1, 2, 3))
            loss = F.binary_cross_entropy_with_logits(existence, real.float())
            yield loss, (existence > 0) == real

    return descend(network, settings, steps, work.make_phase(DESCENT, STATE, settings))


def descend(
    network: GatedNetwork,
    settings: RidgeEmbedding | BinaryEmbedding,
    results: Callable[[int], Iterable[StepResult]],
    phase: Phase,
) -> float:
    """Run the optimiser for the number of steps in the settings, from the state that was kept.

    Args:
        network: the network that is trained.
        settings: number of steps and learning rate.
        results: function from the number of steps done to endless losses; each is computed only
            after the step before it.
        phase: reports the steps and keeps the state.

    Returns:
        Fraction of images predicted right over the last tenth of the steps.
    """
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = AdamW(trained, lr=settings.rate, weight_decay=1e-4)
    rate = OneCycleLR(optimiser, settings.rate, total_steps=settings.steps)
    accuracies: list[float] = []
    if state := phase.load():
        accuracies = state["accuracies"]
        network.load_state_dict(state["network"], strict=False)
        optimiser.load_state_dict(state["optimiser"])
        rate.load_state_dict(state["rate"])

    def make_state() -> dict[str, Any]:
        return {
            "accuracies": accuracies,
            "network": network.state_without_frozen_encoder(),
            "optimiser": optimiser.state_dict(),
            "rate": rate.state_dict(),
        }

    first = len(accuracies)
    phase.note(first, settings.steps)
    for loss, correct in islice(results(first), settings.steps - first):
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        rate.step()
        accuracies.append(correct.float().mean().item())
        phase.note(len(accuracies), settings.steps, make_state)
    last = accuracies[-max(1, len(accuracies) // 10) :]
    return sum(last) / len(last)


def split_batches(count: int) -> tuple[list[int], list[int]]:
    """Return numbers of batches to fit on, and of those held out: every tenth, or the last of few.

    >>> split_batches(12 * FORWARD_BATCH)
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11], [9])
    >>> split_batches(3 * FORWARD_BATCH), split_batches(FORWARD_BATCH)
    (([0, 1], [2]), ([0], []))
    """
    numbers = range(-(-count // FORWARD_BATCH))
    held_out = [n for n in numbers if n % 10 == 9] or list(numbers[1:][-1:])
    return [n for n in numbers if n not in held_out], held_out


@torch.no_grad()
def _measure_peaks(
    network: GatedNetwork, classifier: Classifier, batches: Iterable[Images]
) -> tuple[float, float]:
    """Return the mean highest activation of the classifier's top class, and of any other class."""
    network.eval()
    present: list[Tensor] = []
    absent: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        batch = batch.to(classifier.device)
        deepest, logits = network.encode(batch)[-1], classifier(batch)
        other = classifier.decision.draw_absent(logits, generator)
        top = classifier.decision.draw_predicted(logits, generator)
        for peaks, targets in ((present, top), (absent, other)):
            peaks.append(network.gate.compute_activation(deepest, targets).amax((1, 2, 3)))
    return torch.cat(present).mean().item(), torch.cat(absent).mean().item()


@torch.no_grad()
def _draw_targets(
    classifier: Classifier, images: Images, negative_rate: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw targets, the top class or a fake one, and return which of them are real."""
    logits, decision = classifier(images), classifier.decision
    others = decision.draw_absent(logits, generator)
    real = (torch.rand(len(images), generator=generator) >= negative_rate).to(logits.device)
    return torch.where(real, decision.draw_predicted(logits, generator), others), real
