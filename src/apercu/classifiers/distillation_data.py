"""The logits of a teacher for the training images, as endless batches for its student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from apercu.classifiers.classifier import Classifier
from apercu.classifiers.decisions import find_decision
from apercu.run_record import Phase
from apercu.types import Images, Logits

_SHIFT = 1 / 10
"""Largest shift of an image, as a fraction of its shorter side."""


@runtime_checkable
class PreparedImages(Protocol):
    """Images at the size of the teacher, from its `prepare`; a list of tensors is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass(frozen=True)
class DistillationData:
    """Images with the teacher's logits for them and for their mirror images.

    Args:
        images: all images at the size of the teacher.
        indices: indices of the images that the student learns from.
        teacher_logits: logits of the teacher, first for the images as they are, then for their
            mirror images, `2 × indices × classes`.
    """

    images: PreparedImages
    indices: Int[Tensor, " train"]
    teacher_logits: Float[Tensor, "2 train classes"]

    @classmethod
    def query_teacher(
        cls,
        teacher: Classifier,
        images: PreparedImages,
        indices: Tensor,
        batch: int,
        phase: Phase | None = None,
    ) -> DistillationData:
        """Compute the teacher's logits, twice per image.

        Args:
            teacher: the classifier that is distilled.
            images: all images at the size of the teacher.
            indices: indices of the images that the student learns from.
            batch: images per call of the teacher.
            phase: reports the progress and keeps the logits; nothing is kept when None.

        Returns:
            The images with their logits, which are on the CPU.
        """
        phase = phase or Phase("classifier's logits")
        parts: list[Tensor] = list(phase.load().get("logits", []))
        done = sum(part.shape[1] for part in parts)
        phase.note(done, len(indices))
        with torch.no_grad():
            for rows in torch.split(indices[done:], batch) if done < len(indices) else ():
                stacked = stack_images(images, rows).to(teacher.device)
                parts.append(torch.stack([teacher(stacked), teacher(stacked.flip(3))]).cpu())
                done += len(rows)
                phase.note(done, len(indices), lambda: {"logits": [torch.cat(parts, 1)]})
        logits = torch.cat(parts, 1)
        phase.save({"logits": [logits]})
        return cls(images, indices, logits)

    def draw_batches(
        self, size: int, generator: Generator, skip: int = 0
    ) -> Iterator[tuple[Images, Logits]]:
        """Yield endless batches of images and logits: half mirrored, all shifted a little.

        The order of the images is new in each epoch. Every batch is full, unless there are fewer
        images than one batch takes.

        Args:
            size: images per batch.
            generator: source of the randomness, on the CPU.
            skip: batches that are drawn but not yielded, as they were used already.

        Yields:
            Images, and the teacher's logits for them.
        """
        size = min(size, len(self.indices))
        height, width = self.images[int(self.indices[0])].shape[1:]
        reach = max(1, round(min(height, width) * _SHIFT))
        waiting = torch.empty(0, dtype=torch.long)
        for number in count():
            if len(waiting) < size:
                order = torch.randperm(len(self.indices), generator=generator)
                waiting = torch.cat((waiting, order))
            rows, waiting = waiting[:size], waiting[size:]
            mirrored = torch.rand(size, generator=generator) < 0.5
            top, left = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
            if number < skip:
                continue
            images = stack_images(self.images, self.indices[rows])
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
            shifted = padded[:, :, top : top + height, left : left + width]
            yield shifted, self.teacher_logits[mirrored.long(), rows]


@torch.no_grad()
def compute_agreement(
    first: Callable[[Images], Logits], second: Callable[[Images], Logits], batches: Iterable[Images]
) -> float:
    """Return the fraction of the images for which both predict the same class.

    Where the second, a classifier, decides each class by itself, it is the mean fraction of the
    predicted classes that they share, see `Decision.agreement`.
    """
    decision = find_decision(second)
    same = [decision.agreement(first(images), second(images)) for images in batches]
    return torch.cat(same).mean().item()


def stack_images(images: PreparedImages, indices: Tensor) -> Images:
    """Return one batch of the images with these indices."""
    return torch.stack([images[index] for index in indices.tolist()])
