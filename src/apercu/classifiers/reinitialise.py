"""A classifier's network as something to train: a copy, or with all weights drawn anew."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from apercu.classifiers.classifier import Classifier
from apercu.classifiers.fingerprint import digest_module
from apercu.classifiers.sources.timm import TIMM_PREFIX, create_model
from apercu.errors import ClassifierError
from apercu.types import Images


def copy_trainable(
    classifier: Classifier, *, reinitialise: bool = False, seed: int = 0
) -> nn.Module:
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
    if reinitialise:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            left = _reset_parameters(network)
            if left and classifier.network.source.startswith(TIMM_PREFIX):
                known = classifier.network
                classes = 0 if known.output == "features" else len(classifier.classes)
                options = {"in_chans": classifier.channels, "num_classes": classes}
                options |= {**known.options, "pretrained": False}
                fresh = create_model(known.source.removeprefix(TIMM_PREFIX), options).state_dict()
                network.load_state_dict({name: fresh[name] for name in left}, strict=False)
            elif left:
                raise ClassifierError(
                    f"{classifier.spec}: {left[0]} cannot be drawn anew; its module has no "
                    "reset_parameters"
                )
    return network


def _reset_parameters(network: nn.Module) -> list[str]:
    """Draws the parameters of all layers that can; names of those that are left as they were."""
    left = []
    for name, module in network.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            continue
        own = module.named_parameters(recurse=False)
        left += [f"{name}.{one}" if name else one for one, _ in own]
    return left


def reinitialise_classifier(
    classifier: Classifier, batches: Iterable[Images], seed: int = 0
) -> Classifier:
    """The same classifier with all weights drawn anew, and statistics of some images.

    Without them its batch norms would let the features die away or grow from layer to layer.

    Args:
        classifier: stays as it is.
        shown: batches of images, of which batch norms take their means and variances.
        seed: of the weights.

    Raises:
        ClassifierError: as for `trainable`.
    """
    network = copy_trainable(classifier, reinitialise=True, seed=seed)
    recalibrate_batchnorm(
        network, (classifier.normalise(images.to(classifier.device)) for images in batches)
    )
    known = classifier.network
    digest = digest_module(network, known.source, known.options)
    return Classifier(
        replace(known, forward=network, digest=digest), spec=f"{classifier.spec}, anew"
    )


@torch.no_grad()
def recalibrate_batchnorm(network: nn.Module, batches: Iterable[Images]) -> None:
    """Gives batch norms the means and variances of some normalised images; ends in inference.

    What they have gathered while weights changed belongs to weights that are no more.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    network.eval()
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for images in batches:
        network(images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    network.eval()
