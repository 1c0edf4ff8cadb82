"""From what a network answers to logits, whatever its kind of output."""

from __future__ import annotations

import torch
from torch import Tensor

from apercu.classifiers.card import Output
from apercu.errors import ClassifierError
from apercu.types import Logits

_SMALLEST = 1e-12


def to_logits(answer: object, output: Output, images: int) -> Logits:
    """Turns a network's answer into logits whose softmax is what the network meant.

    Args:
        answer: batch × classes; for `probability` batch × 1 or batch.
        output: what the numbers mean.
        images: how many were asked about.

    Raises:
        ClassifierError: the answer has another form, or a probability leaves [0, 1].
    """
    if not isinstance(answer, Tensor):
        raise ClassifierError(
            f"classifier: expected one tensor as its answer, got {type(answer).__name__}"
        )
    if output == "probability" and answer.ndim == 1:
        answer = answer.unsqueeze(1)
    columns = 1 if output == "probability" else None
    if answer.ndim != 2 or len(answer) != images or columns not in (None, answer.shape[1]):
        raise ClassifierError(
            f"classifier: expected {images} × {columns or 'classes'} numbers as its answer "
            f"({output}), got {' × '.join(map(str, answer.shape))}"
        )
    if output in ("probabilities", "probability"):
        _check_probabilities(answer.detach())
    return as_logits(answer, output)


def as_logits(answer: Tensor, output: Output) -> Logits:
    """The same without a look at the values, so that it can be traced."""
    answer = answer.float()
    if output in ("logits", "features"):
        return answer
    if output == "probabilities":
        return answer.clamp_min(_SMALLEST).log()
    below_one = 1 - torch.finfo(answer.dtype).eps / 2
    positive = answer.view(-1, 1).clamp(_SMALLEST, below_one)
    return torch.cat((torch.log1p(-positive), positive.log()), dim=1)


def _check_probabilities(answer: Tensor) -> None:
    low, high = (bound.item() for bound in answer.aminmax())
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise ClassifierError(
            f"classifier: expected probabilities in [0, 1], got [{low:.4g}, {high:.4g}]; "
            "say output: logits in its card"
        )
