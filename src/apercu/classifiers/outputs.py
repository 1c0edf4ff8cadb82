"""From what a network answers to logits, whatever its kind of output."""

from __future__ import annotations

import torch
from torch import Tensor

from apercu.classifiers.card import Output
from apercu.errors import ClassifierError
from apercu.types import Logits

_SMALLEST = 1e-12


def convert_to_logits(raw: object, output: Output, count: int) -> Logits:
    """Turns a network's answer into logits whose softmax is what the network meant.

    Args:
        answer: batch × classes; for `probability` batch × 1 or batch.
        output: what the numbers mean.
        images: how many were asked about.

    Raises:
        ClassifierError: the answer has another form, or a probability leaves [0, 1].
    """
    if not isinstance(raw, Tensor):
        raise ClassifierError(
            f"classifier: expected one tensor as its answer, got {type(raw).__name__}"
        )
    if output == "probability" and raw.ndim == 1:
        raw = raw.unsqueeze(1)
    columns = 1 if output == "probability" else None
    if raw.ndim != 2 or len(raw) != count or columns not in (None, raw.shape[1]):
        raise ClassifierError(
            f"classifier: expected {count} × {columns or 'classes'} numbers as its answer "
            f"({output}), got {' × '.join(map(str, raw.shape))}"
        )
    if output in ("probabilities", "probability"):
        _check_probabilities(raw.detach())
    return convert_to_logits_unchecked(raw, output)


def convert_to_logits_unchecked(raw: Tensor, output: Output) -> Logits:
    """The same without a look at the values, so that it can be traced."""
    raw = raw.float()
    if output in ("logits", "features"):
        return raw
    if output == "probabilities":
        return raw.clamp_min(_SMALLEST).log()
    below_one = 1 - torch.finfo(raw.dtype).eps / 2
    positive = raw.view(-1, 1).clamp(_SMALLEST, below_one)
    return torch.cat((torch.log1p(-positive), positive.log()), dim=1)


def _check_probabilities(raw: Tensor) -> None:
    low, high = (bound.item() for bound in raw.aminmax())
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise ClassifierError(
            f"classifier: expected probabilities in [0, 1], got [{low:.4g}, {high:.4g}]; "
            "say output: logits in its card"
        )
