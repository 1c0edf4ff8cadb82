"""Which layers learn: the last one, more and more of them from the end, or all.

From "Fine-Tuning Convolutional Neural Networks: a comprehensive guide and benchmark" on images of
the eye's fundus for glaucoma: features of ImageNet with a new last layer are a start, and the
gain comes from unfreezing the deeper blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

from pydantic import Field

from apercu.learning.network import ParameterGroup
from apercu.learning.recipes.base import Recipe


@final
class Frozen(Recipe):
    """Trains the last layer alone, on features that do not change.

    The first step of "Fine-Tuning Convolutional Neural Networks: a comprehensive guide and
    benchmark" (glaucoma in images of the eye's fundus): features of ImageNet with a new last layer
    are a start, which the unfreezing of further blocks improves.
    """

    name: ClassVar[str] = "frozen"

    def choose_rates(self, groups: Sequence[ParameterGroup], progress: float) -> Sequence[float]:
        return [0.0] * (len(groups) - 1) + [1.0]


@final
class Full(Recipe):
    """Trains all layers, the earlier ones more slowly where `early` is below 1.

    The last step of the same guide for glaucoma, where unfreezing the deeper blocks brings the
    gain. Rates that fall towards the input are those of ULMFiT (Howard and Ruder 2018), which
    claims for text that early layers, whose features are general, should change least.

    Attributes:
        early: factor of the learning rate of the first layers; between them and the last it rises
            by the same factor from group to group.
    """

    name: ClassVar[str] = "full"
    early: float = Field(1.0, gt=0, le=1)

    def choose_rates(self, groups: Sequence[ParameterGroup], progress: float) -> Sequence[float]:
        last = max(1, len(groups) - 1)
        return [self.early ** ((last - depth) / last) for depth in range(len(groups))]


@final
class GradualUnfreezing(Recipe):
    """Trains the last layer first, then block by block from the end, until all layers learn.

    The guide for glaucoma unfreezes the pretrained network block by block, from the last one on,
    and finds the gain in the deeper blocks. ULMFiT (Howard and Ruder 2018) claims that unfreezing
    all layers at once risks forgetting what was pretrained. Ours: blocks follow at equal distances
    in one training, with the rates of `full`.

    Attributes:
        over: fraction of the training after which all layers learn.
        early: factor of the learning rate of the first layers, as for `full`.
    """

    name: ClassVar[str] = "gradual_unfreezing"
    over: float = Field(0.5, gt=0, le=1)
    early: float = Field(0.1, gt=0, le=1)

    def choose_rates(self, groups: Sequence[ParameterGroup], progress: float) -> Sequence[float]:
        last = max(1, len(groups) - 1)
        learning = 1 + int(min(1.0, progress / self.over) * last)
        return [
            self.early ** ((last - depth) / last) if len(groups) - depth <= learning else 0.0
            for depth in range(len(groups))
        ]
