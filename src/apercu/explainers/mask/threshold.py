"""The threshold of the class gate, raised after training: smaller masks of absent classes."""

from __future__ import annotations

import torch
from torch import Generator

from apercu.classifiers import Classifier
from apercu.explainers.class_embedding import measure_peaks
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.network import enlarge
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.data import TrainingImages, iterate_batches, report_batches

STEP, HIGHEST = 0.01, 0.25
"""Thresholds that are tried, as fractions of the way from the typical peak of absent classes to
that of predicted ones. They end early, as an image may show a class that is not predicted."""
MAX_CHANGE = 0.01
"""Largest change of the masks of predicted classes, relative to their area."""


@torch.no_grad()
def raise_threshold(
    explainer: MaskExplainer,
    classifier: Classifier,
    images: TrainingImages,
    report: ProgressCallback = ignore_progress,
) -> float:
    """Raise the threshold of the gate as far as masks of predicted classes hardly change.

    A training opens the gate for many absent classes, since masks of classes that are closed by
    mistake learn nothing. After it, a higher threshold makes masks of absent classes smaller; see
    docs/experiments.md.

    Args:
        explainer: the trained explainer, whose threshold is raised.
        classifier: the explained classifier.
        images: images on which the threshold is chosen; not those of the training, on which the
            peaks of predicted classes are higher.
        report: receives the name of the work, the images that are done, and the images in all.

    Returns:
        By how much the threshold was raised, in standard deviations of the logits; 0 where each
        higher one changes masks by more than `MAX_CHANGE`.
    """
    network = explainer.network.eval()
    gate, trained, count = network.gate, network.gate.threshold.item(), len(images)
    present, absent = measure_peaks(network, classifier, iterate_batches(images, count))
    fractions = [step * STEP for step in range(round(HIGHEST / STEP) + 1)]
    tried = [absent + fraction * (present - absent) for fraction in fractions]
    tried = [threshold for threshold in tried if threshold > trained]
    area, changes, generator = 0.0, torch.zeros(len(tried)), Generator().manual_seed(0)
    batches = iterate_batches(images, count)
    for batch in report_batches(batches, "choosing the threshold", count, report):
        batch = batch.to(explainer.device)
        targets = classifier.decision.draw_predicted(classifier(batch), generator)
        features = network.encode(batch)
        masks = []
        for threshold in [trained, *tried]:
            gate.threshold.fill_(threshold)
            log_odds = network.decode(features, targets)
            masks.append(enlarge(log_odds, explainer.classifier_info.input.size).sigmoid())
        area += masks[0].sum().item()
        changes += torch.tensor([(mask - masks[0]).abs().sum().item() for mask in masks[1:]])
    pairs = zip(tried, changes, strict=True)
    allowed = [threshold for threshold, change in pairs if change <= MAX_CHANGE * area]
    gate.threshold.fill_(max([trained, *allowed]))
    return gate.threshold.item() - trained
