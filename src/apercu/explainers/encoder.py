"""The encoder of an explainer, from its settings to a network, and what predicts from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from apercu.classifiers import Classifier, open_classifier
from apercu.classifiers.sources.timm import find_cached_weights
from apercu.errors import ConfigError, format_shape
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.settings import (
    OWN,
    SMALL,
    TIMM,
    G,
    GatedSettings,
    MaskedEmbedding,
    RidgeEmbedding,
)
from apercu.networks.encoder import Encoder, SmallEncoder
from apercu.networks.gate import GatedNetwork
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder
from apercu.networks.timm_encoder import TimmEncoder
from apercu.types import Images, Logits

TIMM_ENCODERS = ("resnet50", "resnet34", "resnet18", "efficientnet_b0", "mobilenetv2_100")
"""Models of timm that are taken where a classifier cannot be its own encoder, the best first."""


def open_backbone(settings: GatedSettings, classifier: Classifier) -> Classifier | None:
    """Return the classifier whose layers become the encoder, or None where the settings name none.

    Args:
        settings: they name the encoder.
        classifier: the classifier to explain, or its student.

    Returns:
        The open classifier, or None.

    Raises:
        ClassifierError: the settings name a classifier that cannot be opened.
    """
    if settings.encoder == OWN:
        return classifier
    if settings.encoder == SMALL or settings.encoder.startswith(TIMM):
        return None
    return open_classifier(settings.encoder)


def build_encoder(
    settings: GatedSettings,
    classifier_info: ClassifierInfo,
    backbone: Classifier | None,
    *,
    pretrained: bool = True,
) -> Encoder:
    """Build the encoder that the settings name.

    Args:
        settings: they name the encoder.
        classifier_info: the explained classifier, for the number of channels.
        backbone: the open classifier whose layers are used, where the settings name one.
        pretrained: whether timm fetches weights for a `timm/NAME`.

    Returns:
        The encoder.

    Raises:
        ConfigError: the encoder cannot be built, or takes another number of channels.
    """
    channels = classifier_info.input.channels
    if backbone is not None:
        if backbone.channels != channels:
            raise ConfigError(
                f"encoder: {backbone.spec} takes {backbone.channels} channels, "
                f"the classifier {channels}"
            )
        encoder = GraphEncoder(backbone, classifier_info.input)
        encoder.check_storable()  # before training, not after it
        return encoder
    if settings.encoder == SMALL:
        return SmallEncoder(channels)
    name, size = settings.encoder.removeprefix(TIMM), classifier_info.input.size
    return TimmEncoder(name, channels, pretrained=pretrained, size=size)


def check_encoder_side(encoder: Encoder, side: int | None, size: tuple[int, int]) -> None:
    """Check that an encoder takes images at the size to which they are enlarged for it.

    Args:
        encoder: the encoder.
        side: shorter side in pixels to which images are enlarged; None leaves them as they are.
        size: height and width of the images in pixels.

    Raises:
        ConfigError: the encoder takes images of its own size only.
    """
    if side is None or not isinstance(encoder, GraphEncoder):
        return
    rows, columns = (round(length * side / min(size)) for length in size)
    classifier = encoder.classifier[0]
    if (rows, columns) != classifier.size and not classifier.takes_size((rows, columns)):
        raise ConfigError(
            f"encoder_side: {classifier.spec} takes images of {format_shape(classifier.size)} "
            f"pixels only, so it cannot see them at {rows} × {columns}; leave encoder_side out, or "
            "name another encoder"
        )


def choose_encoder(settings: G, spec: str, say: Callable[[str], None]) -> G:
    """Return the settings with the best encoder whose weights are at hand, and say which it is.

    It is for a classifier that cannot be its own encoder.

    Args:
        settings: the settings of an explainer with an encoder.
        spec: SPEC of the classifier.
        say: receives one line about the choice.

    Returns:
        The settings with an encoder of timm whose weights are in the local cache, or with a small
        one that is trained from scratch.
    """
    name = next((name for name in TIMM_ENCODERS if find_cached_weights(name)), None)
    encoder, reason = SMALL, "trained from scratch, as no pretrained weights are at hand"
    if name is not None:
        encoder, reason = TIMM + name, "whose pretrained weights are at hand"
    say(f"{spec} gives no feature maps, so the encoder is {encoder}, {reason}; --encoder names one")
    return settings.with_encoder(encoder)


def choose_embedding(settings: G, encoder: Encoder, say: Callable[[str], None]) -> G:
    """Return the settings with the embedding that suits the encoder, where they name no form.

    Tokens of a transformer can hold evidence from anywhere in the image, so that the embedding of a
    transformer learns from parts of images where the evidence is.

    Args:
        settings: the settings of an explainer with an encoder.
        encoder: the encoder that they describe.
        say: receives one line where another embedding is chosen.

    Returns:
        The settings, with a `MaskedEmbedding` for tokens, of the size that they name.
    """
    named = settings.embedding
    is_open = isinstance(named, RidgeEmbedding) and "form" not in named.model_fields_set
    if not (is_open and encoder.has_tokens and settings.frozen):
        return settings
    embedding = MaskedEmbedding(**named.model_dump(exclude_unset=True))
    say(
        f"the encoder is a transformer, so its classes are learned from {embedding.masks} masked "
        "copies of each image, too; `embedding: {form: answers}` in the settings leaves that out"
    )
    return settings.model_copy(update={"embedding": embedding})


def fit_resolution(setting: str, resolution: int, encoder: Encoder) -> int:
    """Return the resolution of an output: finer than the encoder's deepest features if possible.

    Args:
        setting: name of the setting, for the error.
        resolution: pixels of the image per cell of the output, as the settings have it.
        encoder: the encoder.

    Returns:
        The same, or half of the stride of the deepest features where that is less, at least 1.

    Raises:
        ConfigError: the setting is no power of two.
    """
    if resolution & (resolution - 1):
        raise ConfigError(f"{setting}: expected a power of two, got {resolution}")
    return max(1, min(resolution, encoder.strides[-1] // 2))


class Predictor:
    """Predicts the logits of images: the classifier where there is one, else the explainer.

    Args:
        explainer: a trained explainer.
        classifier: the classifier that it was trained for, if the caller has it. If it is the
            encoder of the explainer, one pass serves both.

    Raises:
        RunError: the explainer was trained for another classifier.
    """

    def __init__(
        self, explainer: TrainedExplainer[Any, Any], classifier: Classifier | None = None
    ) -> None:
        if classifier is not None:
            explainer.classifier_info.check_classifier(classifier)
        self.explainer = explainer
        network = explainer.network
        self.network = network if isinstance(network, GatedNetwork) else None
        if classifier is None and self.network is not None:
            classifier = explainer.own_classifier
        self.classifier = classifier
        self.source = "explainer" if classifier is None else "classifier"
        self._encoder_with_head = (
            None if self.network is None else _build_encoder_with_head(self.network, classifier)
        )
        if self._encoder_with_head is not None:
            self._encoder_with_head.to(explainer.device)

    @property
    def shows_classifier(self) -> bool:
        """Whether the features are those of the classifier's own layers, as they are."""
        return self._encoder_with_head is not None and self._encoder_with_head.adapter is None

    def __call__(self, images: Images) -> tuple[Logits, list[Tensor]]:
        """Return the logits, and the features of an explainer with an encoder (else none)."""
        images = images.to(self.explainer.device)
        if self._encoder_with_head is not None:
            logits, features = self._encoder_with_head(images)
            return logits, features
        features = [] if self.network is None else self.network.encode(images)
        if self.classifier is not None:
            logits = self.classifier(images.to(self.classifier.device)).to(images.device)
        elif self.network is not None:
            gate = self.network.gate
            logits = gate.restore_units(gate.predict_logits(features[-1]))
        else:
            logits = self.explainer.estimate_logits(images)
        return logits, features

    def to(self, device: str) -> Predictor:
        """Move all networks to a device."""
        self.explainer.to(device)
        if self.classifier is not None:
            self.classifier.to(device)
        if self._encoder_with_head is not None:
            self._encoder_with_head.to(device)
        return self


def _build_encoder_with_head(
    network: GatedNetwork, classifier: Classifier | None
) -> EncoderWithHead | None:
    """Return the encoder with its head, if the encoder is the classifier itself."""
    encoder = network.encoder
    if classifier is None or not isinstance(encoder, GraphEncoder):
        return None
    if network.encoder_side is not None:  # the classifier sees the images at another size
        return None
    if encoder.classifier[0].fingerprint != classifier.fingerprint:
        return None
    try:
        return EncoderWithHead(encoder, network.adapter)
    except ConfigError:
        return None
