"""Try a network on plain images before it is used: how it takes them, and what gradients it gives.

Networks of people write into their images, flatten them by `view`, keep dropout on, or cut their
gradients off. What a network cannot do is not tried, and a warning or an error says so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from apercu.classifiers.card import InputSpec
from apercu.classifiers.network import list_tensors
from apercu.classifiers.preprocessing import normalise
from apercu.devices import choose_memory_format
from apercu.errors import ApercuError, ClassifierError, FunctionError, first_line
from apercu.log import warn
from apercu.types import Images

_ROUNDING = 0.02
"""Difference between two outputs, as a fraction of the largest number, that rounding may make."""
_CHANCE = 1e-4
"""The same for two runs of the same images; a larger one is taken for chance."""
_OTHER_DTYPE = ("same dtype", "bias type", "weight type", "expected scalar type")
"""Words of the errors of PyTorch where two tensors have different precisions."""
_DTYPE_ADVICE = (
    "its weights are used in float32, and its forward converts numbers to another precision: let "
    "it convert them to that of its weights, or leave them as they are"
)


@dataclass(frozen=True)
class TensorLayout:
    """The precision and the order in memory in which a network takes its images.

    Args:
        dtype: precision; that of the images if None.
        memory_format: order of the numbers in memory.
    """

    dtype: torch.dtype | None = None
    memory_format: torch.memory_format = torch.contiguous_format

    def normalise(self, images: Images, spec: InputSpec) -> Images:
        """Return normalised images in this layout, in memory of their own.

        Args:
            images: images in [0, 1], `batch × channels × height × width`.
            spec: the normalisation.

        Returns:
            What the network receives, of the same shape. The network may write into it.
        """
        arranged = normalise(images, spec)
        if self.dtype is not None:
            arranged = arranged.to(self.dtype)
        arranged = arranged.contiguous(memory_format=self.memory_format)
        return arranged.clone() if arranged is images else arranged


CHANNELS_LAST = TensorLayout(memory_format=torch.channels_last)
"""The layout in which convolutions are fastest."""


@dataclass(eq=False)
class NetworkProbe:
    """Runs of a network on images, with errors that name the classifier.

    Args:
        forward: normalised images → output of the network; a tensor of one row per image for
            `choose_layout` and `find_gradient_fault`.
        input: what the network expects of its images.
        spec: name of the classifier, for messages.
        device: device of the network.
        layout: how it takes its images; `choose_layout` sets it.
    """

    forward: Callable[[Tensor], Any]
    input: InputSpec
    spec: str
    device: torch.device
    layout: TensorLayout

    def run(self, images: Images) -> Any:
        """Return the output of the network for images in [0, 1], without gradients.

        Raises:
            ClassifierError: the network fails.
        """
        try:
            with torch.inference_mode(False), torch.no_grad():
                return self._run(images)
        except FunctionError as failure:
            raise self._describe_failure(
                images, failure.__cause__ or failure
            ) from failure.__cause__
        except ApercuError:
            raise
        except Exception as error:
            raise self._describe_failure(images, error) from error

    def _describe_failure(self, images: Images, error: BaseException) -> ClassifierError:
        """Return the error of a network that cannot classify these images."""
        count = "an image" if len(images) == 1 else f"{len(images)} images"
        reason = first_line(error)
        if isinstance(error, LookupError):  # its message is a key alone
            reason = f"{type(error).__name__}: {reason}"
        advice = getattr(self.forward, "takes", "")
        if not advice and any(word in str(error) for word in _OTHER_DTYPE):
            advice = _DTYPE_ADVICE
        advice = advice or f"check its input{self._suggest_input(images)}"
        return ClassifierError(
            f"classifier {self.spec} cannot classify {count} of "
            f"{'×'.join(map(str, images.shape[1:]))}: {reason.rstrip('.')}; {advice}"
        )

    @torch.no_grad()
    def _suggest_input(self, images: Images) -> str:
        """Return what a network takes that cannot classify these images, or nothing."""
        given = self.layout.normalise(images, self.input)
        bytes_given = (images * 255).round().byte()
        trials = {
            "it takes images with the channels last; set options.layout to nhwc in the card of an "
            "ONNX file, or wrap it in a module that calls it with images.permute(0, 2, 3, 1)": (
                given.permute(0, 2, 3, 1)
            ),
            "it takes bytes; wrap it in a module that calls it with "
            "(images * 255).round().byte()": bytes_given,
            "it takes bytes with the channels last; wrap it in a module that calls it with "
            "(images * 255).round().byte().permute(0, 2, 3, 1)": bytes_given.permute(0, 2, 3, 1),
        }
        weights = (weight for weight in _list_weights(self.forward) if weight.ndim == 4)
        counts = [weight.shape[1] for weight in weights][:1]
        for count in dict.fromkeys((*counts, 1, 3)):
            if count != images.shape[1]:
                text = f"it takes images of {count} channel{'s' * (count > 1)} (channels={count})"
                trials[text] = given[:, :1].expand(-1, count, -1, -1)
        for text, trial in trials.items():
            with suppress(Exception):
                tensors = list_tensors(self.forward(trial.contiguous()))
                if tensors and all(_has_numbers(each, len(images)) for each in tensors.values()):
                    return f": {text}"
        with suppress(Exception):
            if len(images) > 1 and list_tensors(self.forward(given[:1].contiguous())):
                return (
                    ": it takes one image at a time; wrap it in a module that returns "
                    "torch.cat([network(image) for image in images.split(1)])"
                )
        return ""

    def choose_layout(self, module: nn.Module | None) -> TensorLayout:
        """Return the layout with channels last where a module gives the same numbers in it.

        A warning says if the numbers depend on chance, or on the other images of a batch.

        Args:
            module: the network, or the module that holds it; its weights are laid out, too. None
                where it cannot be reached, so that the layout stays as it is.

        Returns:
            The layout.

        Raises:
            ClassifierError: the network cannot classify two images at once.
        """
        images = _make_images(self.input, self.device)
        expected = self.run(images)
        in_other_batch = torch.stack([images[1], 1 - images[1]])  # the second image comes first
        chance = max(_CHANCE, 4 * torch.finfo(self.layout.dtype or torch.float32).eps)
        is_steady = self._gives(expected, images, chance)
        if (
            is_steady
            and module is not None
            and self._try_channels_last(module, expected[1:], in_other_batch)
        ):
            return self.layout
        if not (is_steady and self._gives(expected, images, chance)):  # twice, as chance may agree
            warn(
                f"classifier {self.spec} gives other numbers for the same image each time, as with "
                "dropout that stays on; its explanations change in the same way"
            )
        elif not self._gives(expected[1:], in_other_batch, _ROUNDING):
            warn(
                f"classifier {self.spec} gives other numbers for an image if other images are in "
                "its batch, as with batch statistics; results depend on the batches"
            )
        return self.layout

    def find_gradient_fault(self) -> str:
        """Return why no gradient reaches the images; an empty text where one does."""
        images = _make_images(self.input, self.device).requires_grad_()
        try:
            with (
                torch.inference_mode(False),
                torch.random.fork_rng(devices=[]),
                torch.enable_grad(),
            ):
                numbers = self._run(images).flatten(1).float()
                if not numbers.requires_grad:
                    return "its forward cuts them off, by no_grad, detach or the like"
                weights = torch.linspace(0.5, 1.0, numbers.shape[1], device=numbers.device)
                score = (numbers * weights).sum()
                (gradient,) = torch.autograd.grad(score, images, allow_unused=True)
        except (RuntimeError, TypeError) as error:
            return first_line(error)
        if gradient is not None and not gradient.isfinite().all():
            return "they are NaN or infinite, as behind the square root of 0"
        if gradient is not None and gradient.any():
            return ""
        if torch.equal(numbers[0], numbers[1]):
            warn(
                f"classifier {self.spec} gives the same numbers for two different images; "
                "check its weights and its input"
            )
            return ""
        return "they are zero everywhere, as behind rounding or a probability of exactly 1"

    def _run(self, images: Images) -> Any:
        return self.forward(self.layout.normalise(images, self.input))

    def _try_channels_last(self, module: nn.Module, expected: Tensor, images: Images) -> bool:
        """Set the layout with channels last if the first images have these numbers in it."""
        if choose_memory_format(module) != torch.channels_last:
            return False
        before = self.layout
        with suppress(RuntimeError):  # weights of five dimensions
            module.to(memory_format=torch.channels_last)
            self.layout = replace(before, memory_format=torch.channels_last)
            if self._gives(expected, images, _ROUNDING):
                return True
        module.to(memory_format=torch.contiguous_format)
        self.layout = before
        return False

    def _gives(self, expected: Tensor, images: Images, tolerance: float) -> bool:
        """Whether the first images have these numbers, up to a fraction of the largest one."""
        try:
            numbers = self.run(images)[: len(expected)]
        except ClassifierError:
            return False
        limit = tolerance * max(1e-3, expected.abs().max().item())
        return bool((numbers - expected).abs().max() <= limit)


def freeze_module(module: nn.Module) -> None:
    """Put a module into evaluation mode, even if it overrides `train`; freeze its parameters."""
    with suppress(NotImplementedError):  # exported modules have no modes
        module.eval()
    make_leaves(module)
    module.requires_grad_(False)
    for part in module.modules():
        if part.training:
            part.training = False


def make_leaves(module: nn.Module) -> None:
    """Cut the parameters of a copied module off from those of the original.

    Those of a scripted layer are computed from them.
    """
    for parameter in module.parameters():
        if not parameter.is_leaf:
            parameter.detach_()


def find_dtype(forward: object) -> torch.dtype | None:
    """Return the precision of the first weight of a network; None where it has none."""
    weights = _list_weights(forward)
    return next((weight.dtype for weight in weights if weight.is_floating_point()), None)


def find_device(forward: object) -> torch.device:
    """Return the device of the first weight of a network; the CPU where it has none."""
    return next((weight.device for weight in _list_weights(forward)), torch.device("cpu"))


def _list_weights(forward: object) -> list[Tensor]:
    """Return parameters and buffers of a module, or of the module that a network holds."""
    module = forward if isinstance(forward, nn.Module) else getattr(forward, "module", None)
    if not isinstance(module, nn.Module):
        return []
    return [*module.parameters(), *module.buffers()]


def _has_numbers(values: Tensor, count: int) -> bool:
    """Whether these are rows of numbers, one for each image."""
    return values.ndim > 0 and len(values) == count and bool(values.isfinite().all())


def _make_images(spec: InputSpec, device: torch.device) -> Images:
    """Return a grey image and one of random dots."""
    shape = (1, spec.channels, *spec.size)
    dots = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.full(shape, 0.5), dots]).to(device)
