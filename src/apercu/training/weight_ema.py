"""A running average of the weights, which is what a training keeps in the end."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn


class WeightEma(Callback):
    """Exponential moving average of what is trained, saved with every checkpoint.

    The decay rises to its final value like (1 + n) / (10 + n), so that the first steps are soon
    forgotten. The statistics of batch normalisation are averaged alike: they belong to the weights.

    Args:
        decay: fraction of the old average that a step keeps.
        trained_buffers: prefix of the names of the buffers that are averaged with the parameters.
    """

    def __init__(self, decay: float, trained_buffers: str) -> None:
        self.decay = decay
        self.trained_buffers = trained_buffers
        self.average: dict[str, Tensor] = {}

    @property
    def state_key(self) -> str:
        return "Averaging"  # its key in checkpoints, as 0.1.0 wrote it

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        done = trainer.global_step
        keep = min(self.decay, (1 + done) / (10 + done))
        for name, value in _list_averaged(module.network, self.trained_buffers):
            if name in self.average:
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name] = value.detach().clone()

    def copy_to(self, network: nn.Module) -> None:
        """Copy the averaged weights into a network."""
        network.load_state_dict(self.average, strict=False)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = dict(state["average"])

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.average = {name: value.to(module.device) for name, value in self.average.items()}


def _list_averaged(network: nn.Module, trained_buffers: str) -> list[tuple[str, Tensor]]:
    """Return names and values of parameters with gradients and of the buffers that go with them."""
    parameters = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    return parameters + [
        (name, buffer)
        for name, buffer in network.named_buffers()
        if buffer.is_floating_point() and name.startswith(trained_buffers)
    ]
