"""A classifier's network as something to train: a copy, or one with new random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from apercu.classifiers.classifier import Classifier
from apercu.classifiers.sources.timm import TIMM_PREFIX, create_model
from apercu.errors import ClassifierError
from apercu.types import Images
from apercu.weights import digest_module


def copy_trainable(
    classifier: Classifier, *, reinitialise: bool = False, seed: int = 0
) -> nn.Module:
    """Return a copy of the classifier's network whose parameters take gradients.

    Args:
        classifier: the classifier, which is not changed.
        reinitialise: whether all weights get new random values, by the rules of their layers.
        seed: seed of the new weights.

    Returns:
        The network, in evaluation mode.

    Raises:
        ClassifierError: the classifier is a black box or an exported program, or a layer has no
            rule for new weights.
    """
    if classifier.module is None or classifier.network.source.endswith(".pt2"):
        raise ClassifierError(
            f"{classifier.spec}: only a classifier from timm, torchvision or a Python function "
            "can be trained further"
        )
    module = copy.deepcopy(classifier.module).requires_grad_(True)
    if reinitialise:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _reinitialise_module(module, classifier)
    return module


def reinitialise_classifier(
    classifier: Classifier, batches: Iterable[Images], seed: int = 0
) -> Classifier:
    """Return the same classifier with new random weights, and batch statistics of some images.

    Without these statistics the features would vanish or grow from layer to layer.

    Args:
        classifier: the classifier, which is not changed.
        batches: batches of images from which batch norms take their means and variances.
        seed: seed of the new weights.

    Returns:
        The new classifier.

    Raises:
        ClassifierError: as for `copy_trainable`.
    """
    module = copy_trainable(classifier, reinitialise=True, seed=seed)
    recalibrate_batchnorm(
        module, (classifier.normalise(images.to(classifier.device)) for images in batches)
    )
    network = classifier.network
    digest = digest_module(module, network.source, network.options)
    return Classifier(
        replace(network, forward=module, digest=digest, guard=None), spec=f"{classifier.spec}, anew"
    )


@torch.no_grad()
def recalibrate_batchnorm(
    network: nn.Module, batches: Iterable[Images], norms: Sequence[_BatchNorm] | None = None
) -> None:
    """Give batch norms the means and variances of some images, and end in evaluation mode.

    The statistics that they gathered while the weights changed belong to older weights.

    Args:
        network: the network, which is changed.
        batches: batches of normalised images.
        norms: batch norms that get new statistics; all of the network when None.
    """
    if norms is None:
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for images in batches:
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def _reinitialise_module(module: nn.Module, classifier: Classifier) -> None:
    """Give all weights new random values; those without a rule come from a new network of timm."""
    remaining = _reset_parameters(module)
    if not remaining:
        return
    network = classifier.network
    if not network.source.startswith(TIMM_PREFIX):
        raise ClassifierError(
            f"{classifier.spec}: {remaining[0]} cannot be reinitialised; its module has no "
            "reset_parameters"
        )
    classes = 0 if network.output == "features" else classifier.output.columns
    options = {"in_chans": classifier.channels, "num_classes": classes}
    options |= {**network.options, "pretrained": False}
    fresh = create_model(network.source.removeprefix(TIMM_PREFIX), options).state_dict()
    module.load_state_dict({name: fresh[name] for name in remaining}, strict=False)


def _reset_parameters(network: nn.Module) -> list[str]:
    """Reset the layers that can; return the names of the parameters that are unchanged."""
    remaining = []
    for name, module in network.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            continue
        own = module.named_parameters(recurse=False)
        remaining += [f"{name}.{key}" if name else key for key, _ in own]
    return remaining
