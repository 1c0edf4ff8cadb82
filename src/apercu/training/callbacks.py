"""Callbacks of a training: warnings, sample sheets, the batch norm warm-up, progress, its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from apercu import render
from apercu.classifiers import Classifier
from apercu.errors import ImageError
from apercu.images import ImageSource
from apercu.progress import ProgressCallback
from apercu.training.module import DegeneracyMonitor, DegenerateSolution, TrainingModule

SAMPLE_IMAGES = 6
"""Images on a sample sheet."""


class DegeneracyWarning(Callback):
    """Warns, once per kind, when the training has settled in a degenerate solution.

    Args:
        solution: the degenerate solution to look for.
        patience: steps before the first warning.
        say: receives the warning.
    """

    def __init__(
        self, solution: DegenerateSolution, patience: int, say: Callable[[str], None]
    ) -> None:
        self.monitor = DegeneracyMonitor(solution, patience)
        self.say = say
        self.said: set[str] = set()

    @property
    def state_key(self) -> str:
        return "TrivialWarning"  # its key in checkpoints, as 0.1.0 wrote it

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.monitor.add({name: value.item() for name, value in module.figures.items()})
        warning = self.monitor.warning()
        if warning and (kind := warning.partition("(")[0]) not in self.said:
            self.said.add(kind)
            self.say(f"warning: step {trainer.global_step}: {warning}")

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.monitor.steps, "means": self.monitor.means, "said": sorted(self.said)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.monitor.steps, self.monitor.means = state["steps"], dict(state["means"])
        self.said = set(state["said"])


class BatchNormWarmup(Callback):
    """Keeps the network in evaluation mode for the first pass over the images.

    In that pass batch norms do not normalise, as they have no statistics of their own yet. The mode
    depends on the step alone, so it is the same for a resumed training and on every device. All
    measured masks were trained so; see docs/experiments.md.

    Args:
        images: images of the first pass; 0 for training mode from the start.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        batch = module.settings.schedule.batch * trainer.world_size
        module.network.train(trainer.global_step * batch >= self.images)


class SampleSheets(Callback):
    """Writes contact sheets of the same few images, as they are explained now.

    One after the first, the second, the fourth pass over the images, and so on, and one at the end.

    Args:
        classifier: prepares the pictures.
        source: the training images.
        folder: the folder of the sheets.
    """

    def __init__(self, classifier: Classifier, source: ImageSource, folder: Path) -> None:
        self.classifier = classifier
        self.source = source
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        batch = module.settings.schedule.batch * trainer.world_size
        passes, done = divmod(trainer.global_step * batch, len(self.source))
        last = trainer.global_step == trainer.max_steps
        doubled = passes > 0 and passes & (passes - 1) == 0
        if trainer.is_global_zero and ((done < batch and doubled) or last):
            before = module.network.training
            module.network.eval()
            self.write_sheet(module, f"pass-{passes:04d}.png")
            module.network.train(before)

    @torch.no_grad()
    def write_sheet(self, module: TrainingModule, name: str) -> None:
        """Write one contact sheet under this file name."""
        rows = []
        step = max(1, len(self.source) // SAMPLE_IMAGES)
        for index in range(0, min(len(self.source), SAMPLE_IMAGES * step), step):
            try:
                picture = self.source[index].picture
            except ImageError:
                continue
            images = self.classifier.prepare(picture)[None].to(self.classifier.device)
            rows.append(module.sample_tiles(images))
        render.save_image(self.folder / name, render.draw_contact_sheet(rows))


class StepProgress(Callback):
    """Reports how many steps are done.

    Args:
        report: receives the name of the work, the steps that are done, and the steps in all.
    """

    def __init__(self, report: ProgressCallback) -> None:
        self.report = report

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._report_steps(trainer)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self._report_steps(trainer)

    def _report_steps(self, trainer: Any) -> None:
        if trainer.is_global_zero:
            self.report("training steps", trainer.global_step, trainer.max_steps)


class TrainingTimer(Callback):
    """Counts the seconds spent in training, over interruptions.

    Args:
        begun: when this process began, by `time.monotonic`.
    """

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.earlier_seconds = 0.0

    @property
    def state_key(self) -> str:
        return "Clock"  # its key in checkpoints, as 0.1.0 wrote it

    @property
    def seconds(self) -> float:
        """Seconds until now, those before the interruptions included."""
        return self.earlier_seconds + time.monotonic() - self.begun

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.earlier_seconds = state["seconds"]


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
