"""A network for grey images on top of one that was trained on colours (Morra et al. 2020)."""

from __future__ import annotations

from typing import Any

from torch import nn

from apercu.types import Images, Logits

FEATURES = 16
"""Channels between the two convolutions of the colouring."""


def build_colours() -> nn.Sequential:
    """Build what is added to grey images to colour them: nothing, before a training."""
    colours = nn.Sequential(
        nn.Conv2d(1, FEATURES, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(FEATURES, 3, 3, padding=1),
    )
    for values in colours[2].parameters():
        nn.init.zeros_(values)
    return colours


class Coloured(nn.Module):
    """A learned colouring of grey images, followed by any timm model that takes three channels.

    Its name in a card is `apercu.classifiers.colour:Coloured`. Before training, all three channels
    are the grey image itself. (The modules of the paper are deeper, and work at a smaller size.)

    Args:
        backbone: name of the timm model.
        options: options of the model, as for `timm.create_model`.
    """

    def __init__(self, backbone: str, **options: Any) -> None:
        import timm

        super().__init__()
        self.colours = build_colours()
        self.backbone: nn.Module = timm.create_model(backbone, **options)

    def forward(self, images: Images) -> Logits:
        """Return the logits of grey images, `batch × 1 × height × width`."""
        logits: Logits = self.backbone(images + self.colours(images))
        return logits
