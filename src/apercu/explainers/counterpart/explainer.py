"""The counterpart explainer: how an image would have to change to be seen as something else."""

from __future__ import annotations

from typing import TypeAlias, final

from torch import Tensor

from apercu.explainers.changing import ChangingExplainer, Counterparts
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.objective import Exchange
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.types import Images, Logits, Targets

Encoded: TypeAlias = tuple[Images, list[Tensor]]
"""Images and their features."""


@final
class CounterpartExplainer(ChangingExplainer[CounterpartNetwork, CounterpartSettings]):
    """Two generators, one forward pass (Charachon et al. 2020).

    Example:
        >>> explainer = CounterpartExplainer.from_pretrained("runs/chest")  # doctest: +SKIP
        >>> pair = explainer.counterparts(images, target="normal")  # doctest: +SKIP
    """

    def _read(self, images: Images) -> tuple[Encoded, Logits]:
        features = self.network.encode(images)
        return (images, features), self.network.gate.answers(features[-1])

    def _made(self, known: Encoded, answers: Logits, wanted: Targets) -> Counterparts:
        images, features = known
        seen = answers.argmax(1)
        pair = self.network.generate(images, features, seen, wanted)
        asked = Exchange(images, seen, wanted)
        stable = self.settings.objective.compared(asked, pair, self.network)
        return Counterparts(stable, pair.adversarial, seen, wanted)
