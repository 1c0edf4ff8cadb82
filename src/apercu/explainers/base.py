"""What every trained explainer is: a network, the passport of its classifier, a run folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from apercu.classifiers.targets import Target
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.settings import ExplainerSettings
from apercu.types import Images, Logits, Maps, Picture

N = TypeVar("N", bound=nn.Module)
S = TypeVar("S", bound=ExplainerSettings)
E = TypeVar("E", bound="TrainedExplainer")  # type: ignore[type-arg]


class TrainedExplainer(ABC, Generic[N, S]):
    """An explainer that was trained for one classifier, which it needs no more.

    Args:
        network: the trained network.
        passport: the classifier that it was trained for.
        settings: how it was trained.
        facts: what was measured in training, by name.
    """

    def __init__(
        self, network: N, classifier_info: ClassifierInfo, settings: S, facts: dict[str, float]
    ) -> None:
        self.network: N = network.eval()
        self.classifier_info = classifier_info
        self.settings: S = settings
        self.facts = dict(facts)
        self.device = torch.device("cpu")

    @abstractmethod
    def attribute(self, inputs: Images, target: Target = None) -> Maps:
        """One map per image, at the size of the images."""

    @classmethod
    def from_pretrained(cls: type[E], run: str | Path, *, device: str | torch.device = "cpu") -> E:
        """Opens a run folder.

        Raises:
            RunError: the folder is no run of this kind, or its training has not finished.
        """
        from apercu.explainers.run_folder import load_run

        return load_run(run, cls).to(device)

    def save_pretrained(self, run: str | Path) -> None:
        """Writes a run folder that `from_pretrained` opens.

        Raises:
            OutputError: the folder cannot be written.
        """
        from apercu.explainers.run_folder import save_run

        save_run(self, run)

    def to(self: E, device: str | torch.device) -> E:
        """Moves the network."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    def prepare(self, picture: Picture) -> Tensor:
        """A picture of any size as the explainer takes it: whole, squashed."""
        return self.classifier_info.prepare(picture)

    @abstractmethod
    def predict_logits(self, inputs: Images) -> Logits:
        """How strongly the explainer itself reads each class, `batch × classes`.

        Raises:
            ImageError: the images have another size or number of channels.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.classifier_info.spec}, {len(self.classifier_info.classes)} classes)"
