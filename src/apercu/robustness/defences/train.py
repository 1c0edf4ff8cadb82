"""From a classifier and images to a defended one, in a folder with a classifier card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError
from torch.utils.data import DataLoader

from apercu.classifiers import Classifier, save_classifier
from apercu.classifiers.fingerprint import digest_module
from apercu.classifiers.reinitialise import copy_trainable
from apercu.errors import ImagesError, RunError
from apercu.io import write_file
from apercu.robustness.defences.settings import DefenceSettings
from apercu.robustness.defences.step import DefenceTraining
from apercu.training.data import TrainingImages, split_held_out
from apercu.training.trainer import Trainer

CONFIG, FACTS = "config.json", "facts.json"


def train_defence(
    settings: DefenceSettings, trainer: Trainer
) -> tuple[Classifier, dict[str, float]]:
    """Trains a copy of the fit's classifier and leaves it in the run folder.

    Args:
        settings: what is trained.
        fit: of which classifier, on which images, where.

    Returns:
        The defended classifier; what was measured on images held out, before and after: how often
        honest images, and those that the defence is for, are answered as wanted.

    Raises:
        ClassifierError: the classifier cannot be trained further.
        ImagesError: labels are wanted, and there are none.
        RunError: the folder holds a training of other settings.
    """
    network = copy_trainable(trainer.classifier, reinitialise=settings.scratch, seed=trainer.seed)
    if settings.wanted == "labels" and not trainer.source.labelled:
        raise ImagesError(f"{trainer.source.name}: has no labels; set wanted: answers")
    _claim(trainer.run / CONFIG, settings)
    training = DefenceTraining(network, trainer.classifier, settings, trainer.seed)
    facts = {
        f"{name}_before": value for name, value in _measure_agreement(training, trainer).items()
    }
    facts |= trainer(training) | _measure_agreement(training, trainer)
    known = trainer.classifier.network
    digest = digest_module(network, known.source, known.options)
    defended = Classifier(replace(known, forward=network, digest=digest))
    if trainer.is_main_process:
        save_classifier(defended, trainer.run)
        write_file(trainer.run / FACTS, json.dumps(facts, indent=1) + "\n")
    return defended, facts


@torch.no_grad()
def _measure_agreement(training: DefenceTraining, trainer: Trainer) -> dict[str, float]:
    """On images held out: how often the network answers as wanted."""
    held_out = split_held_out(len(trainer.source), trainer.seed)[1]
    images = TrainingImages(
        trainer.source, trainer.classifier, held_out, target_of=training.target_of
    )
    right: dict[str, list[bool]] = {"honest": [], "hard": []}
    device = trainer.classifier.device
    training.network.to(device)
    for batch in DataLoader(images, training.settings.schedule.batch):
        pictures, labels = (batch, None) if training.target_of is None else batch
        pictures = pictures.to(device)
        labels = None if labels is None else labels.to(device)
        lesson, defence = (
            training.make_batch(pictures, labels, trainer.seed),
            training.settings.defence,
        )
        for name, shown in (
            ("honest", defence.prepare_clean(pictures)),
            ("hard", defence.make_hard_images(lesson)),
        ):
            right[name] += (
                training.compute_inference_logits(shown).argmax(1) == lesson.labels
            ).tolist()
    return {name: sum(found) / len(found) for name, found in right.items()}


def _claim(path: Path, settings: DefenceSettings) -> None:
    """Writes down what is trained here, or checks that it is what was begun."""
    if not path.is_file():
        write_file(path, settings.model_dump_json(indent=1))
        return
    try:
        begun = DefenceSettings.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise RunError(f"{path}: cannot be read; choose another --out") from error
    if begun != settings:
        raise RunError(f"{path}: the training begun here had other settings; use those")
