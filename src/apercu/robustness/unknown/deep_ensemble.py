"""Uncertainty from several networks that were trained with other random numbers.

Lakshminarayanan et al. 2017 train a few networks of one architecture from other first weights, and
average their probabilities: better calibrated than one network, and less sure on unknown images.
Their smoothing by attacked images is left out. Our choice of the score is the entropy of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.filters.checks import check_whole
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.unknown.base import KnownImages, UnknownScorer, check_one_class
from apercu.robustness.unknown.max_softmax import compute_entropy
from apercu.robustness.unknown.training import (
    CopiedNetwork,
    TrainedUnknownMethod,
)
from apercu.types import Images, Scores


@final
@dataclass(frozen=True)
class DeepEnsemble(TrainedUnknownMethod):
    """The entropy of the mean of several networks (Lakshminarayanan et al. 2017).

    Args:
        members: number of networks, each of the classifier's architecture, with new weights.
        steps: steps of training of each.
        batch: images of a step.
        rate: learning rate.
        seed: seed of the first network; the next ones count on from it.
    """

    name = "deep_ensemble"
    needs_labels: ClassVar[bool] = True
    members: int = 5
    rate: float = 3e-3

    def __post_init__(self) -> None:
        check_whole(self.name, 2, 100, members=self.members)
        super().__post_init__()

    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        check_one_class(known.classifier, self.name)
        labels = known.require_labels(self.name)
        networks = []
        for member in range(self.members):
            network = CopiedNetwork(
                known.classifier, reinitialise=True, seed=self.seed + member
            ).train()

            def compute_loss(
                images: Images, targets: Tensor, network: CopiedNetwork = network
            ) -> Tensor:
                return F.cross_entropy(network(images), targets)

            self.make_plan(member=member).train(
                network.parameters(),
                (known.images, labels),
                compute_loss,
                report,
                f"network {member + 1} of {self.members}",
            )
            networks.append(network.eval().requires_grad_(False))
        return DeepEnsembleScorer(self, known.classifier, tuple(networks))

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        parts = [f"member_{member}" for member in range(self.members)]
        networks = [CopiedNetwork.restore(classifier, tensors, part) for part in parts]
        return DeepEnsembleScorer(self, classifier, tuple(networks))


@final
@dataclass(frozen=True, eq=False)
class DeepEnsembleScorer(UnknownScorer):
    """The mean of several networks.

    Args:
        method: the method.
        classifier: the classifier whose architecture they have; its own weights are not used.
        networks: the networks.
    """

    method: DeepEnsemble
    classifier: Classifier
    networks: tuple[CopiedNetwork, ...]

    def compute_scores(self, images: Images) -> Scores:
        return compute_entropy(self.compute_probabilities(images))

    def compute_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Return the mean probabilities of all networks."""
        return torch.stack([network(images).softmax(1) for network in self.networks]).mean(0)

    def pack_tensors(self) -> dict[str, Tensor]:
        packed: dict[str, Tensor] = {}
        for member, network in enumerate(self.networks):
            packed |= network.pack(f"member_{member}")
        return packed
