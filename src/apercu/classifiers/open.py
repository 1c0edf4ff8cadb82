"""Every way to a classifier: by what people type, or from a module in memory."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apercu.classifiers.card import (
    CARD_FILE,
    FILE_ENDINGS,
    FOLDER_PREFIXES,
    READY_PREFIX,
    ClassifierCard,
    read_card,
)
from apercu.classifiers.classifier import Classifier
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import IN_MEMORY, Network
from apercu.classifiers.sources.module import open_in_memory, open_module
from apercu.classifiers.trust import (
    FACTORY,
    check_config,
    check_options,
    is_trusting,
    limit_network,
    measure_weights,
    remember_typed,
    trust_files,
)
from apercu.errors import ClassifierError, UntrustedError, suggest_nearest
from apercu.io import HASHES, describe_change, find_changed_file, is_file, is_folder, parse_json

ArrayNumbers: TypeAlias = Tensor | NDArray[Any] | np.generic
"""One number, or several, of PyTorch or NumPy."""
PerChannel: TypeAlias = float | int | Sequence[float | int | np.generic] | ArrayNumbers
"""A number for each channel, or one for all."""

_PREFIXES = ("timm/", "torchvision/", READY_PREFIX, *FOLDER_PREFIXES)
"""Beginnings of SPECs that name a model of a library, also where a folder is called so."""


@torch.inference_mode(False)  # gradients cannot pass weights that are made in this mode
def open_classifier(
    source: str | Path | Callable[..., Any],
    *,
    device: str | torch.device | None = None,
    size: int | Sequence[int | np.generic] | ArrayNumbers | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    classes: Sequence[str] | Mapping[Any, Any] | str | Path | None = None,
    channels: int | np.integer[Any] | None = None,
    output: str | None = None,
    output_name: str | int | None = None,
    value_range: Sequence[float | int | np.generic] | ArrayNumbers | None = None,
    resize: int | None = None,
    temperature: float | None = None,
    filter: str | None = None,
    copy: bool | None = None,
    trust: bool = False,
) -> Classifier:
    """Open a classifier, and classify one grey image to see that it works.

    A classifier is a SPEC, or a network in memory: an `nn.Module`, or a function from images to
    logits, which runs on the CPU and gives no gradients. The other arguments than `device` describe
    a network in memory, and are refused with a SPEC, which has a description of its own.

    Of a module a copy is used, in float32 and in evaluation mode, so that the module itself keeps
    its mode, its gradients and its weights, and later training does not change the classifier.

    Args:
        source: `timm/NAME`, `torchvision/NAME`, `ready:NAME`, `hf/NAME_OR_FOLDER` (transformers),
            `clip/NAME_OR_FOLDER?texts=a cat,a dog` (zero-shot), `FILE.pt2`, `FILE.onnx`,
            `package.module:factory` or `FILE.py:factory`, `CARD.json` (a classifier card) or
            its folder, a module or a function.
        device: `auto`, `cpu`, `cuda`, `mps`, or a device of torch on which it shall run; by
            default the CPU for a SPEC, and for a module the device where it is.
        size: height and width of the images in pixels, or one number for both. What is not given is
            read from the attribute `input` of the network (as in a card), or from the configuration
            that models of timm carry; the arguments have priority over it.
        mean: mean of each channel, or of all, which is subtracted from pixels in [0, 1]. If `mean`
            and `std` are None and the network says neither, it receives pixels in [0, 1]; 0 and 1
            ask for that.
        std: standard deviation of each channel, or of all, by which pixels are divided.
        classes: names of the classes in the order of the logits, `{index: name}`, `{name: index}`,
            or a file with one name per line or with these in JSON; by default the attribute
            `classes` of the network, the `config.id2label` of transformers, or numbers.
        channels: number of channels, 3 by default.
        output: what the numbers of the network mean: `logits` (by default; softmax),
            `probabilities`, `probability` (one number, of the second of two classes), `sigmoid`
            (a logit per class, each by itself, or one logit), `sigmoid_probabilities` or `value`
            (a regression, whose targets are `lower` and `higher`).
        output_name: which of several tensors that the network returns holds the numbers: a key, a
            field or a position.
        value_range: a low and a high value of a regression.
        resize: length of the short side before a centre crop, pixels.
        temperature: number by which logits are divided, so that probabilities are calibrated.
        filter: filter in front of the network, such as `floyd_steinberg` or `jpeg:quality=75`. It
            becomes a part of the classifier.
        copy: whether to use a copy of a module, as is the default. The module itself would be put
            into evaluation mode, and its parameters frozen.
        trust: whether a card may name a factory, whose code is run, or files outside its folder,
            and whether a `.pt2` file may hold anything. A SPEC that is typed may name a factory
            anyway.

    Returns:
        The classifier.

    Raises:
        UntrustedError: a file could run code, and is not trusted.
        ClassifierError: it cannot be opened, cannot classify images of its own size, or is not
            described well.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        >>> open_classifier(network, size=8, mean=0.5, std=0.5, classes=["cat", "dog"])
        Classifier(memory/Sequential, 3×8×8, 2 classes)
    """
    arguments: dict[str, object] = {
        "size": size,
        "mean": mean,
        "std": std,
        "classes": classes,
        "channels": channels,
        "output": output,
        "output_name": output_name,
        "value_range": value_range,
        "resize": resize,
        "temperature": temperature,
        "filter": filter,
    }
    description = {
        key: value.tolist() if isinstance(value, Tensor | np.generic | np.ndarray) else value
        for key, value in arguments.items()
        if value is not None
    }
    if isinstance(source, str | Path):
        words = [*description, *(["copy"] if copy is not None else [])]
        with trust_files(trust):
            return _open_spec(str(source), words).to(device or "cpu")
    if isinstance(source, Classifier) or not callable(source):
        raise ClassifierError(
            "classifier: expected a SPEC, a module or a function from images to logits, got a "
            f"{type(source).__name__}"
        )
    network = open_in_memory(source, description, make_copy=copy is not False)
    classifier = Classifier(network)
    return classifier if device is None else classifier.to(device)


def wrap_module(
    module: nn.Module, card: ClassifierCard, names: ClassNames | None = None
) -> Classifier:
    """Make a classifier of a module; it is put into evaluation mode and its parameters frozen.

    Args:
        module: network from normalised images to the output that the card names.
        card: description of the module, with `input`; its `source` and `options` say how to build
            such a module again, and its `classes` are a list. The weights are the module's.
        names: class names; those of the card if None.

    Returns:
        The classifier.

    Raises:
        ClassifierError: the card has no `input` or names a file of classes, or the module cannot
            classify such images.
    """
    return Classifier(open_module(module, card, names))


def _open_spec(spec: str, words: Sequence[str]) -> Classifier:
    """Open a classifier by its SPEC; words that describe a module are refused."""
    if words:
        raise ClassifierError(
            f"classifier {spec}: {', '.join(words)} can be given for a module in memory only; "
            "write a classifier card to describe a SPEC (apercu card), and open the card"
        )
    spec, card = read_spec(spec)
    return Classifier(open_network(card, spec), spec=spec)


def read_spec(spec: str) -> tuple[str, ClassifierCard]:
    """Return what a SPEC names and its card, which holds the source only where there is no file.

    Args:
        spec: SPEC that a person typed, also the folder of a card.

    Returns:
        The file of the card, or the source; and the card, whose paths are relative to the working
        directory.

    Raises:
        UntrustedError: a path leads out of the folder of the card, which is not trusted.
        ClassifierError: the card has mistakes, or a file beside it has changed.
    """
    if not spec.startswith(_PREFIXES) and is_file(Path(spec) / CARD_FILE):
        spec = str(Path(spec) / CARD_FILE)
    if not spec.endswith(".json"):
        spec = remember_typed(name_module(spec))
        return spec, ClassifierCard(source=spec)
    card = read_card(spec)
    _check_hashes(spec, card)
    return spec, card


def open_network(card: ClassifierCard, spec: str) -> Network:
    """Open the network that a card describes.

    Args:
        card: description of the classifier, whose paths are relative to the working directory.
        spec: what was typed: the source of the card, or the file of the card.

    Returns:
        The network, with the names and the output that the card says.

    Raises:
        UntrustedError: the card is a file that could run code, and is not trusted.
        ClassifierError: it cannot be opened, or is not described well.
    """
    names = _read_names(card)
    try:
        with torch.random.fork_rng(devices=[]), _limit_network(card, spec):
            network = _open_network(card, names)
    except UntrustedError as error:
        where = f"{spec}: " if spec.endswith(".json") else ""
        raise UntrustedError(f"{where}{error}") from None
    if names is not None:
        network = network.with_names(names)
    return network.with_output_of(card)


def _open_by_count(
    open_source: Callable[[ClassifierCard, int | None], Network],
    card: ClassifierCard,
    names: ClassNames | None,
) -> Network:
    """Open a source that is told how many numbers its network gives.

    Two names may be those of one logit: the class and its absence. The weights show which it is.
    """
    if names is None:
        return open_source(card, None)
    if card.output in ("probability", "value"):
        return open_source(card, 1)
    count = len(names.names)
    if count != 2 or not card.output.startswith("sigmoid"):
        return open_source(card, count)
    try:
        return open_source(card, count)
    except ClassifierError:
        return open_source(card, 1)


def _check_hashes(spec: str, card: ClassifierCard) -> None:
    """Raise ClassifierError if a file of a saved classifier has changed since then."""
    folder = Path(spec).parent
    paths = [card.weights, card.source, card.classes if isinstance(card.classes, str) else None]
    names = [Path(path).name for path in paths if path and Path(path).parent == folder]
    if changed := find_changed_file(folder, names):
        raise ClassifierError(
            f"{changed}: {describe_change(changed)}; copy it again, or delete "
            f"{HASHES} if you changed it yourself"
        )


def _limit_network(card: ClassifierCard, spec: str) -> AbstractContextManager[None]:
    """Limit the network of a card to the size of its weights, unless the card is trusted."""
    if is_trusting() or not spec.endswith(".json"):
        return nullcontext()
    return limit_network(spec, measure_weights(card.weights))


def _open_network(card: ClassifierCard, names: ClassNames | None) -> Network:
    if card.source.startswith(FOLDER_PREFIXES):
        check_config(card.source, card.options)
    elif not FACTORY.fullmatch(card.source):
        check_options(card.source, card.options)
    if card.weights is not None and card.source.endswith(FILE_ENDINGS):
        raise ClassifierError(
            f"classifier {card.source}: holds its own weights; leave `weights` out"
        )
    if card.source.startswith("timm/"):
        from apercu.classifiers.sources.timm import open_timm

        return _open_by_count(open_timm, card, names)
    if card.source.startswith("torchvision/"):
        from apercu.classifiers.sources.torchvision import open_torchvision

        return _open_by_count(open_torchvision, card, names)
    if card.source.startswith(READY_PREFIX):
        from apercu.classifiers.sources.ready import open_ready

        return open_ready(card)
    if card.source.startswith("hf/"):
        from apercu.classifiers.sources.hf import open_hf

        return open_hf(card)
    if card.source.startswith("clip/"):
        from apercu.classifiers.sources.clip import open_clip

        return open_clip(card, names)
    if card.source.endswith(".pt2"):
        from apercu.classifiers.sources.exported_program import open_exported

        return open_exported(card)
    if card.source.endswith(".onnx"):
        from apercu.classifiers.sources.onnx import open_onnx

        return open_onnx(card)
    if FACTORY.fullmatch(card.source):
        from apercu.classifiers.sources.factory import open_factory

        return open_factory(card)
    raise _unknown_source_error(card.source)


def _read_names(card: ClassifierCard) -> ClassNames | None:
    if isinstance(card.classes, str):
        return ClassNames.read(card.classes)
    return None if card.classes is None else ClassNames.of(card.classes)


def name_module(spec: str) -> str:
    """Return `mynet:make` for `mynet.py:make`, and other SPECs as they are.

    A file in this folder is the module of that name, so both are the same classifier.
    """
    module, _, factory = spec.rpartition(":")
    path = Path(module)
    is_here = path.name == module and path.suffix == ".py" and is_file(path)
    if FACTORY.fullmatch(spec) and is_here and path.stem not in sys.stdlib_module_names:
        return f"{path.stem}:{factory}"
    return spec


def _unknown_source_error(source: str) -> ClassifierError:
    if is_folder(Path(source)):
        hint = _describe_folder(Path(source))
        return ClassifierError(f"classifier {source}: the folder holds no {CARD_FILE}{hint}")
    if _is_scripted(source):
        hint = (
            "; it holds TorchScript: pass the module of torch.jit.load in Python, or export it to "
            "ONNX"
        )
    elif source.endswith((".pth", ".pt", ".ckpt", ".safetensors", ".bin")):
        hint = "; weights alone are no network: write a card with `source` and `weights`"
    elif source.endswith(".py"):
        hint = f"; name the function in it that returns the module: {source}:FUNCTION"
    elif source.startswith(IN_MEMORY):
        hint = "; it was a module in memory: pass the module, or save it by save_classifier"
    elif source.lower().endswith((*FILE_ENDINGS, ".json")):
        hint = "; write its ending in small letters"
    elif is_file(Path(source)):
        hint = "; the file is of another kind: convert it to ONNX, or give a function of your own"
    else:
        hint = suggest_nearest(source.partition("/")[0], ("timm", "torchvision", "clip"))
    return ClassifierError(
        "classifier: expected timm/NAME, torchvision/NAME, hf/NAME_OR_FOLDER, clip/NAME?texts=…, "
        "ready:NAME, FILE.pt2, FILE.onnx, package.module:factory, CARD.json or its folder, got "
        f"{source!r}{hint}"
    )


def _describe_folder(folder: Path) -> str:
    """Return what is wrong with a folder without a card, and what to do, from the files in it."""
    try:
        settings = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "; name a card, or its folder"
    if (
        isinstance(settings, dict)
        and {"model_type", "architectures", "architecture"} & settings.keys()
    ):
        return f"; a model of transformers is opened as hf/{folder}"
    if is_file(folder / "weights.safetensors"):
        return "; it is the run of an explainer: name the card of its classifier"
    return "; a training was begun here: the same command with --resume finishes it"


def _is_scripted(source: str) -> bool:
    """Whether this is a file that `torch.jit.save` wrote."""
    if not (is_file(Path(source)) and zipfile.is_zipfile(source)):
        return False
    with zipfile.ZipFile(source) as archive:
        return any(name.partition("/")[2].startswith("code/") for name in archive.namelist())
