"""Classifiers of torchvision, by name: `torchvision/NAME`."""

from __future__ import annotations

from typing import Any

from apercu.classifiers.card import ClassifierCard, InputSpec
from apercu.classifiers.fingerprint import digest_module
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import Network, load_weights
from apercu.errors import ClassifierError, suggest_nearest


def open_torchvision(card: ClassifierCard, class_count: int | None) -> Network:
    """Build `torchvision/NAME`, with the card's weights or with torchvision's (downloaded).

    Args:
        card: description of the classifier; its options go to the model's builder.
        class_count: number of classes that the card names, or None.

    Returns:
        The network.

    Raises:
        ClassifierError: there is no such model or option, or its weights cannot be downloaded.
    """
    from torchvision import models

    name = card.source.removeprefix("torchvision/")
    names = models.list_models(module=models)
    if name not in names:
        suggestion = suggest_nearest(name, names)
        raise ClassifierError(
            f"classifier {card.source}: torchvision has no such classifier{suggestion}"
        )
    preset = models.get_model_weights(name).DEFAULT
    options = dict(card.options)
    if card.weights is not None and class_count is not None:
        options.setdefault("num_classes", class_count)
    try:
        module = models.get_model(name, weights=None if card.weights else preset, **options)
    except OSError as error:
        raise ClassifierError(
            f"classifier {card.source}: its pretrained weights cannot be downloaded ({error}); "
            "write a classifier card with `weights`, a safetensors file"
        ) from error
    except (TypeError, ValueError) as error:
        raise ClassifierError(
            f"classifier {card.source}: {str(error).splitlines()[0]}; check its options"
        ) from error
    if card.weights is not None:
        load_weights(module, card.weights)
    return Network(
        source=card.source,
        forward=module,
        digest=digest_module(module, card.source, card.options),
        input=card.input or _read_input(preset),
        output=card.output,
        names=None if card.weights else ClassNames.of(preset.meta["categories"]),
        options=card.options,
    )


def _read_input(preset: Any) -> InputSpec:
    recipe = preset.transforms()
    side, resize = recipe.crop_size[0], recipe.resize_size[0]
    return InputSpec(
        size=(side, side),
        resize=max(side, resize),
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
    )
