"""The embedding phase: before the explainer itself is trained, its gate learns the classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from apercu.classifiers import Classifier
from apercu.classifiers.distillation_data import DistillationData, compute_agreement, stack_images
from apercu.errors import RunError
from apercu.explainers.class_embedding import (
    DESCENT,
    LOGITS,
    STATE,
    EmbeddingWork,
    FeatureBatch,
    RidgeMoments,
    StepResult,
    descend,
    measure_peaks,
    solve_ridge,
    split_batches,
)
from apercu.explainers.masked_embedding import train_masked_embedding
from apercu.explainers.settings import BinaryEmbedding, MaskedEmbedding, RidgeEmbedding
from apercu.io import write_file
from apercu.networks.gate import GatedNetwork
from apercu.training.augment import RandomViews
from apercu.training.data import (
    FORWARD_BATCH,
    SEED_STEP,
    EndlessSampler,
    cache_in_memory,
    iterate_batches,
)
from apercu.types import Images

EMBEDDED = "embedded.safetensors"
"""File of the phase's result, in the folder of the checkpoints."""
MIN_DEVIATION = 1e-6
"""Least deviation of the logits of a classifier that predicts the same for all images."""

MAX_HELD_OUT_IMAGES = 512
"""Largest number of images held out from the encoder's training; at most a tenth of all."""


class EmbeddingPhase(EmbeddingWork):
    """Trains the class embedding of a network, or reads the stored result of an earlier run."""

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

    def _train(self, network: GatedNetwork, settings: RidgeEmbedding | BinaryEmbedding) -> float:
        if isinstance(settings, BinaryEmbedding):
            accuracy = train_binary_embedding(network, self, settings)
            self.say(
                f"class embedding: separates real from fake classes in {accuracy:.1%} of cases"
            )
            return accuracy
        if isinstance(settings, MaskedEmbedding):
            agreement = train_masked_embedding(network, self, settings)
        else:
            train_ridge = fit_ridge_embedding if network.frozen else train_ridge_embedding
            agreement = train_ridge(network, self, settings)
        measured = f"in {agreement:.1%} of cases"
        if math.isnan(agreement):
            measured = "(too few to hold some out)"
        subject = "classes" if self.classifier.decision.is_multiple else "top class"
        self.say(f"class embedding: predicts the classifier's {subject} {measured}")
        return agreement


@torch.no_grad()
def fit_ridge_embedding(
    network: GatedNetwork, work: EmbeddingWork, settings: RidgeEmbedding
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
    network.gate.set_threshold(*measure_peaks(network, work.classifier, batches))
    return agreement


def train_ridge_embedding(
    network: GatedNetwork, work: EmbeddingWork, settings: RidgeEmbedding
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
    network.gate.set_threshold(*measure_peaks(network, classifier, unseen))
    if not held_out:
        return float("nan")

    def estimate(views: Images) -> Tensor:
        return network.gate.restore_units(predict(views))

    return compute_agreement(estimate, classifier, unseen)


def train_binary_embedding(
    network: GatedNetwork, work: EmbeddingWork, settings: BinaryEmbedding
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
            generator = torch.Generator().manual_seed(work.seed * SEED_STEP + step)
            views = RandomViews()(batch.to(device), generator)
            targets, real = _draw_targets(work.classifier, views, settings.fakes, generator)
            features = network.encode(views)[-1]
            existence = network.gate.compute_activation(features, targets).mean((1, 2, 3))
            loss = F.binary_cross_entropy_with_logits(existence, real.float())
            yield loss, (existence > 0) == real

    return descend(network, settings, steps, work.make_phase(DESCENT, STATE, settings))


@torch.no_grad()
def _draw_targets(
    classifier: Classifier, images: Images, negative_rate: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Draw targets, the top class or a fake one, and return which of them are real."""
    logits, decision = classifier(images), classifier.decision
    others = decision.draw_absent(logits, generator)
    real = (torch.rand(len(images), generator=generator) >= negative_rate).to(logits.device)
    return torch.where(real, decision.draw_predicted(logits, generator), others), real
