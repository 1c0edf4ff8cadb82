"""The class embedding from images that parts were removed from: it learns where the evidence is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from apercu.classifiers import Classifier
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
from apercu.explainers.settings import FEWEST_FITTED, MaskedEmbedding
from apercu.networks.blocks import FeatureAdapter
from apercu.networks.gate import ClassGate, GatedNetwork
from apercu.removal import Alternative, Removal
from apercu.training.data import FORWARD_BATCH, SEED_STEP, iterate_batches
from apercu.types import Images, Logits

MAX_KEPT_BYTES = 1 << 30
"""Memory of the features, and of the logits, that are kept; else fewer images are used."""
GRIDS = (2, 3, 4, 7)
"""Rows and columns of the random grids of a mask."""
MIN_KEPT, MAX_KEPT = 0.1, 0.9
"""Least and largest probability that a cell of a grid is kept."""
UNITS_BATCHES = 32
"""Batches whose features give the standard units."""
EMPTY_BATCHES = 32
"""Batches whose images are predicted with everything removed."""


class MaskedQueries(NamedTuple):
    """What a classifier predicts of images and of parts of them.

    Attributes:
        features: deepest features of the whole images in standard units, half precision, `images ×
            channels × rows × columns`.
        masks: whether a cell is kept, `images × queries × rows × columns`; the first query keeps
            all.
        logits: logits of what is kept, `images × queries × classes`.
        empty: mean logits of images from which everything was removed, `1 × classes`.
        held_out: whether an image is held out, `images`.
    """

    features: Tensor
    masks: Tensor
    logits: Tensor
    empty: Logits
    held_out: Tensor


def train_masked_embedding(
    network: GatedNetwork, work: EmbeddingWork, settings: MaskedEmbedding
) -> float:
    """Train embedding and adapter to predict the classifier's logits of parts of images.

    Args:
        network: a network with a frozen encoder and an adapter.
        work: classifier, images and seed.
        settings: the queries and the steps.

    Returns:
        How often embedding and classifier agree on images held out, see `Decision.agreement`; NaN
        where there are too few images to hold some out.
    """
    network.eval()
    queries = query_classifier(network, work, settings)
    _fit_start(network, queries, work, settings)

    def steps(first: int) -> Iterator[StepResult]:
        return compute_steps(network, queries, settings.batch, work.seed, first)

    descend(network, settings, steps, work.make_phase(DESCENT, STATE, settings))
    images = len(queries.features)
    fitted, held_out = split_batches(images)
    batches = iterate_batches(work.images, images, held_out or fitted)
    network.gate.set_threshold(*measure_peaks(network, work.classifier, batches))
    return _compute_agreement(network, queries, work)


@torch.no_grad()
def query_classifier(
    network: GatedNetwork, work: EmbeddingWork, settings: MaskedEmbedding
) -> MaskedQueries:
    """Return features of images, and the classifier's logits of them and of parts of them.

    The logits are kept; a training that is continued only computes the features again.

    Args:
        network: a network with a frozen encoder.
        work: classifier, images and seed.
        settings: the number of images, and of masks per image.

    Returns:
        Features, masks and logits.
    """
    device, classifier, removal = next(network.parameters()).device, work.classifier, Alternative()
    adapter = get_adapter(network)
    total = _count_images(network, work, settings)
    phase = work.make_phase("classifier's logits", LOGITS, settings)
    state = phase.load()
    logits: list[Tensor] = list(state.get("logits", []))
    empty: list[Tensor] = list(state.get("empty", []))
    unscaled: list[Tensor] = []  # features of the first batches, which give the standard units
    masks: list[Tensor] = []
    features = torch.empty(0)

    def make_state() -> dict[str, Any]:
        return {"logits": logits, "empty": empty}

    for number, images in enumerate(iterate_batches(work.images, total)):
        images = images.to(device)
        deepest = network.encoder(images)[-1]
        generator = Generator().manual_seed(work.seed * SEED_STEP + number)
        kept = draw_masks(len(images), settings.masks, deepest.shape[2:], generator)
        done = min(total, (number + 1) * FORWARD_BATCH)
        if number < UNITS_BATCHES:
            unscaled.append(deepest.float())
        else:
            features[done - len(images) : done] = adapter.standardise(deepest.float())
        if done == total or number + 1 == UNITS_BATCHES:
            if unscaled:
                features = _start_features(adapter, unscaled, total)
            unscaled = []
        masks.append(kept.bool())
        if number >= len(logits):
            logits.append(_predict_parts(classifier, images, kept, removal, generator))
            if number < EMPTY_BATCHES:
                empty.append(classifier(removal.make_replacement(images, generator)).cpu())
        phase.note(done, total, make_state)
    phase.save(make_state())
    rows = torch.arange(total)
    held_out = torch.isin(rows // FORWARD_BATCH, torch.tensor(split_batches(total)[1]))
    mean_empty = torch.cat(empty).mean(0, keepdim=True)
    return MaskedQueries(features, torch.cat(masks), torch.cat(logits), mean_empty, held_out)


def _predict_parts(
    classifier: Classifier,
    images: Images,
    kept: Float[Tensor, "images queries rows columns"],
    removal: Removal,
    generator: Generator,
) -> Float[Tensor, "images queries classes"]:
    """Return the logits of images and of what each of their masks keeps, on the CPU."""
    parts = [classifier(images)]
    for mask in kept[:, 1:].unbind(1):  # the first one keeps all
        enlarged = F.interpolate(mask[:, None], images.shape[2:], mode="nearest")[:, 0]
        parts.append(classifier(removal(images, enlarged.to(images.device), generator)))
    return torch.stack(parts, 1).cpu()


def get_adapter(network: GatedNetwork) -> FeatureAdapter:
    """Return the adapter of a network that has one."""
    if network.adapter is None:
        raise ValueError("a network without an adapter has no masked embedding")
    return network.adapter


def _start_features(adapter: FeatureAdapter, unscaled: list[Tensor], total: int) -> Tensor:
    """Set the units of an adapter from the first features, and return a tensor for those of all."""
    values = torch.cat(unscaled)
    adapter.set_units(values)
    features = torch.empty(total, *values.shape[1:], dtype=torch.half)
    features[: len(values)] = adapter.standardise(values)
    return features


def draw_masks(
    images: int, masks: int, size: Sequence[int], generator: Generator
) -> Float[Tensor, "images queries rows columns"]:
    """Draw masks from coarse random grids, at the cells of a feature map.

    Args:
        images: number of images.
        masks: masks per image that remove something.
        size: rows and columns of the feature map.
        generator: source of the draws.

    Returns:
        1 where cells are kept, else 0; before the drawn masks of each image comes one that keeps
        all.
    """
    kept = torch.ones(images, masks + 1, *size)
    for image in range(images):
        for query in range(1, masks + 1):
            side = GRIDS[int(torch.randint(len(GRIDS), (1,), generator=generator))]
            rate = MIN_KEPT + (MAX_KEPT - MIN_KEPT) * float(torch.rand(1, generator=generator))
            grid = (torch.rand(1, 1, side, side, generator=generator) < rate).float()
            kept[image, query] = F.interpolate(grid, tuple(size), mode="nearest")[0, 0]
    return kept


def compute_steps(
    network: GatedNetwork, queries: MaskedQueries, batch: int, seed: int, first: int
) -> Iterator[StepResult]:
    """Yield endless losses: the squared error of the predicted logits of what masks keep.

    Args:
        network: the network, whose gate and adapter are trained.
        queries: what the classifier predicts.
        batch: images per step.
        seed: seed of the order of the images.
        first: steps that were done before.

    Yields:
        The mean loss of a step, and for each of its images whether its class is predicted right.
    """
    gate, device = network.gate, network.gate.embedding.device
    empty = gate.standardise(queries.empty.to(device))
    fitted = (~queries.held_out).nonzero()[:, 0]
    generator = Generator().manual_seed(seed)
    for step in count():
        rows = fitted[torch.randint(len(fitted), (batch,), generator=generator)]
        if step < first:
            continue
        features = get_adapter(network).adapt(queries.features[rows].float().to(device))
        logits = gate.standardise(queries.logits[rows].flatten(0, 1).to(device))
        predicted = predict_kept_logits(gate, features, queries.masks[rows].to(device), empty)
        loss = F.mse_loss(predicted.flatten(0, 1), logits)
        whole = logits.reshape(predicted.shape)[:, 0]
        yield loss, predicted[:, 0].argmax(1) == whole.argmax(1)


def predict_kept_logits(
    gate: ClassGate, features: Tensor, masks: Tensor, empty: Logits
) -> Float[Tensor, "images queries classes"]:
    """Return the logits of what masks keep: activations of kept cells, nothing of the others.

    Args:
        gate: the gate.
        features: deepest features of the whole images, `images × channels × rows × columns`.
        masks: whether a cell is kept, `images × queries × rows × columns`.
        empty: logits of an image from which everything was removed, in standard units, `1 ×
            classes`; each removed cell counts for one cell of it.

    Returns:
        Logits in standard units.
    """
    weights = masks.flatten(2).to(features)
    weights = weights / weights.shape[2]
    kept = weights.sum(2, keepdim=True)
    pooled = weights @ features.flatten(2).mT
    activation = pooled @ gate.embedding.T + kept * gate.bias
    return activation + (1 - kept) * empty


def _count_images(network: GatedNetwork, work: EmbeddingWork, settings: MaskedEmbedding) -> int:
    """Return the number of images that are used; features and logits have to fit into memory."""
    stride, channels = network.encoder.strides[-1], network.encoder.channels[-1]
    cells = math.prod(math.ceil(length / stride) for length in work.classifier.size)
    logit_bytes = 4 * len(work.classifier.classes) * (settings.masks + 1)
    most = max(FEWEST_FITTED, MAX_KEPT_BYTES // max(2 * channels * cells, logit_bytes))
    wanted = min(settings.images, len(work.images))
    if most < wanted:
        work.say(f"embedding.images: {most}, not {wanted}, as more would take too much memory")
    return min(most, wanted)


def _fit_start(
    network: GatedNetwork, queries: MaskedQueries, work: EmbeddingWork, settings: MaskedEmbedding
) -> None:
    """Set the gate by ridge regression from the whole images."""
    parts = torch.split(queries.features, FORWARD_BATCH)
    pooled, logits = torch.cat([part.float().mean((2, 3)) for part in parts]), queries.logits[:, 0]
    fitted = ~queries.held_out
    moments = RidgeMoments(pooled.shape[1], logits.shape[1])
    moments.add(pooled[fitted], logits[fitted])
    unseen = [FeatureBatch(pooled[~fitted], logits[~fitted])] if not bool(fitted.all()) else []
    solve_ridge(network.gate, moments, unseen, settings.penalties, work.classifier.decision)


@torch.no_grad()
def _compute_agreement(network: GatedNetwork, queries: MaskedQueries, work: EmbeddingWork) -> float:
    """Return how often the embedding agrees with the classifier on the images held out."""
    network.eval()
    features, logits = queries.features[queries.held_out], queries.logits[queries.held_out, 0]
    if not len(features):
        return float("nan")
    gate, adapter, device = network.gate, get_adapter(network), network.gate.embedding.device
    estimated = torch.cat(
        [
            gate.restore_units(gate.predict_logits(adapter.adapt(part.float().to(device)))).cpu()
            for part in torch.split(features, FORWARD_BATCH)
        ]
    )
    decision = work.classifier.decision
    return decision.agreement(estimated, logits).mean().item()
