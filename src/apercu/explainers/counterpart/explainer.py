"""The counterpart explainer: how an image would have to change to be predicted as another class."""

from __future__ import annotations

from typing import ClassVar, TypeAlias, final

from torch import Tensor

from apercu.explainers.counterfactual import CounterfactualExplainer, Counterparts, EncodedImages
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.objective import CounterpartBatch
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.types import Images, Logits, Targets

Features: TypeAlias = list[Tensor]
"""Feature maps, finest first."""


@final
class CounterpartExplainer(
    CounterfactualExplainer[CounterpartNetwork, CounterpartSettings, Features]
):
    """Two generators, one forward pass (Charachon et al. 2020).

    Example:
        >>> explainer = CounterpartExplainer.from_pretrained("runs/chest")  # doctest: +SKIP
        >>> pair = explainer.counterparts(images, target="normal")  # doctest: +SKIP
    """

    kind: ClassVar[str] = "counterpart"

    def _encode(self, images: Images) -> EncodedImages[Features]:
        features = self.network.encode(images)
        return EncodedImages(images, features, self.network.gate.predict_logits(features[-1]))

    def _generate(
        self, encoded: EncodedImages[Features], logits: Logits, targets: Targets
    ) -> Counterparts:
        predicted = logits.argmax(1)
        pair = self.network.generate(encoded.images, encoded.codes, predicted, targets)
        batch = CounterpartBatch(encoded.images, predicted, targets)
        stable = self.settings.objective.select_stable(batch, pair, self.network)
        return Counterparts(stable, pair.adversarial, predicted, targets)
