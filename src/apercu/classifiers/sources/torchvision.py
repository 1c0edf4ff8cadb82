"""Classifiers of torchvision, by name: `torchvision/NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from apercu.classifiers.card import ClassifierCard, InputSpec
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import Network
from apercu.classifiers.sources.timm import warn_plain_pixels, warn_random
from apercu.errors import (
    LIBRARY_ERRORS,
    ClassifierError,
    NoWeightsError,
    first_line,
    suggest_nearest,
)
from apercu.weights import digest_module, load_weights

TORCHVISION_PREFIX = "torchvision/"


def open_torchvision(card: ClassifierCard, class_count: int | None) -> Network:
    """Build `torchvision/NAME`, with the card's weights or with torchvision's (downloaded).

    Args:
        card: description of the classifier; its options go to the model's builder. Of these,
            `weights` names the weights of torchvision; with null they are random, and a
            warning says so.
        class_count: number of classes that the card names, or None.

    Returns:
        The network.

    Raises:
        ClassifierError: there is no such model or option, or its weights cannot be downloaded.
    """
    from torchvision import models

    name = card.source.removeprefix(TORCHVISION_PREFIX)
    _check_name(name)
    options = dict(card.options)
    presets = models.get_model_weights(name)
    preset = _choose_preset(presets, options.pop("weights", ""), card)
    is_random = preset is None
    preset = preset or presets.DEFAULT
    if card.weights is not None and class_count is not None:
        options.setdefault("num_classes", class_count)
    if (card.weights is not None or is_random) and card.input is not None:
        options = find_size_option(name, card.input.size) | options
    try:
        weights = None if card.weights or is_random else preset
        module = models.get_model(name, weights=weights, **options)
    except OSError as error:
        raise NoWeightsError(
            f"classifier {card.source}: its pretrained weights cannot be downloaded "
            f"({first_line(error)}); write a classifier card with `weights`, a safetensors file"
        ) from error
    except LIBRARY_ERRORS as error:
        raise ClassifierError(
            f"classifier {card.source}: {first_line(error)}; check its options"
        ) from error
    if card.weights is not None:
        load_weights(module, card.weights)
    own = _read_input(preset)
    if not is_random:
        warn_plain_pixels(card, own)
    return Network(
        source=card.source,
        forward=module,
        digest=digest_module(module, card.source, card.options),
        input=card.input or own,
        output=card.output,
        names=ClassNames.of(preset.meta["categories"]) if weights is not None else None,
        options=card.options,
    )


def build_torchvision(source: str, options: Mapping[str, Any], size: tuple[int, int]) -> nn.Module:
    """Build a model of torchvision with new random weights.

    Args:
        source: `torchvision/NAME`.
        options: options of the model's builder.
        size: height and width of its images in pixels.

    Returns:
        The model.

    Raises:
        ClassifierError: there is no such model, or it refuses the options.
    """
    from torchvision import models

    name = source.removeprefix(TORCHVISION_PREFIX)
    _check_name(name)
    try:
        model: nn.Module = models.get_model(
            name, weights=None, **{**find_size_option(name, size), **options}
        )
    except LIBRARY_ERRORS as error:
        raise ClassifierError(
            f"classifier {source}: {first_line(error)}; check its options"
        ) from error
    return model


def _check_name(name: str) -> None:
    """Raise ClassifierError if torchvision has no classifier of this name."""
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise ClassifierError(
            f"classifier {TORCHVISION_PREFIX}{name}: torchvision has no such classifier"
            f"{suggest_nearest(name, names)}"
        )


def _choose_preset(presets: Any, choice: Any, card: ClassifierCard) -> Any:
    """Return pretrained weights of torchvision by their name, the default ones, or None."""
    if choice is None:
        if card.weights is None:
            warn_random(card.source, "options.weights is null")
            torch.manual_seed(0)
        return None
    if choice == "":
        return presets.DEFAULT
    try:
        return presets[choice]
    except (KeyError, TypeError):
        names = ", ".join(presets.__members__)
        raise ClassifierError(
            f"classifier {card.source}: options.weights: expected one of {names} or null, got "
            f"{choice!r}"
        ) from None


def find_size_option(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return the option that makes a model of torchvision for images of this size, or no option.

    Vision transformers and MaxViT have a fixed size; others take images of any size.

    Args:
        name: name of the model.
        size: height and width in pixels.

    Returns:
        The option by its name, or an empty dictionary.
    """
    if name.startswith("vit_") and size[0] == size[1]:
        return {"image_size": size[0]}
    return {"input_size": tuple(size)} if name.startswith("maxvit") else {}


def _read_input(preset: Any) -> InputSpec:
    recipe = preset.transforms()
    side, resize = recipe.crop_size[0], recipe.resize_size[0]
    return InputSpec(
        size=(side, side),
        resize=max(side, resize),
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
    )
