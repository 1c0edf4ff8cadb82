"""From settings to networks."""

from __future__ import annotations

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.explainers.passport import Passport
from apercu.networks.encoder import Encoder, SmallEncoder, TimmEncoder
from apercu.networks.graph import GraphEncoder
from apercu.networks.masking import MaskingNetwork
from apercu.training.settings import MaskSettings

TIMM = "timm/"


def build_encoder(
    settings: MaskSettings,
    passport: Passport,
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
        return GraphEncoder(backbone)
    if settings.encoder == "small":
        return SmallEncoder(channels)
    return TimmEncoder(settings.encoder.removeprefix(TIMM), channels, pretrained=pretrained)


def build_network(settings: MaskSettings, encoder: Encoder, classes: int) -> MaskingNetwork:
    """The untrained masking network.

    Raises:
        ConfigError: the mask would be coarser than the encoder's deepest map.
    """
    resolution, deepest = settings.decoder.resolution, encoder.strides[-1]
    if resolution >= deepest or resolution & (resolution - 1):
        raise ConfigError(
            f"decoder.resolution: expected a power of two below {deepest}, the stride of the "
            f"encoder's deepest map, got {resolution}"
        )
    return MaskingNetwork(encoder, classes, settings.decoder, frozen=settings.frozen)
