"""From settings to networks."""

from __future__ import annotations

from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.explainers.latent.network import LatentNetwork
from apercu.explainers.latent.settings import LatentSettings
from apercu.explainers.mask.network import MaskNetwork
from apercu.explainers.mask.settings import MaskSettings
from apercu.explainers.settings import ExplainerSettings, GatedSettings
from apercu.networks.encoder import Encoder, SmallEncoder, TimmEncoder
from apercu.networks.gate import GatedNetwork
from apercu.networks.graph_encoder import GraphEncoder

TIMM = "timm/"


def build_encoder(
    settings: GatedSettings,
    classifier_info: ClassifierInfo,
    backbone: Classifier | None,
    *,
    pretrained: bool = True,
) -> Encoder:
    """The encoder that the settings name.

    Args:
        settings: they say which kind.
        passport: of the explained classifier, for the number of channels.
        backbone: the open classifier whose layers are looked at, where the settings name one.
        pretrained: let timm fetch weights for a `timm/NAME`.

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
        return GraphEncoder(backbone, classifier_info.input)
    if settings.encoder == "small":
        return SmallEncoder(channels)
    return TimmEncoder(settings.encoder.removeprefix(TIMM), channels, pretrained=pretrained)


def build_network(
    settings: ExplainerSettings,
    classifier_info: ClassifierInfo,
    backbone: Classifier | None = None,
    *,
    pretrained: bool = True,
) -> nn.Module:
    """The untrained network of the explainer that the settings describe; see `build_encoder`.

    Raises:
        ConfigError: as `build_encoder`, or the output would be coarser than the deepest features.
    """
    if isinstance(settings, LatentSettings):
        return LatentNetwork(
            classifier_info.input.channels, len(classifier_info.classes), settings.shape
        )
    if isinstance(settings, GatedSettings):
        encoder = build_encoder(settings, classifier_info, backbone, pretrained=pretrained)
        return build_gated_network(settings, encoder, classifier_info)
    raise ConfigError(f"settings: no explainer is known by {type(settings).__name__}")


def build_gated_network(
    settings: GatedSettings, encoder: Encoder, classifier_info: ClassifierInfo
) -> GatedNetwork:
    """The untrained network around an encoder.

    Raises:
        ConfigError: its output would be coarser than the encoder's deepest map.
    """
    classes, frozen = len(classifier_info.classes), settings.frozen
    if isinstance(settings, MaskSettings):
        _check_resolution("decoder.resolution", settings.decoder.resolution, encoder)
        return MaskNetwork(encoder, classes, settings.decoder, frozen=frozen)
    if isinstance(settings, CounterpartSettings):
        shape = settings.generators
        _check_resolution("generators.resolution", shape.resolution, encoder)
        channels = classifier_info.input.channels
        return CounterpartNetwork(encoder, classes, channels, shape, frozen=frozen)
    raise ConfigError(f"settings: no explainer is known by {type(settings).__name__}")


def _check_resolution(setting: str, resolution: int, encoder: Encoder) -> None:
    deepest = encoder.strides[-1]
    if resolution >= deepest or resolution & (resolution - 1):
        raise ConfigError(
            f"{setting}: expected a power of two below {deepest}, the stride of the "
            f"encoder's deepest map, got {resolution}"
        )
