"""The counterpart explainer: how an image would have to change to be seen as something else."""

from __future__ import annotations

from typing import TypeAlias, final

from torch import Tensor

from apercu.explainers.counterfactual import CounterfactualExplainer, Counterparts
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.objective import CounterpartBatch
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.types import Images, Logits, Targets

Encoded: TypeAlias = tuple[Images, list[Tensor]]
"""Images and their features."""


@final
class CounterpartExplainer(CounterfactualExplainer[CounterpartNetwork, CounterpartSettings]):
    """Two generators, one forward pass (Charachon et al. 2020).

    Example:
        >>> explainer = CounterpartExplainer.from_pretrained("runs/chest")  # doctest: +SKIP
        >>> pair = explainer.counterparts(images, target="normal")  # doctest: +SKIP
    """

    def _read(self, images: Images) -> tuple[Encoded, Logits]:
        features = self.network.encode(images)
        return (images, features), self.network.gate.predict_logits(features[-1])

    def _generate(self, encoded: Encoded, logits: Logits, targets: Targets) -> Counterparts:
        images, features = encoded
        seen = logits.argmax(1)
        pair = self.network.generate(images, features, seen, targets)
        asked = CounterpartBatch(images, seen, targets)
        stable = self.settings.objective.select_stable(asked, pair, self.network)
        return Counterparts(stable, pair.adversarial, seen, targets)
