"""What the numbers of a network turn out to be, when a classifier is opened.

What cannot be right is refused with the words that would be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from apercu.classifiers.card import InputSpec
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import Network, list_tensors
from apercu.classifiers.outputs import (
    Output,
    check_numbers,
    find_excess,
)
from apercu.errors import ClassifierError, format_shape, suggest_nearest
from apercu.log import warn

WITHOUT_SIGMOID = ("timm/", "torchvision/", "hf/", "apercu.")
"""Beginnings of sources whose networks end with logits; small numbers of them are by chance."""
_KNOWN_LAYERS = ("torch.nn.", "timm.", "torchvision.", "transformers.", "apercu.")
"""Beginnings of the modules whose layers compute a sigmoid in no other way than by `nn.Sigmoid`."""
_TOLERANCE = 1e-3
"""By how much a sum of probabilities may miss 1 to be taken for a softmax."""
_LARGEST_MEAN, _LARGEST_STD = 1, 10
"""Largest mean of pixels in [0, 1], and a std that only larger units have."""
_WHOLES = {100: "percentages", 256: "probabilities as bytes", 255: "probabilities as bytes"}
"""Numbers to which probabilities in other units sum, and their names."""
_NOISE_CELLS = (2, 3, 4, 6, 8, 16)
"""Cells along each side of the generated images."""


def resolve_output(
    network: Network, run: Callable[[Tensor], Any], images: Tensor, spec: str
) -> Network:
    """Return a network with all that is found out of its output: tensor, columns, range.

    Args:
        network: the network, as its source describes it.
        run: images in [0, 1] → all that the network returns.
        images: the images that it is tried on first, `batch × channels × height × width`.
        spec: the classifier, for messages.

    Returns:
        The same network, with `resolved_output` and `resolved_tensor`. Logits that are a softmax
        already are taken for probabilities, unless somebody called them logits.

    Raises:
        ClassifierError: the numbers are not finite, or cannot be what was said.
    """
    raw = run(images)
    network = replace(network, resolved_tensor=find_tensor(network, raw, len(images), spec))
    picked = network.pick_tensor(raw)
    _check_kind(picked, network.output, len(images), spec)
    numbers = check_numbers(picked.float(), network.meaning, len(images), spec)
    _check_finite(numbers, spec)
    if network.resolved_output is not None:  # other weights in a network that is open already
        return network
    _check_units(network.input, spec)
    output = Output(name=network.output, columns=numbers.shape[1], temperature=network.temperature)
    network = replace(network, resolved_output=output)
    if output.name == "value":
        limits = network.value_range or _measure_range(network, run, images, spec)
        output = output.model_copy(update={"value_range": limits})
    elif network.value_range is not None:
        raise ClassifierError(
            f"classifier {spec}: value_range belongs to output: value, got {output.name}"
        )
    elif output.name in ("logits", "sigmoid") and _is_in_unit_range(numbers):
        others = list(_run_generated(network, run, images, spec))
        output = _recognise_probabilities(network, torch.cat((numbers, *others)), spec)
    elif output.name in ("logits", "sigmoid") and _find_whole(numbers) is not None:
        others = list(_run_generated(network, run, images, spec))
        if whole := _find_whole(torch.cat((numbers, *others))):
            raise ClassifierError(
                f"classifier {spec}: its numbers are from 0 to {whole} and sum to {whole} for "
                f"every image, so they are {_WHOLES[whole]} and not {output.name}; divide them by "
                f"{whole} in a module around it, and set output: probabilities"
            )
    return replace(network, resolved_output=output)


def find_tensor(network: Network, raw: object, count: int, spec: str) -> str:
    """Return the name of the tensor that holds the numbers, "" where it has none.

    Args:
        network: the network; its `output_name` has priority.
        raw: all that the network returned.
        count: the number of images that it received.
        spec: the classifier, for messages.

    Returns:
        A name as `list_tensors` gives it.

    Raises:
        ClassifierError: there is no such output, or several could be meant.
    """
    tensors = list_tensors(raw)
    if not tensors:
        raise ClassifierError(
            f"classifier {spec}: expected one tensor as its output, got {type(raw).__name__}; "
            "wrap it in a module that returns the tensor"
        )
    if list(tensors) == [""]:
        return ""
    if network.output_name is not None:
        return _find_named_tensor(tensors, network.output_name, spec)
    if len(tensors) == 1:
        return next(iter(tensors))
    fitting = _list_fitting_tensors(tensors, count, network.names)
    if len(fitting) == 1:
        return fitting[0]
    raise ClassifierError(
        f"classifier {spec}: it returns several tensors, {_list_shapes(tensors)}; say which one "
        "holds the classes: output_name in its card (apercu card … --output-name NAME), "
        "output_name=… for a module in Python"
    )


def make_generated_images(input: InputSpec) -> Float[Tensor, "images channels height width"]:
    """Generate images on which the range of a network's numbers shows: black, white, and noise.

    Args:
        input: what the network expects of its images.

    Returns:
        Images in [0, 1].
    """
    generator = Generator().manual_seed(0)
    plain = [torch.full((1, input.channels, *input.size), value) for value in (0.0, 1.0)]
    noise = [
        F.interpolate(
            torch.rand((1, input.channels, cells, cells), generator=generator),
            input.size,
            mode="bilinear",
        )
        for cells in _NOISE_CELLS
    ]
    return torch.cat((*plain, *noise))


def _find_named_tensor(tensors: Mapping[str, Tensor], word: str, spec: str) -> str:
    """Return the name of the tensor that somebody named, by its name or its position."""
    names = list(tensors)
    if word in names:
        return word
    if word.isascii() and word.isdigit() and int(word) < len(names):
        return names[int(word)]
    raise ClassifierError(
        f"classifier {spec}: it has no output {word!r}; it returns "
        f"{_list_shapes(tensors)}{suggest_nearest(word, tensors)}"
    )


def _list_fitting_tensors(
    tensors: Mapping[str, Tensor], count: int, names: ClassNames | None
) -> list[str]:
    """Return the tensors that may hold the classes: by their shape, their length, then their name.

    One number per image is enough for two classes, or for one.
    """
    fitting = [name for name, values in tensors.items() if _may_be_classes(values, count)]
    if names is not None:
        lengths = (len(names.names), 1) if len(names.names) < 3 else (len(names.names),)
        fitting = [name for name in fitting if tensors[name][:1].numel() in lengths] or fitting
    return [name for name in fitting if name.rpartition(".")[2] == "logits"] or fitting


def _list_shapes(tensors: Mapping[str, Tensor]) -> str:
    shapes = {name or "one tensor": format_shape(each.shape) for name, each in tensors.items()}
    return ", ".join(f"{name} ({shape})" for name, shape in shapes.items())


def _may_be_classes(values: Tensor, count: int) -> bool:
    """Return whether these may be numbers of classes: floats, a row for each image."""
    if values.ndim < 1 or len(values) != count or not values.is_floating_point():
        return False
    return values.ndim <= 2 or values[:1].numel() == max(values.shape[1:])


def _check_kind(values: Tensor, output: str, count: int, spec: str) -> None:
    """Refuse tensors of no real numbers, and the whole number of a predicted class."""
    kinds = {
        "complex": values.is_complex(),
        "nested": values.is_nested,
        "sparse": values.layout not in (torch.strided, torch.jagged),
    }
    if kind := next((kind for kind, holds in kinds.items() if holds), None):
        raise ClassifierError(
            f"classifier {spec}: expected real numbers in a dense tensor as its output, got a "
            f"{kind} one; wrap it in a module that converts it"
        )
    is_whole = not values.is_floating_point()
    if is_whole and values.numel() == count and output != "value":
        raise ClassifierError(
            f"classifier {spec}: it gives one whole number per image, as if it were the predicted "
            "class; expected a number for each class: let it return the logits before the argmax"
        )


def _check_finite(numbers: Tensor, spec: str) -> None:
    if not bool(numbers.isfinite().all()):
        raise ClassifierError(
            f"classifier {spec}: its output for a plain image is no number (NaN) or infinite; "
            "check its weights and its input"
        )


def _check_units(input: InputSpec, spec: str) -> None:
    """Warn of a mean and std in units of bytes; a stretch may have units of its own."""
    largest = {"mean": max(input.mean or (0,)), "std": max(input.std or (0,))}
    limits = {"mean": _LARGEST_MEAN, "std": _LARGEST_STD}
    wrong = {key: value for key, value in largest.items() if value > limits[key]}
    if wrong and input.stretch is None:
        found = " and ".join(f"{key} ({value:.4g})" for key, value in wrong.items())
        warn(
            f"classifier {spec}: its {found} would be in units of 0 to 255, but pixels are in "
            "[0, 1]; divide by 255"
        )


def _run_generated(
    network: Network, run: Callable[[Tensor], Any], images: Tensor, spec: str
) -> Iterator[Tensor]:
    """Yield the numbers of each generated image, `1 × columns`."""
    for image in make_generated_images(network.input).to(images.device):
        raw = run(image[None])
        yield check_numbers(network.pick_tensor(raw).float(), network.meaning, 1, spec)


def _measure_range(
    network: Network, run: Callable[[Tensor], Any], images: Tensor, spec: str
) -> tuple[float, float]:
    """Return the mean value of generated images, plus and minus two standard deviations."""
    values = torch.cat(list(_run_generated(network, run, images, spec))).cpu().double()
    _check_finite(values, spec)
    mean, deviation = values.mean().item(), values.std().item()
    reach = 2 * max(deviation, 1e-3 * abs(mean), 1e-6)
    limits = mean - reach, mean + reach
    warn(
        f"classifier {spec}: no value_range is given; higher and lower are measured from "
        f"[{limits[0]:.4g}, {limits[1]:.4g}], its values for generated images; set "
        "value_range: [low, high] in its card, or value_range=[low, high] in Python"
    )
    return limits


def _recognise_probabilities(network: Network, numbers: Tensor, spec: str) -> Output:
    """Return the output as probabilities where the numbers of all images are a softmax already."""
    output = network.meaning
    if not _is_in_unit_range(numbers):
        return output
    if output.columns != 1 and _sum_to_one(numbers):
        if network.output_is_stated:
            raise ClassifierError(
                f"classifier {spec}: its numbers are in [0, 1] and sum to 1 for every image, "
                f"so they are a softmax already and not {output.name}; set output: probabilities"
            )
        warn(
            f"classifier {spec}: its numbers are in [0, 1] and sum to 1 for every image, so they "
            "are taken for probabilities; set output: probabilities in its card, or "
            "output='probabilities' in Python"
        )
        return output.model_copy(update={"name": "probabilities"})
    if network.source.startswith(WITHOUT_SIGMOID) or _is_without_sigmoid(network.forward):
        return output
    has_one_number = output.columns == 1
    softmax = "" if has_one_number else ", and if there is a softmax, output: probabilities"
    warn(
        f"classifier {spec}: all its numbers are in [0, 1]; if there is a sigmoid inside of it, "
        f"set output: {'probability' if has_one_number else 'sigmoid_probabilities'}{softmax}"
    )
    return output


def _is_without_sigmoid(forward: object) -> bool:
    """Whether a network consists of layers of libraries, none of which is a sigmoid."""
    return isinstance(forward, nn.Module) and all(
        type(part).__module__.startswith(_KNOWN_LAYERS) and not isinstance(part, nn.Sigmoid)
        for part in forward.modules()
    )


def _find_whole(numbers: Tensor) -> int | None:
    """Return what the numbers of every image sum to if they are from 0 on; None for no such sum."""
    if numbers.shape[1] < 2 or bool((numbers < 0).any()):
        return None
    return next((whole for whole in _WHOLES if _sum_to_one(numbers / whole)), None)


def _sum_to_one(numbers: Tensor) -> bool:
    """Return whether the numbers of every image sum to 1, up to what rounding explains."""
    is_bfloat16 = torch.equal(numbers, numbers.bfloat16().float())
    tolerance = 4 * _TOLERANCE if is_bfloat16 else _TOLERANCE
    return bool((find_excess(numbers) <= tolerance).all())


def _is_in_unit_range(numbers: Tensor) -> bool:
    low, high = (bound.item() for bound in numbers.aminmax())
    return low >= -1e-6 and high <= 1 + _TOLERANCE
