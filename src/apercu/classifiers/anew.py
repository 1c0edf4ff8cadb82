"""A classifier's network as something to train: a copy, or with all weights drawn anew."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from apercu.classifiers.door import Classifier
from apercu.classifiers.fingerprint import digest_of_module
from apercu.errors import ClassifierError


def trainable(classifier: Classifier, *, anew: bool = False, seed: int = 0) -> nn.Module:
    """A copy of the classifier's network whose parameters take gradients.

    Args:
        classifier: stays as it is.
        anew: whether all weights are drawn anew, as its layers draw them.
        seed: of these draws.

    Raises:
        ClassifierError: the classifier is a black box, or an exported program.
    """
    if classifier.module is None or classifier.network.source.endswith(".pt2"):
        raise ClassifierError(
            f"{classifier.spec}: only a classifier from timm, torchvision or a Python function "
            "can be trained further"
        )
    network = copy.deepcopy(classifier.module).requires_grad_(True)
    if anew:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in network.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
    return network


def drawn_anew(classifier: Classifier, seed: int = 0) -> Classifier:
    """The same classifier with all weights drawn anew.

    Raises:
        ClassifierError: as for `trainable`.
    """
    network = trainable(classifier, anew=True, seed=seed)
    known = classifier.network
    digest = digest_of_module(network, known.source, known.options)
    return Classifier(
        replace(known, answer=network, digest=digest), spec=f"{classifier.spec}, anew"
    )
