"""How well counterparts pass for films: a small network learns to tell them apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torchmetrics.functional.classification import binary_auroc

BATCH_SIZE, STEPS, LEARNING_RATE = 32, 400, 2e-3


def measure_realism(
    train: Tensor, test: Tensor, make_counterparts: Callable[[Tensor], Tensor], seed: int
) -> float:
    """Measure how well a network that learnt it tells counterparts from films.

    Args:
        train: films in [0, 1] that it learns from, `films × 1 × height × width`.
        test: films of other patients, on which it is measured.
        make_counterparts: function from films to their counterparts, in the same shape.
        seed: seed of the network's weights and of the batches.

    Returns:
        The AUROC on the test films; 0.5 where the network cannot tell them apart.
    """
    generator = Generator().manual_seed(seed)
    torch.manual_seed(seed)
    discriminator = make_discriminator()
    images, is_counterpart = mix_with_counterparts(train, make_counterparts)
    train_discriminator(discriminator, images, is_counterpart, generator)
    images, is_counterpart = mix_with_counterparts(test, make_counterparts)
    with torch.inference_mode():
        batches = torch.split(images, BATCH_SIZE)
        scores = torch.cat([discriminator(batch - 0.5)[:, 0] for batch in batches])
    return round(binary_auroc(scores, is_counterpart.long()).item(), 4)


def mix_with_counterparts(
    films: Tensor, make_counterparts: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return every other film and the counterparts of the rest: no film is there in both forms.

    Args:
        films: films in [0, 1], `films × 1 × height × width`.
        make_counterparts: function from films to their counterparts, in the same shape.

    Returns:
        The images in the shape of the films; and 1 for each counterpart, 0 for each film.
    """
    real, counterparts = films[::2], make_counterparts(films[1::2])
    is_counterpart = torch.cat([torch.zeros(len(real)), torch.ones(len(counterparts))])
    return torch.cat([real, counterparts]), is_counterpart


def make_discriminator() -> nn.Sequential:
    """Return a small network with one logit per film, of random weights."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 24), (24, 48), (48, 96), (96, 96)):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 1))


def train_discriminator(
    discriminator: nn.Module, images: Tensor, is_counterpart: Tensor, generator: Generator
) -> None:
    """Train a network to tell counterparts from films, and set its evaluation mode.

    Args:
        discriminator: a network with one logit per film, which is changed in place.
        images: films and counterparts in [0, 1], `films × 1 × height × width`.
        is_counterpart: 1 for each counterpart, else 0.
        generator: source of the batches and of the films that are mirrored.
    """
    optimiser = torch.optim.AdamW(discriminator.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH_SIZE,), generator=generator)
        batch = images[chosen]
        is_mirrored = torch.rand(BATCH_SIZE, 1, 1, 1, generator=generator) < 0.5
        batch = torch.where(is_mirrored, batch.flip(3), batch)
        logits = discriminator(batch - 0.5)[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, is_counterpart[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    discriminator.eval()
