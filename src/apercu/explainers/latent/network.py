"""A small variational autoencoder, and two heads that predict the classifier's logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeAlias, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from apercu.types import Images, Logits, Scores, Targets

Codes: TypeAlias = Float[Tensor, "batch code"]

HALVINGS = 4
"""Number of times that the encoder halves the side of its pictures."""
GROUPS = 8
"""Groups of channels that are normalised together."""
LOG_VARIANCE_BOUNDS = (-8.0, 4.0)
"""Bounds of the logarithm of a code's variance."""


@dataclass(frozen=True)
class LatentShape:
    """Size of the autoencoder and of its two logit heads.

    Args:
        side: side of its square pictures in pixels, a multiple of 16.
        code: number of values in a code.
        width: channels of the finest features, a multiple of 8; doubled twice on the way down.
        reader: width of the two hidden layers of each logit head.
    """

    side: Annotated[int, Field(ge=16, le=1024, multiple_of=2**HALVINGS)] = 64
    code: Annotated[int, Field(ge=1, le=16384)] = 128
    width: Annotated[int, Field(ge=GROUPS, le=1024, multiple_of=GROUPS)] = 24
    reader: Annotated[int, Field(ge=1, le=16384)] = 256


@final
class LatentNetwork(nn.Module):
    """Encodes images, decodes small pictures, and predicts a classifier's logits from codes.

    Args:
        channels: channels of the images.
        classes: number of classes of the classifier.
        shape: size of the network.
    """

    def __init__(self, channels: int, classes: int, shape: LatentShape) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape.width * scale for scale in (1, 2, 4, 4)]
        self.coarse = widths[-1], shape.side >> HALVINGS, shape.side >> HALVINGS
        values = widths[-1] * (shape.side >> HALVINGS) ** 2
        down = [
            _build_block(inputs, outputs, stride=2)
            for inputs, outputs in zip([channels, *widths], widths, strict=False)
        ]
        up = [
            nn.Sequential(nn.Upsample(scale_factor=2), _build_block(inputs, outputs))
            for inputs, outputs in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True)
        ]
        self.down = nn.Sequential(*down, nn.Flatten(), nn.Linear(values, 2 * shape.code))
        self.start = nn.Linear(shape.code, values)
        self.up = nn.Sequential(*up, nn.Conv2d(widths[0], channels, 3, padding=1))
        self.reader = _build_logit_head(shape, classes)
        self.mover = _build_logit_head(shape, classes)

    def shrink(self, images: Images) -> Float[Tensor, "batch channels side side"]:
        """Return the images at the size of the autoencoder's pictures."""
        side = self.shape.side
        return F.interpolate(images, (side, side), mode="bilinear", antialias=True)

    def encode(self, images: Images) -> tuple[Codes, Codes]:
        """Return the mean and the logarithm of the variance of each image's code."""
        mean, log_variance = self.down(2 * self.shrink(images) - 1).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_BOUNDS)

    def decode(self, codes: Codes) -> Float[Tensor, "batch channels side side"]:
        """Return small pictures in [0, 1]."""
        return self.up(self.start(codes).unflatten(1, self.coarse)).sigmoid()

    def predict_logits(self, codes: Codes) -> Logits:
        """Return an estimate of the classifier's logits for images that have these codes."""
        return self.reader(codes)

    def logit_shift(
        self, codes: Float[Tensor, "*points batch code"]
    ) -> Float[Tensor, "*points batch classes"]:
        """Return values whose difference at two codes estimates the shift of the logits.

        The shift is that of an image which is moved from one code to the other. It is much smaller
        than between two images that have those codes, as their textures differ, too.
        """
        return self.mover(codes)

    def move(self, images: Images, start: Codes, end: Codes) -> Images:
        """Change images as pictures change between two codes; what no code holds stays as it is.

        Args:
            images: images in [0, 1].
            start: their own codes, `batch × code`.
            end: the codes that they should have, `batch × code`.

        Returns:
            The changed images in [0, 1].
        """
        change = self.decode(end) - self.decode(start)
        enlarged = F.interpolate(change, tuple(images.shape[-2:]), mode="bicubic")
        return (images + enlarged).clamp(0, 1)


def _build_logit_head(shape: LatentShape, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(shape.code, shape.reader),
        nn.SiLU(),
        nn.Linear(shape.reader, shape.reader),
        nn.SiLU(),
        nn.Linear(shape.reader, classes),
    )


def _build_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(GROUPS, outputs), nn.SiLU()
    )


Path = Float[Tensor, "points batch code"]

ADAM_EPSILON = 0.01
"""Gradients below it are not enlarged by the optimiser, so that rounding does not decide."""


@dataclass(frozen=True)
class Lagrangian:
    """The cost of a path: its kinetic energy, and the cross-entropy with the target along it.

    With z(t) for t in [0, 1], z(0) fixed and z(1) free, the integral over t of
    ½ |dz/dt|² − evidence · log p(target | z), and − evidence · log p(target | z(1)) for the end.
    After the semantic Lagrangian of Ojeda-Marin et al. (2020), whose two ends are both given.

    Args:
        points: number of codes on a path, both ends included.
        evidence: weights of the cross-entropy, which are tried in order until the end of the path
            is convincing; else the path of the last one is taken.
        convinced: probability of the target that is convincing.
        steps: number of steps of the descent.
        rate: learning rate of the descent.
    """

    points: Annotated[int, Field(ge=3, le=1000)] = 7
    evidence: tuple[Annotated[float, Field(gt=0)], ...] = (10.0, 30.0, 100.0, 300.0)
    convinced: Annotated[float, Field(gt=0, lt=1)] = 0.9
    steps: Annotated[int, Field(ge=1)] = 150
    rate: Annotated[float, Field(gt=0)] = 0.05

    def compute_cost(
        self, path: Path, logits_fn: Callable[[Tensor], Tensor], targets: Targets, evidence: Tensor
    ) -> Scores:
        """Return the Lagrangian of each path, with a sum over the points for the integral.

        Args:
            path: codes of the paths, `points × batch × code`.
            logits_fn: function from the codes of all points to logits; it is called once.
            targets: target class of each path.
            evidence: weight of the cross-entropy of each path.

        Returns:
            The cost of each path, `batch`.
        """
        pieces = self.points - 1
        kinetic = pieces / 2 * path.diff(dim=0).square().sum((0, 2))
        logits = logits_fn(path).flatten(0, 1)
        entropies = F.cross_entropy(logits, targets.repeat(len(path)), reduction="none")
        entropies = entropies.view(path.shape[:2])
        return kinetic + evidence * (entropies[1:].mean(0) + entropies[-1])

    @torch.enable_grad()
    def find_path(
        self, start: Codes, logits_fn: Callable[[Tensor], Tensor], targets: Targets
    ) -> tuple[Path, Scores]:
        """Find the cheapest path from each code to one whose predicted class is the target.

        Args:
            start: codes at which the paths begin, `batch × code`.
            logits_fn: differentiable function from codes to logits, one row per code of `start`;
                codes may have an axis of points before that of the batch.
            targets: target class of each path.

        Returns:
            The paths, `points × batch × code`, and the probability of the target at their ends.
        """
        best = torch.stack([start] * self.points)
        probability = torch.zeros(len(start), device=start.device)
        unconvinced = torch.ones(len(start), dtype=torch.bool, device=start.device)
        for evidence in self.evidence:
            path = self._descend(start, logits_fn, targets, evidence)
            at_end = logits_fn(path[-1]).softmax(1).gather(1, targets[:, None])[:, 0].detach()
            best = torch.where(unconvinced[:, None], path, best)
            probability = torch.where(unconvinced, at_end, probability)
            unconvinced &= at_end < self.convinced
            if not unconvinced.any():
                break
        return best, probability

    def _descend(
        self, start: Codes, logits_fn: Callable[[Tensor], Tensor], targets: Targets, evidence: float
    ) -> Path:
        weight = torch.full((len(start),), evidence, device=start.device)
        offsets = torch.zeros(
            self.points - 1, *start.shape, device=start.device, requires_grad=True
        )
        optimiser = torch.optim.Adam([offsets], lr=self.rate, eps=ADAM_EPSILON)
        for _ in range(self.steps):
            path = torch.cat([start[None], start + offsets])
            (gradient,) = torch.autograd.grad(
                self.compute_cost(path, logits_fn, targets, weight).sum(), offsets
            )
            offsets.grad = gradient
            optimiser.step()
        return torch.cat([start[None], start + offsets]).detach()
