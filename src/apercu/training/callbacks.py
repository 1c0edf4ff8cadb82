"""What a person sees of a training while it runs: warnings and sample pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from apercu import render
from apercu.classifiers import Classifier
from apercu.errors import ImageError
from apercu.images import ImageSource
from apercu.training.degeneracy import DegeneracyMonitor, DegenerateSolution
from apercu.training.module import TrainingModule

SAMPLE_IMAGES = 6


class DegeneracyWarning(Callback):
    """Says so, once per kind, when the training has settled in a trivial answer.

    Args:
        trivial: what is looked for.
        patience: steps before the first warning.
        say: receives the warning.
    """

    def __init__(
        self, solution: DegenerateSolution, patience: int, say: Callable[[str], None]
    ) -> None:
        self.monitor = DegeneracyMonitor(solution, patience)
        self.say = say
        self.said: set[str] = set()

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
    """Training mode from the start, or from when every image could have been seen once.

    Before, batch norms do not normalise, as they have no statistics of their own; resumed or not,
    on every device alike. All measured masks were trained so; see docs/experiments.md.

    Args:
        images: how many are seen first; 0 for training mode from the start.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        batch = module.settings.schedule.batch * trainer.world_size
        module.network.train(trainer.global_step * batch >= self.images)


class SampleSheets(Callback):
    """A contact sheet of the same few images, as they are explained now.

    After the first, the second, the fourth pass over the images, and so on, and at the end.

    Args:
        classifier: it prepares the pictures and names the classes.
        source: the training images.
        folder: where the sheets go.
    """

    def __init__(self, classifier: Classifier, source: ImageSource, folder: Path) -> None:
        self.classifier = classifier
        self.source = source
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        batch = module.settings.schedule.batch * trainer.world_size
        turn, done = divmod(trainer.global_step * batch, len(self.source))
        last = trainer.global_step == trainer.max_steps
        doubled = turn > 0 and turn & (turn - 1) == 0
        if trainer.is_global_zero and ((done < batch and doubled) or last):
            before = module.network.training
            module.network.eval()
            self.write_sheet(module, f"pass-{turn:04d}.png")
            module.network.train(before)

    @torch.no_grad()
    def write_sheet(self, module: TrainingModule, name: str) -> None:
        """Writes one contact sheet under this name."""
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
