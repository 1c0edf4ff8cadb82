"""The backbone of a classifier as encoder: its last feature map at every resolution."""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from apercu.classifiers import Classifier, InputSpec, save_classifier
from apercu.classifiers.save import save_program
from apercu.classifiers.sources.exported_program import (
    ExportedNetwork,
    export_module,
    serialise_program,
)
from apercu.errors import ClassifierError, ConfigError, NoFeatureMapsError
from apercu.networks.encoder import Encoder
from apercu.networks.feature_maps import OTHER_ENCODER, FeatureMaps, GraphMaps, open_stages
from apercu.types import Images, Logits

MAX_DIFFERENCE = 1e-3
"""Largest difference of two passes of a network, relative to its largest logit."""


def open_feature_maps(classifier: Classifier, size: tuple[int, int] | None = None) -> FeatureMaps:
    """Return the feature maps of a classifier's network.

    Transformers of timm, and networks of timm with parts that are no maps, give the maps of their
    stages. Of all other networks the last map of each stride is taken from a trace.

    Args:
        classifier: the classifier.
        size: height and width of the images in pixels; the classifier's own if None.

    Returns:
        The feature maps.

    Raises:
        NoFeatureMapsError: the classifier does not show its layers, cannot be traced, or has no
            feature maps.
    """
    forward = classifier.network.forward
    if isinstance(forward, ExportedNetwork) and forward.strides:
        return ProgramMaps(forward, classifier)
    if classifier.module is None:
        raise NoFeatureMapsError(
            f"encoder: {classifier.spec} does not show its layers; {OTHER_ENCODER}"
        )
    size = size or classifier.size
    stages = open_stages(classifier, size)
    if stages is not None and not stages.ends_in_map:
        return stages
    try:
        traced = GraphMaps(classifier, size)
    except NoFeatureMapsError:
        if stages is None:
            raise
        return stages
    return stages if stages is not None and traced.has_other_outputs else traced


@final
class ProgramMaps(FeatureMaps):
    """The feature maps that an exported program returns after its output.

    Args:
        exported: the program.
        classifier: its classifier.
    """

    def __init__(self, exported: ExportedNetwork, classifier: Classifier) -> None:
        super().__init__()
        self.network = _ProgramOutputs(exported)
        self.strides = exported.strides
        self.has_tokens = len(self.strides) == 1  # as in a transformer; it does not say more
        with torch.no_grad():
            maps = self(classifier.normalise(_make_grey_image(classifier)))
        self.channels = tuple(features.shape[1] for features in maps)

    def forward(self, images: Images) -> list[Tensor]:
        maps: list[Tensor] = self.network(images)[1]
        return maps

    def with_output(self) -> nn.Module:
        return self.network


class _ProgramOutputs(nn.Module):
    """The output of an exported program and its feature maps, on the device of the images."""

    def __init__(self, exported: ExportedNetwork) -> None:
        super().__init__()
        self.exported = [exported]  # in a list, as it is no module
        self.program: nn.Module = exported.module

    def forward(self, images: Images) -> tuple[Tensor, list[Tensor]]:
        exported = self.exported[0]
        if exported.device != images.device:
            exported.to(images.device)
            self.program = exported.module
        output, *maps = exported.run(images)
        return output, maps


class GraphEncoder(Encoder):
    """A classifier without its head, which returns the last features of each resolution.

    Args:
        classifier: a classifier that shows its layers, either a model of timm or a network that
            torch.fx can trace, or an exported program that returns feature maps.
        image_spec: what the images are, if they were prepared for another classifier. Images that
            come from raw counts are then stretched again, by this classifier's stretch.

    Raises:
        ConfigError: the images cannot be prepared for the classifier, or have a size that it does
            not take.
        NoFeatureMapsError: the classifier is a black box, cannot be traced, or has no feature maps.
    """

    def __init__(self, classifier: Classifier, image_spec: InputSpec | None = None) -> None:
        super().__init__()
        self.stretch, self.image_spec = classifier.network.input.stretch, image_spec
        if image_spec is None or image_spec.stretch == self.stretch:
            self.stretch = None
        elif image_spec.stretch is None and not image_spec.takes_raw_counts:
            raise ConfigError(f"encoder: {classifier.spec} needs raw counts; {OTHER_ENCODER}")
        self.classifier = [classifier]  # in a list, so that it is no part of this module
        size = classifier.size if image_spec is None else image_spec.size
        if size != classifier.size and not classifier.takes_size(size):
            own, other = (f"{rows} × {columns}" for rows, columns in (classifier.size, size))
            raise ConfigError(
                f"encoder: {classifier.spec} takes images of {own} pixels only, and these have "
                f"{other}; {OTHER_ENCODER}"
            )
        maps = open_feature_maps(classifier, size)
        self.feature_maps = [maps]  # in a list, so that names of weights are those of the network
        self.network = maps.network
        self.strides, self.channels = maps.strides, maps.channels
        self.has_tokens = maps.has_tokens

    def forward(self, images: Images) -> list[Tensor]:
        if self.stretch is not None and self.image_spec is not None:
            before = self.image_spec.stretch
            counts = images if before is None else before.to_counts(images)
            images = torch.stack([self.stretch(image) for image in counts])
        maps: list[Tensor] = self.feature_maps[0](self.classifier[0].normalise(images))
        return [features.float() for features in maps]

    def check_storable(self) -> None:
        """Check that `save` can write the encoder; only a module in memory can fail.

        Raises:
            ConfigError: the module cannot be exported.
        """
        classifier = self.classifier[0]
        if classifier.network.is_in_memory:
            try:
                serialise_program(self._export(), classifier.spec)
            except ClassifierError as error:
                raise ConfigError(f"encoder: {error}; or {OTHER_ENCODER}") from error

    def save(self, folder: str | Path) -> Path:
        """Write the classifier without its guard, so that its card opens as the same encoder.

        Args:
            folder: folder to write to; it is created.

        Returns:
            The path of the card.

        Raises:
            ClassifierError: the classifier is in memory and cannot be exported.
            ConfigError: the classifier's output is not that of its last layer.
            OutputError: the folder cannot be written.
        """
        classifier = self.classifier[0].without_guard()
        if classifier.network.is_in_memory:
            return save_program(classifier, self._export(), folder, strides=self.strides)
        return save_classifier(classifier, folder)

    def _export(self) -> ExportedProgram:
        """Export the network with its output and its feature maps."""
        network = self.classifier[0].network
        return export_module(_Outputs(EncoderWithHead(self)), network.input, network.source)


class EncoderWithHead(nn.Module):
    """A classifier's backbone with its head: one pass gives logits and feature maps.

    Args:
        encoder: the same backbone without its head.
        adapter: changes the deepest of the feature maps, where there is one.

    Raises:
        ConfigError: the classifier's output is not that of its last layer.
    """

    def __init__(self, encoder: GraphEncoder, adapter: nn.Module | None = None) -> None:
        super().__init__()
        classifier, maps = encoder.classifier[0], encoder.feature_maps[0]
        self.classifier = encoder.classifier
        self.adapter = adapter
        self.network = maps.with_output()
        if maps.is_output_checked:
            return
        image = _make_grey_image(classifier)
        with torch.no_grad():
            raw = classifier.network.forward(classifier.normalise(image))
            expected = classifier.network.read_logits_unchecked(raw)
            limit = MAX_DIFFERENCE * expected.abs().max().clamp(min=1).item()
            if not torch.allclose(self(image)[0], expected, atol=limit):
                raise ConfigError(f"{classifier.spec}: its output is not that of its last layer")

    def forward(self, images: Images) -> tuple[Logits, list[Tensor]]:
        """Return the logits, and the feature maps of the encoder, finest first."""
        classifier = self.classifier[0]
        output, maps = self.network(classifier.normalise(images))
        maps = [features.float() for features in maps]
        if self.adapter is not None:
            maps = [*maps[:-1], self.adapter(maps[-1])]
        return classifier.network.meaning.convert_to_logits(output), maps


class _Outputs(nn.Module):
    """Normalised images → the output of a classifier's network and its feature maps."""

    def __init__(self, encoder: EncoderWithHead) -> None:
        super().__init__()
        self.network = encoder.network

    def forward(self, images: Images) -> tuple[Tensor, ...]:
        output, maps = self.network(images)
        return output, *maps


def _make_grey_image(classifier: Classifier) -> Tensor:
    shape = (1, classifier.channels, *classifier.size)
    return torch.full(shape, 0.5, device=classifier.device)
