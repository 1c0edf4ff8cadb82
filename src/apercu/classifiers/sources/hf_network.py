"""Models of Hugging Face transformers as modules from images to logits, with their feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from apercu.classifiers.positions import MAX_EXTRA_TOKENS, MapLayout
from apercu.types import Images, Logits


class StagedModule(nn.Module):
    """A module that gives its feature maps with its logits, by the names of methods of timm."""

    def forward_with_states(self, images: Images) -> tuple[Logits, Any, Any]:
        """Return logits, an output of transformers with hidden states, and the configuration."""
        raise NotImplementedError

    def forward_intermediates(
        self, images: Images, indices: Sequence[int] | None = None, output_fmt: str = "NCHW"
    ) -> tuple[Logits, list[Tensor]]:
        """Return the logits and the feature maps of the stages.

        Args:
            images: normalised images.
            indices: which of the maps are returned; all if None.
            output_fmt: the order of their axes, which is `NCHW`.

        Returns:
            Logits, and maps, each `batch × channels × rows × columns`.

        Raises:
            ValueError: the model gives no maps.
        """
        logits, output, config = self.forward_with_states(images)
        states = getattr(output, "reshaped_hidden_states", None) or output.hidden_states or ()
        size = (images.shape[2], images.shape[3])
        maps = [m for state in states if (m := _read_map(state, config, size)) is not None]
        if not maps or output_fmt != "NCHW":
            raise ValueError("the model gives no feature maps")
        return logits, maps if indices is None else [maps[index] for index in indices]

    def forward_head(self, logits: Logits) -> Logits:
        """Return the logits, which `forward_intermediates` has computed already."""
        return logits


class HfClassifier(StagedModule):
    """A model of transformers as a module from normalised images to logits.

    Args:
        model: the model; its output has `logits`.
        reverse_channels: whether it takes blue first.
    """

    def __init__(self, model: nn.Module, reverse_channels: bool = False) -> None:
        super().__init__()
        self.model = model
        self.reverse_channels = reverse_channels

    def forward(self, images: Images) -> Logits:
        """Return the logits of normalised images, whose first channel is red."""
        logits: Logits = self.model(pixel_values=self._arrange(images)).logits
        return logits

    def forward_with_states(self, images: Images) -> tuple[Logits, Any, Any]:
        output = self.model(pixel_values=self._arrange(images), output_hidden_states=True)
        return output.logits, output, self.model.config

    def _arrange(self, images: Images) -> Images:
        return images.flip(1) if self.reverse_channels else images


def _read_map(state: Tensor, config: Any, size: tuple[int, int]) -> Tensor | None:
    """Return hidden states as a map: maps as they are, tokens of patches row by row, or None.

    Tokens without a position come first.
    """
    if state.ndim == 4:
        return state
    patch = getattr(config, "patch_size", None)
    if state.ndim != 3 or patch is None:
        return None
    height, width = (patch, patch) if isinstance(patch, int) else patch
    rows, columns = size[0] // height, size[1] // width
    if not 0 <= state.shape[1] - rows * columns <= MAX_EXTRA_TOKENS:
        return None
    return MapLayout(rows, columns, "tokens").read(state)
