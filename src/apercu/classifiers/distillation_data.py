"""What a teacher says about the training images, as endless batches for its student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from apercu.classifiers.classifier import Classifier
from apercu.types import Images, Logits

_SHIFT = 1 / 10
"""Pictures move by at most this share of their shorter side."""


@runtime_checkable
class PreparedImages(Protocol):
    """Images that the teacher's `prepare` has brought to size; a list of tensors is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass(frozen=True)
class DistillationData:
    """Images with the teacher's answers to them and to their mirror images.

    Args:
        images: all of them.
        indices: which ones are taught.
        answers: logits, first of the images as they are, then of their mirror images.
    """

    images: PreparedImages
    indices: Int[Tensor, " taught"]
    teacher_logits: Float[Tensor, "2 taught classes"]

    @classmethod
    def query_teacher(
        cls, teacher: Classifier, images: PreparedImages, indices: Tensor, batch: int
    ) -> DistillationData:
        """Asks the teacher twice per image."""
        with torch.no_grad():
            pairs = [
                (teacher(shown), teacher(shown.flip(3)))
                for chosen in torch.split(indices, batch)
                for shown in [stack_images(images, chosen).to(teacher.device)]
            ]
        answers = torch.stack([torch.cat(logits) for logits in zip(*pairs, strict=True)])
        return cls(images, indices, answers.cpu())

    def draw_batches(self, size: int, generator: Generator) -> Iterator[tuple[Images, Logits]]:
        """Endless batches in a fresh order per epoch; half mirrored, all shifted a little.

        Every batch is full, but for fewer images than that.
        """
        size = min(size, len(self.indices))
        waiting = torch.empty(0, dtype=torch.long)
        while True:
            if len(waiting) < size:
                order = torch.randperm(len(self.indices), generator=generator)
                waiting = torch.cat((waiting, order))
            chosen, waiting = waiting[:size], waiting[size:]
            shown = stack_images(self.images, self.indices[chosen])
            mirrored = torch.rand(size, generator=generator) < 0.5
            shown = torch.where(mirrored[:, None, None, None], shown.flip(3), shown)
            yield _shift_randomly(shown, generator), self.teacher_logits[mirrored.long(), chosen]


@torch.no_grad()
def compute_agreement(
    first: Callable[[Images], Logits], second: Callable[[Images], Logits], batches: Iterable[Images]
) -> float:
    """Share of the images for which both name the same class."""
    agreed = [first(images).argmax(1) == second(images).argmax(1) for images in batches]
    return torch.cat(agreed).float().mean().item()


def stack_images(images: PreparedImages, indices: Tensor) -> Images:
    """One batch of the chosen images."""
    return torch.stack([images[index] for index in indices.tolist()])


def _shift_randomly(images: Images, generator: Generator) -> Images:
    """Moves the batch by one random offset, its edges repeated."""
    height, width = images.shape[2:]
    reach = max(1, round(min(height, width) * _SHIFT))
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    top, left = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    return padded[:, :, top : top + height, left : left + width]
