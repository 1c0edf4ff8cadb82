"""Grey images for networks that were trained on colours (Morra et al. 2020)."""

from __future__ import annotations

from typing import Any

from torch import nn

from apercu.types import Images, Logits

FEATURES = 16


class Coloured(nn.Module):
    """A learned colouring of grey images, and any timm model that takes three channels.

    A card names it `apercu.classifiers.colour:Coloured`. Before training, all three channels are
    the grey image itself. (The paper's modules are deeper, and colour at a smaller size.)

    Args:
        backbone: name of the model as timm knows it.
        options: of the model, as for `timm.create_model`.
    """

    def __init__(self, backbone: str, **options: Any) -> None:
        import timm

        super().__init__()
        self.colours = nn.Sequential(
            nn.Conv2d(1, FEATURES, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(FEATURES, 3, 3, padding=1),
        )
        for values in self.colours[2].parameters():
            nn.init.zeros_(values)
        self.backbone: nn.Module = timm.create_model(backbone, **options)

    def forward(self, images: Images) -> Logits:
        logits: Logits = self.backbone(images + self.colours(images))
        return logits
