"""ONNX Runtime, or an exported program, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from apercu.deploy.export.graphs import TOP
from apercu.errors import ApercuError
from apercu.types import Images, Targets

LIMIT = 1e-3
"""Largest difference of any number that a graph may have from PyTorch's."""
BATCHES = (1, 2, 5)
JUMP_NOISE = 1e-5
"""A map may jump where a pixel moves by so little; there no two programs agree."""

TrialInputs: TypeAlias = tuple[Images, Targets]
GraphFn: TypeAlias = Callable[[Tensor, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class GraphCheck:
    """How far an exported graph is from PyTorch.

    Attributes:
        difference: the largest of any number of its answers.
        images: how many were asked about.
        jumps: numbers left out, since PyTorch's own jump there when the image moves by `SHAKE`.
    """

    difference: float
    images: int
    jumps: int = 0


def check_outputs(graph: GraphFn, exact: GraphFn, inputs: Iterable[TrialInputs]) -> GraphCheck:
    """Compares answers with those of PyTorch.

    Raises:
        ApercuError: they differ by more than `LIMIT`.
    """
    worst, where, images, jumps = 0.0, "", 0, 0
    for one in inputs:
        expected, found = exact(*one), graph(*one)
        images += len(one[0])
        for name, values in expected.items():
            difference = (found[name].float() - values).abs()
            if difference.amax() > LIMIT:
                jumping = _find_jumps(exact, one, name)
                jumps += int(jumping.sum())
                difference = torch.where(jumping, 0.0, difference)
            if not difference.amax() <= worst:  # NaN counts as worse, too
                worst, where = float(difference.amax()), name
    if not worst <= LIMIT:
        raise ApercuError(
            f"export: {where} differ from PyTorch's by {worst:.3g}, expected at most {LIMIT:g}; "
            "nothing was exported, try other versions of onnxscript and onnxruntime"
        )
    return GraphCheck(worst, images, jumps)


def make_trials(
    shape: Sequence[int], classes: int, real: Images | None = None
) -> Iterator[TrialInputs]:
    """What is asked: batches of several sizes of noise, a flat image, and real images.

    Args:
        shape: channels, height and width of the images.
        classes: how many there are.
        real: images to ask about besides; each also for the class seen most.
    """
    generator = torch.Generator().manual_seed(1)
    for batch in BATCHES:
        images = torch.rand(batch, *shape, generator=generator)
        yield images, torch.randint(TOP, classes, (batch,), generator=generator)
    yield torch.full((1, *shape), 0.5), torch.tensor([TOP])
    if real is not None:
        yield real, torch.full((len(real),), TOP)
        yield real, torch.randint(0, classes, (len(real),), generator=generator)


def make_class_trials(trials: Iterable[TrialInputs], classes: int) -> Iterator[TrialInputs]:
    """Of each batch the first image alone, for as many targets as the batch has images, and more.

    Args:
        asked: batches and their targets.
        classes: how many there are.
    """
    generator = torch.Generator().manual_seed(3)
    for images, targets in trials:
        others = torch.randint(0, classes, (2,), generator=generator)
        yield images[:1], targets
        yield images[:1], torch.cat([targets, others])


def _find_jumps(exact: GraphFn, asked: TrialInputs, name: str) -> Tensor:
    """Where PyTorch's own answer moves by more than the limit for images that hardly do."""
    images, targets = asked
    generator = torch.Generator().manual_seed(2)
    expected = exact(*asked)[name]
    moved = torch.zeros_like(expected, dtype=torch.bool)
    for _ in range(4):
        noise = JUMP_NOISE * torch.randn(images.shape, generator=generator)
        moved |= (exact(images + noise, targets)[name] - expected).abs() > LIMIT
    return moved
