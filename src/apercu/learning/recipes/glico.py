"""New images of each class from a latent space that is optimised with the labels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.func import functional_call

from apercu.classifiers.distillation_data import stack_images
from apercu.errors import ConfigError
from apercu.learning.recipes.base import AddedImages, Recipe, Task
from apercu.log import warn
from apercu.networks.blocks import build_conv_block
from apercu.run_record import Phase
from apercu.types import Images, Logits, Scores

Codes = Float[Tensor, "images size"]
PHASE = "latent codes"
COARSEST = 4
"""Side of the coarsest map of the generator, in positions."""
SCALES = 3
"""Resolutions at which images are compared, each half of the one before."""
SMALLEST_VARIETY = 0.1
"""Variety of new images, relative to that of the labelled ones, below which they are the same."""


@final
class Glico(Recipe):
    """Adds images that are generated between labelled ones of the same class (Azuri et al. 2020).

    "Generative Latent Implicit Conditional Optimization when Learning from Small Sample" claims
    that a generator and a code for each labelled image, optimised together so that each code gives
    its image and the images keep their class, make new images of every class from as few as 5 or 10
    labelled ones, by spherical interpolation of the codes of a class, and that a classifier that
    learns from them too is better on CIFAR-10, CIFAR-100 and CUB-200, without any other images.

    Ours, as the paper's text is not known in full: images are compared pixel by pixel at three
    resolutions instead of by the features of another network, a small discriminator of the classes
    learns from the labelled images meanwhile, and the new images are made once, before the
    training. The codes are kept in the run folder.

    Attributes:
        samples: number of new images for each labelled one.
        steps: steps of the generator and the codes.
        size: numbers per code.
        width: number of channels of the generator's finest maps.
        resolution: largest side of the generator's maps, in pixels; larger images are enlarged.
        classes: weight of the cross-entropy of interpolated images.
        rate: learning rate of the generator; that of the codes is ten times as high.
    """

    name: ClassVar[str] = "glico"
    samples: int = Field(4, ge=1, le=100)
    steps: int = Field(1000, ge=1)
    size: int = Field(64, ge=2)
    width: int = Field(16, ge=4)
    resolution: int = Field(64, ge=8, le=512)
    classes: float = Field(0.1, ge=0)
    rate: float = Field(1e-3, gt=0)

    def check_task(self, task: Task) -> None:
        if task.decision.is_multiple:
            raise ConfigError(
                "recipe: glico: expected one class per image, as it interpolates in a class"
            )
        counts = task.targets.sum(0).tolist()
        rare = next((c for c, n in zip(task.classes, counts, strict=True) if n < 2), None)
        if rare is not None:
            raise ConfigError(
                f"recipe: glico: the class {rare} has fewer than 2 images to train on, between "
                "which others are generated; label more of them"
            )

    def make_images(self, task: Task) -> AddedImages:
        space = self.optimise_space(task)
        labels = task.targets.argmax(1)
        generator = task.make_generator("glico samples")
        own = torch.arange(len(labels)).repeat_interleave(self.samples)
        codes = interpolate_codes(space.codes.detach().cpu(), own, labels, generator)
        images = GeneratedImages(space, codes)
        variety = measure_relative_variety(task, images, labels[own])
        if variety < SMALLEST_VARIETY:
            warn(
                f"recipe: glico: the generated images of a class are nearly the same (variety "
                f"{variety:.2f}, 1 is that of the labelled ones); give it more steps"
            )
        return AddedImages(images, task.targets[own])

    def optimise_space(self, task: Task) -> LatentSpace:
        """Optimise codes and generator, from where an interrupted training left them."""
        phase = task.make_phase(PHASE, str(self))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=task.make_generator(PHASE))))
            space = LatentSpace(task, self).to(task.device)
        labels = task.targets.argmax(1)
        networks = [*space.generator.parameters(), *space.discriminator.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": networks},
            {"params": [space.codes], "lr": 10 * self.rate},
        ]
        optimiser = torch.optim.Adam(groups, lr=self.rate)
        done = self._load(phase, space, optimiser)

        def make_state() -> dict[str, object]:
            return {
                "steps": step + 1,
                "space": space.state_dict(),
                "optimiser": optimiser.state_dict(),
            }

        space.train()
        for step in range(done, self.steps):
            draws = task.make_generator(f"{PHASE} {step}")
            rows = torch.randint(len(labels), (min(32, 2 * len(labels)),), generator=draws)
            images = stack_images(task.images, rows).to(task.device)
            terms = self.compute_losses_of(space, images, rows, labels, draws)
            optimiser.zero_grad()
            torch.autograd.backward(torch.stack([each.mean() for each in terms.values()]).sum())
            optimiser.step()
            phase.note(step + 1, self.steps, make_state)
        if done < self.steps:
            phase.save({"steps": self.steps, "space": space.state_dict()})
        return space.eval().requires_grad_(False)

    def _load(self, phase: Phase, space: LatentSpace, optimiser: torch.optim.Optimizer) -> int:
        """Load the state that was kept; return the number of steps that are done."""
        state = phase.load()
        if not state:
            return 0
        weights = {  # older folders have another name for the discriminator
            name.replace("judge.", "discriminator."): each for name, each in state["space"].items()
        }
        space.load_state_dict(weights)
        if "optimiser" in state:
            optimiser.load_state_dict(state["optimiser"])
        return int(state["steps"])

    def compute_losses_of(
        self,
        space: LatentSpace,
        images: Images,
        rows: Tensor,
        labels: Tensor,
        draws: Generator,
    ) -> dict[str, Scores]:
        """Compute the terms of a step of the latent space.

        Args:
            space: codes, generator and discriminator.
            images: labelled images of the step.
            rows: their indices.
            labels: classes of all labelled images.
            draws: source of all draws.

        Returns:
            Terms by name, one number per image.
        """
        targets = labels[rows].to(images.device)
        terms = {
            "images": compare_images(space(space.codes[rows]), images),
            "discriminator": F.cross_entropy(
                space.discriminator(images), targets, reduction="none"
            ),
        }
        if self.classes:
            between = space(interpolate_codes(space.codes, rows, labels, draws))
            fixed = {name: value.detach() for name, value in space.discriminator.named_parameters()}
            logits: Logits = functional_call(space.discriminator, fixed, (between,))
            terms["classes"] = self.classes * F.cross_entropy(logits, targets, reduction="none")
        return terms


class LatentSpace(nn.Module):
    """A code for each labelled image, a generator of images, and a discriminator of the classes.

    Args:
        task: the labelled images.
        recipe: its settings.
    """

    def __init__(self, task: Task, recipe: Glico) -> None:
        super().__init__()
        channels, self.shape = task.start.channels, task.start.size
        size, width = recipe.size, recipe.width
        finest = min(recipe.resolution, *self.shape)
        doublings = max(1, (finest // COARSEST - 1).bit_length())
        widths = [min(128, width * 2 ** (doublings - each)) for each in range(doublings + 1)]
        self.codes = nn.Parameter(torch.randn(len(task.images), size))
        self.generator = nn.Sequential(
            nn.Linear(size, widths[0] * COARSEST**2),
            nn.Unflatten(1, (widths[0], COARSEST, COARSEST)),
            *(
                nn.Sequential(nn.Upsample(scale_factor=2), build_conv_block(first, second))
                for first, second in pairwise(widths)
            ),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        self.discriminator = nn.Sequential(
            build_conv_block(channels, width, stride=2),
            build_conv_block(width, 2 * width, stride=2),
            build_conv_block(2 * width, 4 * width, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, len(task.classes)),
        )

    def forward(self, codes: Codes) -> Images:
        """Generate an image in [0, 1] of each code; only the code's direction counts."""
        maps = self.generator(F.normalize(codes, dim=1))
        return F.interpolate(maps, self.shape, mode="bilinear", align_corners=False).sigmoid()


class GeneratedImages:
    """Images of a generator by index, made when they are read.

    Args:
        space: the generator, in evaluation mode.
        codes: one code per image.
    """

    def __init__(self, space: LatentSpace, codes: Codes) -> None:
        self.space, self.codes = space, codes

    def __len__(self) -> int:
        return len(self.codes)

    @torch.no_grad()
    def __getitem__(self, index: int, /) -> Tensor:
        code = self.codes[index][None].to(self.space.codes.device)
        image: Tensor = self.space(code)[0].cpu()
        return image


def interpolate_codes(
    codes: Codes, rows: Tensor, labels: Tensor, generator: Generator
) -> Float[Tensor, "rows size"]:
    """Interpolate between each code and another one of its class, at a random fraction.

    Args:
        codes: codes of all labelled images.
        rows: indices of the first codes.
        labels: classes of all labelled images.
        generator: source of the draws.

    Returns:
        One code per row.
    """
    same = (labels[rows][:, None] == labels[None]).float()
    same[torch.arange(len(rows)), rows] = 0
    others = torch.multinomial(same, 1, generator=generator)[:, 0]
    fractions = torch.rand(len(rows), generator=generator).to(codes)
    return interpolate_spherically(codes[rows], codes[others], fractions)


def interpolate_spherically(
    first: Codes, second: Codes, fractions: Float[Tensor, " images"]
) -> Codes:
    """Return codes of length 1 on the shortest arc from the first to the second."""
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    cosines = (first * second).sum(1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6)
    angles, fractions = cosines.acos(), fractions[:, None]
    parts = ((1 - fractions) * angles).sin() * first + (fractions * angles).sin() * second
    return parts / angles.sin()


def compare_images(images: Images, expected: Images) -> Scores:
    """Return the sum of the mean absolute differences at several resolutions, one per image."""
    total = images.new_zeros(len(images))
    for _ in range(SCALES):
        total = total + (images - expected).abs().mean((1, 2, 3))
        images, expected = F.avg_pool2d(images, 2), F.avg_pool2d(expected, 2)
    return total


def measure_relative_variety(task: Task, images: GeneratedImages, labels: Tensor) -> float:
    """Return the variance of generated images of a class, relative to that of labelled ones.

    Args:
        task: the labelled images.
        images: generated images.
        labels: classes of the generated images.

    Returns:
        The mean over the classes.
    """
    own, ratios = task.targets.argmax(1), []
    for index in range(len(task.classes)):
        variances = []
        for source, classes in ((images, labels), (task.images, own)):
            rows = (classes == index).nonzero()[:, 0][:64]
            variances.append(float(stack_images(source, rows).var(0, unbiased=False).mean()))
        ratios.append(variances[0] / max(variances[1], 1e-12))
    return sum(ratios) / len(ratios)
