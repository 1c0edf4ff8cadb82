"""The threshold of the gate that closes masks of absent classes, chosen after the training."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from apercu.classifiers import Classifier
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.network import enlarge
from apercu.networks.gate import ALWAYS_OPEN, Z_SHARPNESS
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.data import TrainingImages, iterate_batches, report_batches

THRESHOLDS = tuple(step / 4 for step in range(7))
"""Thresholds of the z-score that are tried, from 0, where half of all classes are closed, to 1.5.
Above it masks of classes are closed that are in the image and not predicted; see
docs/experiments.md."""
OPEN_FROM = 9 / Z_SHARPNESS
"""Distance above the threshold from which the gate is open, to one in ten thousand."""
RUNNERS_UP = 4
"""Classes after the predicted one that an image may show, although they are not predicted."""
MAX_CHANGE = 0.01
"""Largest change of the masks of predicted classes, and of runners-up, relative to their area."""


@torch.no_grad()
def choose_threshold(
    explainer: MaskExplainer,
    classifier: Classifier,
    images: TrainingImages,
    report: ProgressCallback = ignore_progress,
) -> float:
    """Close the gate for as many classes as possible, while masks of likely classes hardly change.

    During the training the gate is open for many absent classes, since masks of classes for which
    it is closed by mistake learn nothing; see docs/experiments.md.

    Args:
        explainer: the trained explainer, whose threshold is set.
        classifier: the explained classifier.
        images: images on which the threshold is chosen; not those of the training, which the
            embedding knows.
        report: receives the name of the work, the images that are done, and the images in all.

    Returns:
        The highest of `THRESHOLDS` that changes masks of predicted classes, and those of the next
        most probable ones, by at most `MAX_CHANGE`; else `ALWAYS_OPEN`, with which the gate stays
        as it was trained.
    """
    network, count = explainer.network.eval(), len(images)
    generator, size = Generator().manual_seed(0), explainer.classifier_info.input.size

    def draw_masks(features: list[Tensor], targets: Tensor, threshold: float) -> Tensor:
        network.gate.z_threshold.fill_(threshold)
        return enlarge(network.decode(features, targets), size).sigmoid()

    areas, changes = torch.zeros(2), torch.zeros(2, len(THRESHOLDS))
    batches = iterate_batches(images, count)
    for batch in report_batches(batches, "choosing the threshold", count, report):
        batch = batch.to(explainer.device)
        features, ranks = network.encode(batch), classifier(batch).argsort(1, descending=True)
        last = min(RUNNERS_UP, ranks.shape[1] - 1)
        runner_up = torch.randint(1, last + 1, (len(batch), 1), generator=generator)
        for row, rank in enumerate((torch.zeros_like(runner_up), runner_up)):
            targets = ranks.gather(1, rank.to(ranks.device))[:, 0]
            masks = draw_masks(features, targets, ALWAYS_OPEN)
            scores = network.gate.compute_z_scores(features[-1], targets)
            areas[row] += masks.sum().item()
            for column, threshold in enumerate(THRESHOLDS):
                closing = scores < threshold + OPEN_FROM
                if closing.any():
                    kept = [map[closing] for map in features]
                    closed = draw_masks(kept, targets[closing], threshold)
                    changes[row, column] += (closed - masks[closing]).abs().sum().item()
    suitable = (changes <= MAX_CHANGE * areas[:, None]).all(0).tolist()
    chosen = [each for each, suits in zip(THRESHOLDS, suitable, strict=True) if suits]
    network.gate.z_threshold.fill_(max(chosen, default=ALWAYS_OPEN))
    return network.gate.z_threshold.item()
