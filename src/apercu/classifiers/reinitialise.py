"""A classifier's network as something to train: a copy, or one with new weights or classes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from apercu.classifiers.card import InputSpec
from apercu.classifiers.classifier import Classifier
from apercu.classifiers.network import Network
from apercu.classifiers.sources.hf import HF_PREFIX, build_hf
from apercu.classifiers.sources.timm import TIMM_PREFIX, create_model
from apercu.classifiers.sources.torchvision import TORCHVISION_PREFIX, build_torchvision
from apercu.classifiers.trust import OWN_FACTORIES
from apercu.errors import ClassifierError
from apercu.own_code import import_attribute
from apercu.types import Images
from apercu.weights import digest_module

TOLERANCE = 1e-4
"""Largest difference of the logits of two networks that are the same, as a fraction of them."""


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
    if classifier.network.source.endswith(".pt2"):
        raise ClassifierError(
            f"{classifier.spec}: is an exported program, which cannot be trained further; begin "
            "with the network that it was made of"
        )
    if classifier.module is None:
        raise ClassifierError(
            f"{classifier.spec}: shows no weights, so it cannot be trained further; expected a "
            "network of timm, torchvision, transformers, or a module in PyTorch"
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
    network = classifier.network.without_temperature()
    digest = digest_module(module, network.source, network.options)
    return Classifier(
        replace(network, forward=module, digest=digest, guard=None), spec=f"{classifier.spec}, anew"
    )


@dataclass(frozen=True)
class NetworkSource:
    """What a card says of how its network is built.

    Args:
        source: source of the network, which is a name of a library, or a function of this package.
        options: options with which the source builds it.
        input: what it expects of its images.
    """

    source: str
    options: Mapping[str, Any]
    input: InputSpec

    def build(self, seed: int) -> nn.Module:
        """Build the network with new random weights.

        Args:
            seed: seed of the weights.

        Returns:
            The network, from normalised images to logits.

        Raises:
            ClassifierError: the library refuses the options.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.source in OWN_FACTORIES:
                build = import_attribute(self.source, "classifier", search_here=False)
                return cast(nn.Module, build(**self.options))
            if self.source.startswith(HF_PREFIX):
                return build_hf(self.source, self.options)
            if self.source.startswith(TORCHVISION_PREFIX):
                return build_torchvision(self.source, self.options, self.input.size)
            return create_model(self.source.removeprefix(TIMM_PREFIX), self.options)

    def digest(self, module: nn.Module) -> str:
        """Return the identity of a network, which is that of the card that it is saved with."""
        source = HF_PREFIX if self.source.startswith(HF_PREFIX) else self.source
        return digest_module(module, source, self.options)

    @torch.no_grad()
    def matches(self, module: nn.Module) -> bool:
        """Whether the source builds a network that computes the same with the same weights."""
        again, weights = self.build(0), module.state_dict()
        expected = again.state_dict()
        if {name: each.shape for name, each in weights.items()} != {
            name: each.shape for name, each in expected.items()
        }:
            return False
        expected.update(weights)  # which keeps the versions of its layers
        again.load_state_dict(expected)
        size = (2, self.input.channels, *self.input.size)
        noise = torch.randn(size, generator=torch.Generator().manual_seed(0))
        parameter = next(module.parameters(), noise)
        noise = noise.to(parameter.device)
        was_training = module.training
        first, second = module.eval()(noise), again.to(noise.device).eval()(noise)
        module.train(was_training)
        return torch.allclose(first, second, TOLERANCE, TOLERANCE * float(first.abs().max()))


def find_source(network: Network, classes: int) -> NetworkSource | None:
    """Find how the source of a network builds it with another number of classes.

    Args:
        network: the network.
        classes: number of classes.

    Returns:
        The source with its options; None where it is no name of timm, torchvision or transformers.
    """
    options = dict(network.options)
    if network.source.startswith(TIMM_PREFIX):
        options.pop("pretrained", None)
        options |= {"num_classes": classes, "in_chans": network.input.channels}
    elif network.source.startswith(TORCHVISION_PREFIX):
        options.pop("weights", None)
        options["num_classes"] = classes
    elif network.source.startswith(HF_PREFIX):
        options["config"] = {**options["config"], "num_labels": classes}
    else:
        return None
    return NetworkSource(network.source, options, network.input)


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
