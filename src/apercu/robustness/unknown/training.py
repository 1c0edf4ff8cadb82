"""What the methods that train networks share: the loop, copies of a classifier, small networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeVar, no_type_check

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from apercu.classifiers import Classifier
from apercu.classifiers.reinitialise import copy_trainable
from apercu.errors import ClassifierError
from apercu.filters.checks import check_count, check_positive, check_whole
from apercu.option_strings import MAX_SEED
from apercu.progress import ProgressCallback
from apercu.robustness.unknown.base import UnknownMethod
from apercu.types import Images, Logits, Targets

M = TypeVar("M", bound=nn.Module)
LossFn: TypeAlias = Callable[[Images, Targets], Tensor]
"""A batch of images with their classes → the loss, a scalar."""
REPORT_EVERY = 10
"""Steps between two reports of progress."""
DECAY = 5e-4
"""Decay of weights."""


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast a network of a method is trained.

    Args:
        steps: number of steps.
        batch: images of a step.
        rate: highest learning rate; it rises for a tenth of the steps, and falls to 0.
        seed: seed of batches, weights and noise.
        augment: whether images are mirrored and shifted at random.
    """

    steps: int
    batch: int
    rate: float
    seed: int
    augment: bool = True

    def check(self, name: str) -> None:
        """Raise ConfigError for settings out of range.

        Args:
            name: name of the method, for the error.
        """
        check_count(self.steps, f"{name}: steps")
        check_whole(name, 2, 4096, batch=self.batch)
        check_positive(name, rate=self.rate)
        check_whole(name, 0, MAX_SEED, seed=self.seed)

    def train(
        self,
        parameters: Iterable[nn.Parameter],
        data: tuple[Images, Targets],
        compute_loss: LossFn,
        report: ProgressCallback,
        title: str,
    ) -> None:
        """Take the steps of the training with AdamW.

        Args:
            parameters: what is trained.
            data: images with their classes, of which batches are drawn.
            compute_loss: computes the loss of a batch; random numbers are those of the seed.
            report: receives how far the work is.
            title: name of the work.

        Raises:
            ClassifierError: the loss is no number any more.
        """
        images, labels = data
        optimiser = torch.optim.AdamW(parameters, self.rate, weight_decay=DECAY)
        device = optimiser.param_groups[0]["params"][0].device
        generator = Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed)
            for step in range(self.steps):
                rows = torch.randint(len(images), (self.batch,), generator=generator)
                batch = images[rows]
                if self.augment:
                    batch = augment_images(batch, generator)
                loss = compute_loss(batch.to(device), labels[rows].to(device))
                if not loss.isfinite():
                    raise ClassifierError(
                        f"{title}: the loss is no number after {step} steps; lower the rate"
                    )
                for group in optimiser.param_groups:
                    group["lr"] = self._compute_rate(step)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                if step % REPORT_EVERY == 0 or step + 1 == self.steps:
                    report(title, step + 1, self.steps)

    def _compute_rate(self, step: int) -> float:
        """Return the learning rate of a step: it rises linearly, and falls by a cosine."""
        warmup = max(1, self.steps // 10)
        if step < warmup:
            return self.rate * ((step + 1) / warmup)
        done = (step - warmup) / max(1, self.steps - warmup)
        return self.rate * (0.5 + 0.5 * math.cos(math.pi * done))


@dataclass(frozen=True)
class TrainedUnknownMethod(UnknownMethod):
    """A method that trains a network.

    Args:
        steps: number of steps of the training.
        batch: images of a step.
        rate: highest learning rate.
        seed: seed of weights, batches and noise.
    """

    trains: ClassVar[bool] = True
    steps: int = 1000
    batch: int = 64
    rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        self.make_plan().check(self.name)

    def make_plan(self, *, steps: int | None = None, member: int = 0) -> TrainingPlan:
        """Return how long and how fast a network is trained.

        Args:
            steps: number of steps; those of the method if None.
            member: number of the network, where several are trained with other seeds.

        Returns:
            The plan.
        """
        return TrainingPlan(steps or self.steps, self.batch, self.rate, self.seed + member)


def augment_images(images: Images, generator: Generator) -> Images:
    """Mirror half of the images, and shift the batch by up to an eighth, with mirrored borders.

    Args:
        images: images in [0, 1], `batch × channels × height × width`.
        generator: source of the random numbers.

    Returns:
        Images of the same shape.
    """
    mirror = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    reach = [max(1, side // 8) for side in images.shape[2:]]
    padded = nn.functional.pad(images, (reach[1], reach[1], reach[0], reach[0]), mode="reflect")
    top, left = (int(torch.randint(2 * each + 1, (), generator=generator)) for each in reach)
    return padded[:, :, top : top + images.shape[2], left : left + images.shape[3]]


class CopiedNetwork(nn.Module):
    """A copy of a classifier's network that can be trained: images in [0, 1] → logits.

    Args:
        classifier: the classifier, which is not changed.
        reinitialise: whether all weights get new random values.
        seed: seed of the new weights.

    Raises:
        ClassifierError: the classifier is a black box or an exported program.
    """

    def __init__(self, classifier: Classifier, *, reinitialise: bool = False, seed: int = 0):
        super().__init__()
        self.classifier = [classifier]  # in a list, as it is no part of this module
        self.network = copy_trainable(classifier, reinitialise=reinitialise, seed=seed)

    def begin_training(self) -> CopiedNetwork:
        """Return itself in training mode, with batch norms that keep their statistics.

        Images that a method makes are no images of the classifier, and must not change them.
        """
        self.train()
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    @classmethod
    def restore(
        cls, classifier: Classifier, tensors: Mapping[str, Tensor], part: str = "network"
    ) -> CopiedNetwork:
        """Return the network that `pack` returned the tensors of, in evaluation mode.

        Raises:
            KeyError, RuntimeError: a tensor is missing, or has another shape.
        """
        copied = cls(classifier)
        unpack_module(copied.network, part, tensors)
        return copied

    def pack(self, part: str = "network") -> dict[str, Tensor]:
        """Return the weights and statistics, by names that begin with that of the part."""
        return pack_module(self.network, part)

    def forward(self, images: Images) -> Logits:
        classifier = self.classifier[0]
        raw = self.network(classifier.normalise(images))
        return classifier.network.read_logits_unchecked(raw)


def pack_module(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return the weights and statistics of a module, by names that begin with a prefix."""
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def unpack_module(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Load what `pack_module` returned, and put the module into evaluation mode.

    Raises:
        RuntimeError: a tensor is missing, or has another shape.
    """
    start = f"{prefix}."
    own = {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
    module.load_state_dict(own)
    module.eval().requires_grad_(False)


class ConvEncoder(nn.Module):
    """Images in [0, 1] → a code: convolutions that halve the image until it is 4 pixels or less.

    Args:
        channels: channels of the images.
        size: height and width of the images in pixels.
        width: channels after the first halving; they double up to eight times as many.
        code: numbers of a code.

    Attributes:
        sizes: height and width of the image and of each feature map.
        widths: channels of each feature map.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int, code: int) -> None:
        super().__init__()
        self.sizes, self.widths = [size], [channels]
        blocks: list[nn.Module] = []
        while max(self.sizes[-1]) > 4:
            rows, columns = self.sizes[-1]
            self.sizes.append(((rows + 1) // 2, (columns + 1) // 2))
            self.widths.append(width * 2 ** min(len(blocks), 3))
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(self.widths[-2], self.widths[-1], 3, stride=2, padding=1),
                    nn.BatchNorm2d(self.widths[-1]),
                    nn.LeakyReLU(0.2),
                )
            )
        self.blocks = nn.ModuleList(blocks)
        rows, columns = self.sizes[-1]
        self.head: nn.Module = nn.Linear(self.widths[-1] * rows * columns, code)

    @no_type_check
    def forward(self, images: Images) -> Tensor:
        """Return the codes, `batch × code`."""
        return self.head(self.compute_maps(images)[-1].flatten(1))

    def compute_maps(self, images: Images) -> list[Tensor]:
        """Return the feature maps, finest first."""
        maps = [2 * images - 1]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps[1:]


class ConvDecoder(nn.Module):
    """A code → an image in [0, 1], with the feature maps of an encoder in reverse.

    Args:
        encoder: the encoder.
        code: numbers of a code.
        channels: channels of the images that it makes.
    """

    def __init__(self, encoder: ConvEncoder, code: int, channels: int) -> None:
        super().__init__()
        self.sizes, widths = encoder.sizes, encoder.widths
        self.start = nn.Linear(code, widths[-1] * math.prod(self.sizes[-1]))
        self.first = widths[-1]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(widths[index], max(widths[index - 1], 8), 3, padding=1),
                nn.BatchNorm2d(max(widths[index - 1], 8)),
                nn.ReLU(),
            )
            for index in range(len(widths) - 1, 0, -1)
        )
        self.head = nn.Conv2d(max(widths[0], 8), channels, 3, padding=1)

    def forward(self, codes: Tensor) -> Images:
        """Return the images of the codes, in [0, 1]."""
        features = self.start(codes).view(len(codes), self.first, *self.sizes[-1])
        for block, size in zip(self.blocks, reversed(self.sizes[:-1]), strict=True):
            features = block(nn.functional.interpolate(features, size))
        images: Tensor = self.head(features).sigmoid()
        return images


def make_seeded(seed: int, make: Callable[[], M]) -> M:
    """Return a module whose first weights depend on a seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
