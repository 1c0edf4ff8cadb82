"""From settings to networks."""

from __future__ import annotations

from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.explainers.latent.network import LatentNetwork
from apercu.explainers.mask.network import MaskingNetwork
from apercu.networks.encoder import Encoder, SmallEncoder, TimmEncoder
from apercu.networks.gated import GatedNetwork
from apercu.networks.graph_encoder import GraphEncoder
from apercu.training.settings import (
    GatedSettings,
    LatentSettings,
    MaskSettings,
    TrainingSettings,
)

TIMM = "timm/"


def build_encoder(
    settings: GatedSettings,
    passport: ClassifierInfo,
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
    channels = passport.input.channels
    if backbone is not None:
        if backbone.channels != channels:
            raise ConfigError(
                f"encoder: {backbone.spec} takes {backbone.channels} channels, "
                f"the classifier {channels}"
            )
        return GraphEncoder(backbone, passport.input)
    if settings.encoder == "small":
        return SmallEncoder(channels)
    return TimmEncoder(settings.encoder.removeprefix(TIMM), channels, pretrained=pretrained)


def build_network(
    settings: TrainingSettings,
    passport: ClassifierInfo,
    backbone: Classifier | None = None,
    *,
    pretrained: bool = True,
) -> nn.Module:
    """The untrained network of the explainer that the settings describe; see `build_encoder`.

    Raises:
        ConfigError: as `build_encoder`, or the output would be coarser than the deepest features.
    """
    if isinstance(settings, LatentSettings):
        return LatentNetwork(passport.input.channels, len(passport.classes), settings.shape)
    if isinstance(settings, GatedSettings):
        encoder = build_encoder(settings, passport, backbone, pretrained=pretrained)
        return gated_network(settings, encoder, passport)
    raise ConfigError(f"settings: no explainer is known by {type(settings).__name__}")


def gated_network(
    settings: GatedSettings, encoder: Encoder, passport: ClassifierInfo
) -> GatedNetwork:
    """The untrained network around an encoder.

    Raises:
        ConfigError: its output would be coarser than the encoder's deepest map.
    """
    classes, frozen = len(passport.classes), settings.frozen
    if isinstance(settings, MaskSettings):
        _check("decoder.resolution", settings.decoder.resolution, encoder)
        return MaskingNetwork(encoder, classes, settings.decoder, frozen=frozen)
    if isinstance(settings, CounterpartSettings):
        shape = settings.generators
        _check("generators.resolution", shape.resolution, encoder)
        channels = passport.input.channels
        return CounterpartNetwork(encoder, classes, channels, shape, frozen=frozen)
    raise ConfigError(f"settings: no explainer is known by {type(settings).__name__}")


def _check(setting: str, resolution: int, encoder: Encoder) -> None:
    deepest = encoder.strides[-1]
    if resolution >= deepest or resolution & (resolution - 1):
        raise ConfigError(
            f"{setting}: expected a power of two below {deepest}, the stride of the "
            f"encoder's deepest map, got {resolution}"
        )
