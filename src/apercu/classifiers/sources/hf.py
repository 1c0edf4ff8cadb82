"""Classifiers of Hugging Face transformers, from the hub or a folder: `hf/NAME_OR_FOLDER`.

The image processor says how images are prepared. Its settings have many spellings, so it is asked
for plain images, and the input is read from what it returns. Only safetensors files are read, and
no code of the hub is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from torch import Tensor

from apercu.classifiers.card import ClassifierCard, InputSpec, is_folder_name, make_input, validate
from apercu.classifiers.names import read_id2label
from apercu.classifiers.network import Network
from apercu.classifiers.outputs import OutputName
from apercu.classifiers.sources.hf_network import HfClassifier
from apercu.classifiers.sources.module import read_problem_type
from apercu.classifiers.sources.timm import is_reachable, warn_plain_pixels
from apercu.classifiers.trust import check_config
from apercu.errors import LIBRARY_ERRORS, ClassifierError, first_line, format_shape
from apercu.extras import require_extra
from apercu.io import expand_home, is_folder, parse_json
from apercu.weights import digest_module, load_weights

HF_PREFIX = "hf/"

_HUB = "https://huggingface.co"
_LOCAL_KEYS = ("_name_or_path", "transformers_version", "architectures", "auto_map", "dtype")
"""Keys of a configuration that say where a model comes from, and not what it is."""
_SIDE, _SMALL_SIDE = 512, 384
"""Sides of the images that an image processor gets; what it makes must not depend on them."""


class HfOptions(BaseModel):
    """The options of a card whose source is a model of transformers.

    Attributes:
        config: the model's configuration; read from the hub or the folder if None.
        reverse_channels: whether the model takes blue first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any] | None = None
    reverse_channels: bool = False


def open_hf(card: ClassifierCard) -> Network:
    """Open `hf/NAME_OR_FOLDER`, with the card's weights or with those of the hub or the folder.

    Args:
        card: description of the classifier.

    Returns:
        The network.

    Raises:
        ClassifierError: there is no such model or folder, it has no classes or no safetensors
            file, weights are missing, or its image processor does more than resize and normalise.
        MissingExtraError: transformers is not installed.
    """
    require_extra("hf", f"classifier {card.source}")
    from transformers import AutoModelForImageClassification

    options, name = read_options(card), card.source.removeprefix(HF_PREFIX)
    if card.weights is not None and options.config is not None:
        module = build_hf(card.source, card.options)
        load_weights(module, card.weights)
        spec = card.input
    else:
        location = find_model(name, card.source)
        model = load_model(AutoModelForImageClassification, location, card.source)
        check_config_of_model(card.source, options, model.config)
        spec, reverse = card.input, options.reverse_channels
        if spec is None:
            spec, reverse = read_processor(location, card.source, model.config)
        elif spec.mean is None and spec.std is None:
            with suppress(ClassifierError):  # the card may stand in for a broken processor
                warn_plain_pixels(card, read_processor(location, card.source, model.config)[0])
        module = HfClassifier(model, reverse)
        if card.weights is not None:
            load_weights(module, card.weights)
    if spec is None:
        raise ClassifierError(f"classifier {card.source}: its card needs `input`")
    config = module.model.config
    content = options.config or describe_config(config)
    settings = {"config": content, "reverse_channels": module.reverse_channels}
    output: OutputName = card.output
    if "output" not in card.model_fields_set:
        output = read_problem_type(config) or output
    return Network(
        source=card.source,
        forward=module,
        digest=digest_module(module, HF_PREFIX, settings),
        input=spec,
        output=output,
        names=read_id2label(config),
        options=settings,
    )


def build_hf(source: str, options: Mapping[str, Any]) -> HfClassifier:
    """Build a model of transformers with new random weights.

    Args:
        source: source of the classifier, for the error.
        options: options of its card, with the configuration.

    Returns:
        The model as a module from images to logits.

    Raises:
        ClassifierError: transformers refuses the configuration.
    """
    from transformers import AutoModelForImageClassification

    own = _validate_options(source, options)
    with catch_errors(source, "options.config of its card describes no such model"):
        model = AutoModelForImageClassification.from_config(make_config(own.config or {}))
    return HfClassifier(model, own.reverse_channels)


def read_options(card: ClassifierCard) -> HfOptions:
    """Return the options of a card.

    Raises:
        ClassifierError: they hold mistakes.
    """
    return _validate_options(card.source, card.options)


def _validate_options(source: str, options: Mapping[str, Any]) -> HfOptions:
    return validate(HfOptions, options, f"classifier {source}: options")


def check_config_of_model(source: str, options: HfOptions, config: Any) -> None:
    """Refuse a configuration of a card that is not the one of the model with its own weights."""
    if options.config not in (None, describe_config(config)):
        raise ClassifierError(
            f"classifier {source}: options.config is not the configuration of the model; leave it "
            "out"
        )


def find_model(name: str, source: str) -> dict[str, Any]:
    """Return the arguments by which transformers finds a model: a folder, or a name of the hub.

    Args:
        name: the name or the folder.
        source: source of the classifier, for the error.

    Returns:
        The arguments of `from_pretrained`.

    Raises:
        ClassifierError: there is no such folder, and the hub cannot be reached for the name.
    """
    from huggingface_hub import try_to_load_from_cache

    common: dict[str, Any] = {"trust_remote_code": False}
    folder = expand_home(name)
    if is_folder(folder):
        if not (folder / "config.json").is_file():
            raise ClassifierError(
                f"classifier {source}: {folder} holds no config.json; expected a folder written by "
                "save_pretrained"
            )
        with catch_errors(source):
            check_config(source, parse_json((folder / "config.json").read_bytes()))
        return {**common, "pretrained_model_name_or_path": str(folder), "local_files_only": True}
    if is_folder_name(name):
        raise ClassifierError(f"classifier {source}: no such folder")
    with catch_errors(source):
        is_cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    if not is_cached and not is_reachable(_HUB):
        raise ClassifierError(
            f"classifier {source}: there is no such folder, the model is not in the local cache, "
            "and the hub cannot be reached; name the folder of the model"
        )
    return {**common, "pretrained_model_name_or_path": name, "local_files_only": is_cached}


def load_model(kind: Any, location: Mapping[str, Any], source: str) -> Any:
    """Return a pretrained model in float32, all of whose weights were in its files.

    Args:
        kind: the class of transformers that loads it, such as `AutoModelForImageClassification`.
        location: arguments from `find_model`.
        source: source of the classifier, for errors.

    Returns:
        The model.

    Raises:
        ClassifierError: it cannot be loaded from safetensors files, or weights are missing, which
            would be random.
    """
    with catch_errors(source):
        model, report = kind.from_pretrained(
            **location, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    missing = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if missing:
        more = ", …" if len(missing) > 3 else ""
        raise ClassifierError(
            f"classifier {source}: {len(missing)} of its weights are missing and would be random: "
            f"{', '.join(missing[:3])}{more}; it was not trained for these classes"
        )
    return model


def make_config(content: Mapping[str, Any]) -> Any:
    """Return a configuration of transformers from its values, as `describe_config` writes them."""
    from transformers import AutoConfig

    values = dict(content)
    return AutoConfig.for_model(values.pop("model_type", ""), **values)


def describe_config(config: Any) -> dict[str, Any]:
    """Return the values of a configuration that differ from its defaults, for a card.

    Names of classes and places of files are left out; the number of classes is kept.
    """
    content: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    content["model_type"] = config.model_type
    for key in (*_LOCAL_KEYS, "id2label", "label2id"):
        content.pop(key, None)
    content["num_labels"] = config.num_labels
    return content


def read_processor(location: Mapping[str, Any], source: str, config: Any) -> tuple[InputSpec, bool]:
    """Ask the image processor of a model for plain images, and return the input that it makes.

    Args:
        location: arguments from `find_model`.
        source: source of the classifier, for errors.
        config: configuration of the model, which says the number of channels.

    Returns:
        The input, and whether blue comes first.

    Raises:
        ClassifierError: there is no image processor, or it does more than resize and normalise.
    """
    from transformers import AutoImageProcessor

    channels = int(getattr(config, "num_channels", None) or 3)
    with catch_errors(source, "its image processor cannot be used; write a card with `input`"):
        processor = AutoImageProcessor.from_pretrained(**location)
        probe = {name: _process(processor, image) for name, image in _make_images(channels).items()}
    low, high = probe["black"].mean((1, 2)), probe["white"].mean((1, 2))
    scale = high - low
    middle = (probe["grey"].mean((1, 2)) - low) / scale
    is_plain = bool((scale > 0).all()) and all(
        probe[name].std((1, 2)).max() < 1e-3 * scale.max() for name in ("black", "white")
    )
    if len(low) != channels or not is_plain or (middle - 128 / 255).abs().max() > 0.01:
        raise ClassifierError(
            f"classifier {source}: its image processor does more than resize and normalise; write "
            "a card with `input`"
        )
    red = ((probe["red"].mean((1, 2)) - low) / scale).round().tolist()
    is_reversed = channels == 3 and red == [0, 0, 1]
    order = slice(None, None, -1) if is_reversed else slice(None)
    height, width = probe["black"].shape[1:]
    resize = None
    if probe["black"].shape != probe["small"].shape:
        height, width = _read_own_size(config, source)
    elif height == width > 1:
        with catch_errors(source, "its image processor crops too much; write a card with `input`"):
            lines = {
                name: ((probe[name] - low[:, None, None]) / scale[:, None, None]).mean((0, 1))
                for name in ("near", "far", "small near", "small far")
            }
            resize = _measure_resize(lines["near"], lines["far"])
            other = _measure_resize(lines["small near"], lines["small far"])
        if abs(resize - other) > 0.1 * resize:
            raise ClassifierError(
                f"classifier {source}: its image processor crops images without resizing them; "
                "write a card with `input`"
            )
    spec = make_input(
        f"classifier {source}: its image processor",
        channels=channels,
        size=(height, width),
        resize=resize if resize is not None and resize > height else None,
        mean=tuple(_round(value) for value in (-low / scale).tolist()[order]),
        std=tuple(_round(value) for value in (1 / scale).tolist()[order]),
    )
    return spec, is_reversed


def _read_own_size(config: Any, source: str) -> tuple[int, int]:
    """Return the size in the configuration of a model whose image processor keeps any size.

    Raises:
        ClassifierError: the configuration says no size.
    """
    size = getattr(config, "image_size", None)
    sides = [size, size] if isinstance(size, int) else size
    if isinstance(sides, list | tuple) and len(sides) == 2 and all(type(s) is int for s in sides):
        return sides[0], sides[1]
    raise ClassifierError(
        f"classifier {source}: its image processor does not resize images to one size, and its "
        "config.json has no image_size; write a card with `input`"
    )


@contextmanager
def catch_errors(source: str, advice: str = "") -> Iterator[None]:
    """Turn errors of transformers into one line, and keep it quiet."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (*LIBRARY_ERRORS, SafetensorError, StrictDataclassError) as error:
        reason = first_line(error)
        advice = f"; {advice}" if advice else ""
        raise ClassifierError(f"classifier {source}: {reason}{advice}") from error
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _make_images(channels: int) -> dict[str, Any]:
    """Return square images as PIL images: of one colour each, or black and white from a column on.

    That column is at three or at five eighths of the side.
    """
    import numpy as np
    from PIL import Image

    def make(colour: Any, side: int = _SIDE, column: int = 0) -> Any:
        image = np.zeros((side, side, 3), np.uint8)
        image[:, column:] = colour
        return Image.fromarray(image[..., 0] if channels == 1 else image)

    colours = {"black": 0, "white": 255, "grey": 128, "red": (255, 0, 0)}
    images = {name: make(colour) for name, colour in colours.items()}
    for prefix, side in (("", _SIDE), ("small ", _SMALL_SIDE)):
        images[f"{prefix}near"] = make(255, side, 3 * side // 8)
        images[f"{prefix}far"] = make(255, side, 5 * side // 8)
    return images | {"small": make(0, _SMALL_SIDE)}


def _process(processor: Any, image: Any) -> Tensor:
    """Return what an image processor makes of an image, `channels × height × width`."""
    values: Tensor = torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"])
    if values.ndim != 4 or len(values) != 1:
        raise ValueError(f"expected one image of pixels, got {format_shape(values.shape)}")
    return values[0].double()


def _measure_resize(near: Tensor, far: Tensor) -> int:
    """Return the side to which square images were resized before their centres were cut out.

    The two edges are a quarter of the side apart, whatever is cut off.

    Args:
        near: values of a row of the image that is white from three eighths on, from 0 to 1.
        far: the same of the image that is white from five eighths on.

    Returns:
        The side in pixels.

    Raises:
        ValueError: an edge is cut off.
    """
    if max(near[0], far[0]) > 0.5 or min(near[-1], far[-1]) < 0.5:
        raise ValueError("less than the middle third of an image is left")
    return round(4 * (near.sum() - far.sum()).item())


def _round(value: float) -> float:
    """Return a number without the last digits, which rounding of the processor makes."""
    return float(f"{value:.6g}")
