"""From logits to a decision: probabilities, what is predicted, and what a loss compares.

`OneClass` takes the softmax: one class of an image is true. `EachClass` takes the sigmoid of each
logit: any number of classes may be true. All code that needs a probability asks a decision, which
`find_decision` returns for a classifier.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from apercu.types import Images, Logits, LogitsFn, Scores, Targets

SMALLEST_PROBABILITY = 1e-12
"""What a probability of 0 is taken for, so that its logarithm is finite."""


class Decision(ABC):
    """How the logits of an image become probabilities and predicted classes.

    Attributes:
        is_multiple: whether several classes of an image may be predicted, or none.
    """

    is_multiple: ClassVar[bool]

    @abstractmethod
    def probabilities(self, logits: Logits) -> Float[Tensor, "batch classes"]:
        """Return the probabilities of all classes, `batch × classes`."""

    @abstractmethod
    def log_probabilities(self, logits: Logits) -> Float[Tensor, "batch classes"]:
        """Return the logarithms of the probabilities of all classes, `batch × classes`."""

    @abstractmethod
    def margin(self, logits: Logits, targets: Targets) -> Scores:
        """Return by how much each image's target is predicted; below 0 where it is not."""

    @abstractmethod
    def find_predicted(self, logits: Logits) -> Bool[Tensor, "batch classes"]:
        """Return which classes are predicted, `batch × classes`."""

    @abstractmethod
    def is_predicted(self, logits: Logits, targets: Targets) -> Bool[Tensor, " batch"]:
        """Return whether each image's target is predicted."""

    @abstractmethod
    def agreement(self, first: Logits, second: Logits) -> Scores:
        """Return for each image the fraction of the predicted classes that two classifiers share.

        It is 1 or 0 where one class is predicted. Of several, it counts the classes that both
        predict among those that either does (Jaccard's index), and is 1 where neither predicts any:
        most classes are absent from most images, and to agree on those says nothing.
        """

    @abstractmethod
    def cross_entropy(
        self, logits: Logits, probabilities: Float[Tensor, "batch classes"]
    ) -> Scores:
        """Return the cross-entropy of logits with true probabilities, one number per image."""

    @abstractmethod
    def divergence(self, student: Logits, teacher: Logits, temperature: float) -> Tensor:
        """Return how far a student is from its teacher, on the scale of the logits.

        Args:
            student: logits of the student.
            teacher: logits of the teacher.
            temperature: temperature by which both are divided before they are compared.

        Returns:
            The mean over the batch, a scalar.
        """

    @abstractmethod
    def draw_predicted(self, logits: Logits, generator: Generator) -> Targets:
        """Draw a predicted class of each image; the one with the largest logit if there is none."""

    @abstractmethod
    def draw_absent(self, logits: Logits, generator: Generator) -> Targets:
        """Draw another class of each image, one that is not predicted if there is one."""

    @abstractmethod
    def restore_logits(self, probabilities: Float[Tensor, "batch classes"]) -> Logits:
        """Return logits that have these probabilities."""

    def log_probability(self, logits: Logits, targets: Targets) -> Scores:
        """Return the logarithm of the probability of each image's target."""
        return self.log_probabilities(logits).gather(1, targets[:, None])[:, 0]

    def probability(self, logits: Logits, targets: Targets) -> Scores:
        """Return the probability of each image's target."""
        return self.probabilities(logits).gather(1, targets[:, None])[:, 0]

    @abstractmethod
    def target_cross_entropy(self, logits: Logits, targets: Targets) -> Scores:
        """Return the cross-entropy of logits with one target per image, one number per image."""


@final
class OneClass(Decision):
    """One class is predicted, that of the largest logit; probabilities are a softmax."""

    is_multiple = False

    def probabilities(self, logits: Logits) -> Float[Tensor, "batch classes"]:
        return logits.softmax(1)

    def log_probabilities(self, logits: Logits) -> Float[Tensor, "batch classes"]:
        return logits.log_softmax(1)

    def margin(self, logits: Logits, targets: Targets) -> Scores:
        own = logits.gather(1, targets[:, None])
        others = logits.scatter(1, targets[:, None], float("-inf"))
        return (own - others.max(1, keepdim=True).values).squeeze(1)

    def target_cross_entropy(self, logits: Logits, targets: Targets) -> Scores:
        return F.cross_entropy(logits, targets, reduction="none")

    def find_predicted(self, logits: Logits) -> Bool[Tensor, "batch classes"]:
        return _mark_top(logits)

    def is_predicted(self, logits: Logits, targets: Targets) -> Bool[Tensor, " batch"]:
        return logits.argmax(1) == targets

    def agreement(self, first: Logits, second: Logits) -> Scores:
        return (first.argmax(1) == second.argmax(1)).float()

    def cross_entropy(
        self, logits: Logits, probabilities: Float[Tensor, "batch classes"]
    ) -> Scores:
        return -(probabilities * logits.log_softmax(1)).sum(1)

    def divergence(self, student: Logits, teacher: Logits, temperature: float) -> Tensor:
        divergence = F.kl_div(
            F.log_softmax(student / temperature, dim=1),
            F.log_softmax(teacher / temperature, dim=1),
            log_target=True,
            reduction="batchmean",
        )
        return divergence * temperature**2

    def restore_logits(self, probabilities: Float[Tensor, "batch classes"]) -> Logits:
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()

    def draw_predicted(self, logits: Logits, generator: Generator) -> Targets:
        return logits.argmax(1)

    def draw_absent(self, logits: Logits, generator: Generator) -> Targets:
        count, classes = logits.shape
        shift = torch.randint(1, classes, (count,), generator=generator)
        return (logits.argmax(1) + shift.to(logits.device)) % classes


@final
class EachClass(Decision):
    """Each class is decided by itself: it is predicted where its sigmoid is at least one half."""

    is_multiple = True

    def probabilities(self, logits: Logits) -> Float[Tensor, "batch classes"]:
        return logits.sigmoid()

    def log_probabilities(self, logits: Logits) -> Float[Tensor, "batch classes"]:
        return F.logsigmoid(logits)

    def margin(self, logits: Logits, targets: Targets) -> Scores:
        return logits.gather(1, targets[:, None])[:, 0]

    def target_cross_entropy(self, logits: Logits, targets: Targets) -> Scores:
        return F.softplus(-self.margin(logits, targets))

    def find_predicted(self, logits: Logits) -> Bool[Tensor, "batch classes"]:
        return logits >= 0

    def is_predicted(self, logits: Logits, targets: Targets) -> Bool[Tensor, " batch"]:
        return self.margin(logits, targets) >= 0

    def agreement(self, first: Logits, second: Logits) -> Scores:
        one, other = self.find_predicted(first), self.find_predicted(second)
        either = (one | other).sum(1)
        return torch.where(either == 0, 1.0, (one & other).sum(1) / either.clamp_min(1))

    def cross_entropy(
        self, logits: Logits, probabilities: Float[Tensor, "batch classes"]
    ) -> Scores:
        return F.binary_cross_entropy_with_logits(logits, probabilities, reduction="none").sum(1)

    def divergence(self, student: Logits, teacher: Logits, temperature: float) -> Tensor:
        targets = (teacher / temperature).sigmoid()
        distance = self.cross_entropy(student / temperature, targets)
        lowest = self.cross_entropy(teacher / temperature, targets)
        return (distance - lowest).mean() * temperature**2

    def restore_logits(self, probabilities: Float[Tensor, "batch classes"]) -> Logits:
        inside = clamp_probability(probabilities)
        return inside.log() - torch.log1p(-inside)

    def draw_predicted(self, logits: Logits, generator: Generator) -> Targets:
        top = _mark_top(logits)
        present = self.find_predicted(logits)
        return _draw_allowed(torch.where(present.any(1, keepdim=True), present, top), generator)

    def draw_absent(self, logits: Logits, generator: Generator) -> Targets:
        absent = ~(self.find_predicted(logits) | _mark_top(logits))
        others = ~_mark_top(logits)
        return _draw_allowed(torch.where(absent.any(1, keepdim=True), absent, others), generator)


ONE_CLASS, EACH_CLASS = OneClass(), EachClass()


@final
@dataclass(frozen=True, eq=False)
class DecidedLogits:
    """A function from images to logits that stands for a classifier, with the same decision.

    Args:
        function: images → logits.
        decision: the decision of the classifier.
    """

    function: LogitsFn
    decision: Decision

    def __call__(self, images: Images) -> Logits:
        return self.function(images)


def find_decision(logits_fn: object) -> Decision:
    """Return the decision of a classifier; a plain function of logits predicts one class.

    Args:
        logits_fn: a classifier, or a function from images to logits. What stands for a classifier,
            such as a filter before it, is a `DecidedLogits`.

    Returns:
        The decision.
    """
    decision = getattr(logits_fn, "decision", None)
    return decision if isinstance(decision, Decision) else ONE_CLASS


def clamp_probability(probability: Tensor) -> Tensor:
    """Return probabilities a little inside of 0 and 1, so that both logarithms are finite."""
    limits = torch.finfo(probability.dtype)
    return probability.clamp(max(SMALLEST_PROBABILITY, limits.tiny), 1 - limits.eps / 2)


def _mark_top(logits: Logits) -> Bool[Tensor, "batch classes"]:
    """Return which class of each image has the largest logit, `batch × classes`."""
    top = logits.argmax(1, keepdim=True)
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, top, True)


def _draw_allowed(allowed: Bool[Tensor, "batch classes"], generator: Generator) -> Targets:
    """Draw one of the allowed classes of each image, each with the same probability."""
    indices = allowed.cpu().float().multinomial(1, generator=generator)[:, 0]
    return indices.to(allowed.device)
