"""Two views of one image are alike, those of two images are not."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from apercu import render
from apercu.errors import ConfigError
from apercu.pretraining.pretexts.base import Pretext, PretextBatch, PretextNetwork, PretextSample
from apercu.pretraining.pretexts.views import ViewPair
from apercu.types import Scores


@final
class Contrastive(Pretext):
    """Joint embedding of two random views, by a loss of lightly's (the `ssl` extra).

    Attributes:
        loss: `nt_xent` (SimCLR), `vicreg` or `barlow_twins`.
        views: how the two views of an image are drawn.
        width: of the projection that the loss sees; the backbone's features are kept before it.
    """

    form: Literal["contrastive"] = "contrastive"
    loss: Literal["nt_xent", "vicreg", "barlow_twins"] = "nt_xent"
    views: ViewPair = ViewPair()
    width: int = Field(128, ge=2)

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        import_losses()  # said before the first step that it is missing
        return {"projection": build_projection(sample.features, self.width)}

    def compute_losses(self, network: PretextNetwork, lesson: PretextBatch) -> dict[str, Scores]:
        loss: Tensor = import_losses()[self.loss]()(*self._project_views(network, lesson))
        return {self.loss: loss.expand(len(lesson.images))}

    def measure_errors(self, network: PretextNetwork, lesson: PretextBatch) -> dict[str, Scores]:
        """How often another image of the batch is nearer than the image's other view."""
        one, other = (
            nn.functional.normalize(z, dim=1) for z in self._project_views(network, lesson)
        )
        nearest = (one @ other.T).argmax(1)
        wrong = nearest != torch.arange(len(one), device=nearest.device)
        return {"mistaken": wrong.float()}

    def tiles(self, network: PretextNetwork, lesson: PretextBatch) -> list[render.Tile]:
        pair = self.views(lesson.images[:1], lesson.generator)
        return [render.Tile(render.to_image(view[0].cpu()), "view") for view in pair]

    def _project_views(
        self, network: PretextNetwork, lesson: PretextBatch
    ) -> tuple[Tensor, Tensor]:
        views = torch.cat(self.views(lesson.images, lesson.generator))
        one, other = network.parts["projection"](network(views)).chunk(2)
        return one, other


def build_projection(features: int, width: int) -> nn.Sequential:
    """The small network between features and loss."""
    return nn.Sequential(
        nn.Linear(features, features),
        nn.BatchNorm1d(features),
        nn.ReLU(),
        nn.Linear(features, width),
    )


def import_losses() -> dict[str, Any]:
    """lightly's losses by name; raises ConfigError where it is not installed."""
    try:
        from lightly.loss import BarlowTwinsLoss, NTXentLoss, VICRegLoss
    except ImportError as error:
        raise ConfigError(
            "pretrain: contrastive and adios need lightly; pip install 'apercu[ssl]'"
        ) from error
    return {"nt_xent": NTXentLoss, "vicreg": VICRegLoss, "barlow_twins": BarlowTwinsLoss}
