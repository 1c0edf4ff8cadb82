"""Classifiers of timm, by name: `timm/NAME`."""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from apercu.classifiers.card import ClassifierCard, InputSpec, make_input
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import Network
from apercu.errors import (
    LIBRARY_ERRORS,
    ClassifierError,
    NoWeightsError,
    first_line,
    suggest_nearest,
)
from apercu.log import warn
from apercu.weights import digest_module, load_weights

TIMM_PREFIX = "timm/"
RANDOM_WEIGHTS = "its weights are random"
"""Words of the warning of a network that nobody has trained."""
_REACH_SECONDS = 5


def open_timm(card: ClassifierCard, class_count: int | None) -> Network:
    """Build `timm/NAME`, with the card's weights or with timm's own, which may be downloaded.

    Args:
        card: description of the classifier; its options go to `timm.create_model`. With
            `pretrained: false` the weights are random, and a warning says so.
        class_count: number of classes that the card names, or None.

    Returns:
        The network.

    Raises:
        ClassifierError: there is no such model or option, or its weights cannot be downloaded.
    """
    name = card.source.removeprefix(TIMM_PREFIX)
    _check_name(name)
    options = dict(card.options)
    if card.weights is not None and class_count is not None:
        options.setdefault("num_classes", class_count)
    if card.input is not None:
        options.setdefault("in_chans", card.input.channels)
        options |= find_size_option(name, card.input.size)
        options |= card.options
    is_random = card.weights is None and options.get("pretrained") is False
    if is_random:
        warn_random(card.source, "options.pretrained is false")
        torch.manual_seed(0)
        module = create_model(name, options)
    elif card.weights is None:
        module = _create_pretrained(name, options)
    else:
        module = create_model(name, {**options, "pretrained": False})
        load_weights(module, card.weights)
    if module.num_classes == 0 and card.output != "features":
        raise ClassifierError(
            f"classifier {card.source}: it has no layer of classes; "
            "set options.num_classes in its card"
        )
    input = card.input
    if input is None or not (is_random or card.weights):
        own = read_input(module.pretrained_cfg, card.source)
        warn_plain_pixels(card, own)
        input = input or own
    return Network(
        source=card.source,
        forward=module,
        digest=digest_module(module, card.source, card.options),
        input=input,
        output=card.output,
        names=None if card.weights or is_random else _read_imagenet_names(module),
        options=card.options,
    )


def warn_random(source: str, reason: str) -> None:
    """Warn that a network has random weights, the same ones each time."""
    warn(f"classifier {source}: {RANDOM_WEIGHTS}, as {reason}; what it predicts means nothing")


def warn_plain_pixels(card: ClassifierCard, own: InputSpec | None) -> None:
    """Warn that a card for a network's own weights leaves out the mean and std that belong to them.

    The network gets pixels in [0, 1] then, as such a card has always meant.

    Args:
        card: description of the classifier.
        own: the input that the network itself describes, or None.
    """
    given = card.input
    if given is None or card.weights is not None or own is None:
        return
    if own.mean is None and own.std is None:
        return
    normalisation = (given.mean, given.std, given.normalise, given.stretch)
    if all(value is None for value in normalisation):
        warn(
            f"classifier {card.source}: the input of its card has no mean and std, so the network "
            f"gets pixels in [0, 1]; its own weights expect mean {_list_values(own.mean)} and std "
            f"{_list_values(own.std)}; set both (mean 0 and std 1 keep the pixels)"
        )


def _list_values(values: tuple[float, ...] | None) -> str:
    return str([float(f"{value:.4g}") for value in values or ()])


def create_model(name: str, options: Mapping[str, Any]) -> Any:
    """Return timm's model of a name.

    Raises:
        ClassifierError: timm has no such model, or refuses the options.
    """
    import timm

    _check_name(name)
    try:
        return timm.create_model(name, **options)
    except (*LIBRARY_ERRORS, SafetensorError) as error:
        raise ClassifierError(
            f"classifier timm/{name}: {first_line(error)}; check its options"
        ) from error


def find_size_option(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return the option that makes a model of timm for images of this size, or no option.

    Models with a fixed size take `img_size`; others take images of any size. The size of the
    model's own weights needs no option.

    Args:
        name: name of the model.
        size: height and width in pixels.

    Returns:
        The option `img_size` by its name, or an empty dictionary.
    """
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size:
        return {}
    is_own_size = tuple(config.input_size[1:]) == tuple(size)
    return {} if is_own_size else {"img_size": tuple(size)}


def find_cached_weights(name: str) -> str | None:
    """Return the file of a model's pretrained weights in the local cache, or None.

    Args:
        name: name of the model.

    Returns:
        The path of the file; None where it is not in the cache.
    """
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    cached = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    return cached if isinstance(cached, str) else None


def read_input(config: Mapping[str, Any], source: str) -> InputSpec:
    """Return the input of a model from the configuration that timm gives it.

    Args:
        config: the configuration, the attribute `pretrained_cfg` of the model.
        source: source of the model, for the error.

    Returns:
        The input.

    Raises:
        ClassifierError: another program wrote the configuration, and it does not say the input.
    """
    subject = f"classifier {source}: its pretrained_cfg"
    try:
        channels, height, width = config["input_size"]
        short = math.floor(min(height, width) / config.get("crop_pct", 1.0))
        values = {"resize": max(height, width, short), "mean": config["mean"], "std": config["std"]}
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise ClassifierError(
            f"{subject} does not describe its images ({error!r}); pass the size, mean and std"
        ) from error
    return make_input(subject, channels=channels, size=(height, width), **values)


def _check_name(name: str) -> None:
    import timm

    if not timm.is_model(name):
        suggestion = suggest_nearest(name.partition(".")[0], timm.list_models())
        raise ClassifierError(f"classifier {TIMM_PREFIX}{name}: timm has no such model{suggestion}")


def _create_pretrained(name: str, options: Mapping[str, Any]) -> Any:
    """Return a model with weights from the local cache of the Hugging Face hub, or downloaded."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise NoWeightsError(
            f"classifier timm/{name}: timm has no pretrained weights for it; "
            "write a classifier card with `weights`"
        )
    count = options.get("num_classes", config.num_classes)
    if count not in (0, config.num_classes):
        raise ClassifierError(
            f"classifier timm/{name}: its pretrained weights are for {config.num_classes} classes, "
            f"so a head of {count} (options.num_classes) would be random; write a classifier card "
            "with `weights`"
        )
    cached = find_cached_weights(name)
    if cached is not None:
        options = {**options, "pretrained_cfg_overlay": {"file": cached}}
    elif not is_reachable("https://huggingface.co" if config.hf_hub_id else str(config.url)):
        raise _download_error(name, "the hub cannot be reached")
    try:
        return create_model(name, {**options, "pretrained": True})
    except ClassifierError as error:
        if isinstance(error.__cause__, OSError):
            raise _download_error(name, first_line(error.__cause__)) from error
        raise


def is_reachable(url: str) -> bool:
    """Try one short request, because the hub's own client would repeat it for a minute."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _download_error(name: str, reason: str) -> NoWeightsError:
    return NoWeightsError(
        f"classifier timm/{name}: its pretrained weights cannot be downloaded ({reason}); "
        "write a classifier card with `weights`, a safetensors file"
    )


def _read_imagenet_names(module: nn.Module) -> ClassNames | None:
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(module)
    if subset is None:
        return None
    info: Any = ImageNetInfo(subset)
    return ClassNames.of(info.label_descriptions(), info.label_names())
