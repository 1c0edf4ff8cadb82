"""The trainer: it fits a training module, with checkpoints, curves and sample sheets."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import ModelCheckpoint
from pydantic import BaseModel
from torch.utils.data import DataLoader

from apercu.classifiers import Classifier
from apercu.devices import choose_device
from apercu.errors import RunError
from apercu.extras import is_installed
from apercu.images import ImageSource
from apercu.io import write_file
from apercu.progress import ProgressCallback, ignore_progress
from apercu.run_record import DAMAGES, SAVE_EVERY, RunRecord, load_state
from apercu.training.callbacks import (
    BatchNormWarmup,
    DegeneracyWarning,
    SampleSheets,
    StepProgress,
    TrainingTimer,
    WeightEma,
)
from apercu.training.config import Schedule, TrainingConfig
from apercu.training.data import (
    FEWEST_JUDGED,
    EndlessSampler,
    TrainingImages,
    describe_reading_errors,
    split_held_out,
)
from apercu.training.module import TrainingModule
from apercu.training.record import TrainingContext, make_record

if TYPE_CHECKING:
    from lightning.pytorch.loggers import CSVLogger

CHECKPOINTS, LAST, METRICS, FACTS = "checkpoints", "last.ckpt", "metrics.csv", "facts.json"
LOG_EVERY = 10
"""Steps from one row of the logs to the next; fewer in trainings of less than ten such rows."""


@dataclass(frozen=True)
class Hardware:
    """Where and how a training runs.

    Args:
        device: `auto`, `cpu`, `cuda` or `mps`.
        devices: number of devices that share the work.
        precision: precision of the numbers as Lightning names it: `32-true`, `bf16-mixed` or
            `16-mixed`.
        workers: processes of each device that read images; 0 reads them in the trainer's own.
    """

    device: str = "auto"
    devices: int = 1
    precision: Any = "32-true"
    workers: int = 1

    @property
    def own_device(self) -> torch.device:
        """The device of this process: the first one, or that of a process of Lightning's."""
        device = choose_device(self.device)
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device(device, rank) if device == "cuda" else torch.device(device)


@dataclass(frozen=True)
class Trainer:
    """Fits a training module in a run folder; a fit can be interrupted and resumed.

    Args:
        classifier: the classifier, or its student; differentiable.
        source: the training images.
        run: the run folder that is written.
        hardware: where it runs.
        seed: seed of every draw.
        say: receives one message at a time.
        report: receives the name of each part of the work, how much is done, and how much there is.
        holds_out: whether some images are kept from training; a caller may have done that already.
    """

    classifier: Classifier
    source: ImageSource
    run: Path
    hardware: Hardware = Hardware()
    seed: int = 0
    say: Callable[[str], None] = field(default=print, repr=False)
    report: ProgressCallback = field(default=ignore_progress, repr=False)
    holds_out: bool = True

    @property
    def is_main_process(self) -> bool:
        """Whether this is the main process, not one that Lightning started for a further device."""
        return is_main_process()

    def make_record(
        self,
        settings: TrainingConfig,
        *,
        fingerprint: str | None = None,
        targets: str = "",
        student: str = "",
        **parts: BaseModel,
    ) -> RunRecord:
        """Return the record of the training in the run folder, to begin it with.

        Args:
            settings: the settings of the training.
            fingerprint: fingerprint of the classifier; that of this trainer's when None.
            targets: digest of the targets that come with the images, where there are any.
            student: fingerprint of a classifier that stands in for it, where one was given.
            parts: what else the result depends on, by the stem of its JSON file.

        Returns:
            The record.

        Raises:
            ImagesError: there are too few images to train on.
            RunError: the folder holds a damaged checkpoint.
        """
        split_held_out(len(self.source), self.seed)  # before anything is written
        _read_steps_done(self.run)  # raises for a damaged checkpoint before anything else
        context = TrainingContext(
            classifier=fingerprint or self.classifier.fingerprint,
            images=self.source.name,
            count=len(self.source),
            seed=self.seed,
            devices=self.hardware.devices,
            precision=self.hardware.precision,
            wanted=targets,
            student=student,
            begun=settings.schedule.steps,
        )
        return make_record(self.run, context, settings, **parts)

    def note_quality(
        self,
        facts: dict[str, float],
        find_doubts: Callable[[Mapping[str, float]], list[str]],
        advice: str = "",
    ) -> None:
        """Add to the facts whether the result looks trained, and warn if it does not.

        Nothing is stated where fewer than `FEWEST_JUDGED` images are held out.

        Args:
            facts: what was measured, by name; gets `looks_trained`, which is 1 or 0.
            find_doubts: returns why the result does not look trained, from the facts.
            advice: what to do about it, as the end of the warning.
        """
        if len(split_held_out(len(self.source), self.seed).held_out) < FEWEST_JUDGED:
            return
        doubts = find_doubts(facts)
        facts["looks_trained"] = float(not doubts)
        if doubts:
            self.say(f"warning: {self.run}: does not look trained: {'; '.join(doubts)}{advice}")

    def save_facts(self, facts: Mapping[str, float]) -> None:
        """Write what was measured as `facts.json` into the run folder."""
        write_file(self.run / FACTS, json.dumps(facts, indent=1) + "\n")

    def fit(self, module: TrainingModule) -> dict[str, float]:
        """Train a network in place, from the last checkpoint if there is one.

        Args:
            module: the network and its training; its classifier and seed are those of this trainer.

        Returns:
            What was measured, by name: seconds, images, steps, and that of `prepare_network`.

        Raises:
            ImagesError: too few images can be read.
            RunError: the last checkpoint has more steps than the settings ask for, or a process
                that reads images was killed.
        """
        done, steps = _read_steps_done(self.run), module.settings.schedule.steps
        if done > steps:
            raise RunError(
                f"{self.run}: {done} steps of an interrupted training are done, which are more "
                f"than {steps}; continue it with --steps {done} or more, or choose another --out"
            )
        with describe_reading_errors(self.run):
            return self._fit(module, done)

    def _fit(self, module: TrainingModule, done: int) -> dict[str, float]:
        """Train a network from its last checkpoint, which has this many steps."""
        begun = time.monotonic()
        network, settings = module.network, module.settings
        training: Sequence[int] = range(len(self.source))
        if self.holds_out:
            training = split_held_out(len(self.source), self.seed).training
        images = module.load_images(self.source, training)
        self.classifier.to(self.hardware.own_device)  # a black box stays where it is
        network.to(self.classifier.device)
        facts = module.prepare_network(images, self.run / CHECKPOINTS, self.say, self.report)
        self._warn_of_unusable(images)
        timer = TrainingTimer(begun)
        ema = WeightEma(settings.schedule.averaging, module.trained_buffers)
        lightning = self._build_lightning_trainer(module, [timer, ema], done)
        with _silence_lightning(), _keep_interrupts():
            lightning.fit(
                module,
                self._build_loader(images, settings, lightning, done),
                ckpt_path=self._find_checkpoint(),
                weights_only=True,
            )
        ema.copy_to(network)
        network.eval()
        return {
            "training_seconds": timer.seconds,
            "training_images": float(len(images)),
            "steps": float(lightning.global_step),
            **facts,
        }

    def _warn_of_unusable(self, images: TrainingImages) -> None:
        if images.unusable:
            reason = next(iter(images.unusable.values()))
            self.say(
                f"warning: {len(images.unusable)} images cannot be used, and others replace them; "
                f"the first one because {reason}"
            )

    def _build_lightning_trainer(
        self, module: TrainingModule, callbacks: list[Callback], done: int
    ) -> LightningTrainer:
        from lightning.pytorch.loggers import Logger, TensorBoardLogger

        schedule = module.settings.schedule
        loggers: list[Logger] = [_open_csv_logger(self.run, done)]
        if is_installed("tensorboard"):
            loggers.append(TensorBoardLogger(self.run, name="logs", version=""))
        patience = max(50, schedule.steps // 4)
        with _silence_lightning():
            return LightningTrainer(
                accelerator={"auto": "auto", "cpu": "cpu"}.get(self.hardware.device, "gpu"),
                devices=self.hardware.devices,
                precision=self.hardware.precision,
                max_steps=schedule.steps,
                max_epochs=-1,
                callbacks=[
                    *callbacks,
                    BatchNormWarmup(len(self.source) if module.warms_up_batchnorm else 0),
                    DegeneracyWarning(module.degenerate, patience, self.say),
                    SampleSheets(self.classifier, self.source, self.run / "samples"),
                    StepProgress(self.report),
                    *self._build_checkpoints(schedule),
                ],
                logger=loggers,
                log_every_n_steps=max(1, min(LOG_EVERY, schedule.steps // 10)),
                use_distributed_sampler=False,  # the sampler knows its rank
                enable_progress_bar=False,  # its bar counts epochs
                enable_model_summary=False,
            )

    def _build_checkpoints(self, schedule: Schedule) -> list[Callback]:
        """Keep the same file after some steps, every minute, and after the last step."""
        often = [{"every_n_train_steps": n} for n in {schedule.save_every, schedule.steps}]
        times: list[dict[str, Any]] = [{"train_time_interval": timedelta(seconds=SAVE_EVERY)}]
        return [
            ModelCheckpoint(
                self.run / CHECKPOINTS,
                filename=LAST.removesuffix(".ckpt"),
                enable_version_counter=False,
                **when,
            )
            for when in times + often
        ]

    def _build_loader(
        self,
        images: TrainingImages,
        settings: TrainingConfig,
        lightning: LightningTrainer,
        done: int,
    ) -> DataLoader[Any]:
        """Return this device's part of the images, without those of the steps that are done."""
        batch = settings.schedule.batch
        order = EndlessSampler(
            len(images),
            self.seed,
            start=done * batch,
            rank=lightning.global_rank,
            ranks=lightning.world_size,
        )
        return DataLoader(images, batch, sampler=order, num_workers=self.hardware.workers)

    def _find_checkpoint(self) -> str | None:
        """Return the last checkpoint; where it has all steps, the fit only reads it."""
        path = self.run / CHECKPOINTS / LAST
        return str(path) if path.is_file() else None


def _open_csv_logger(run: Path, done: int) -> CSVLogger:
    """Return the logger of the curves, which keeps the rows of the steps that are done.

    Lightning's removes the file of an interrupted training.
    """
    from lightning.pytorch.loggers import CSVLogger

    logger, path = CSVLogger(run, name="logs", version=""), run / "logs" / METRICS
    if not path.is_file() or not is_main_process():
        return logger
    text = path.read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if _is_before(row.get("step"), done)]
    with _silence_lightning():
        writer = logger.experiment  # removes the file
    if rows:
        writer.metrics_keys = sorted(key for key in rows[0] if key)
        kept = io.StringIO()
        table = csv.DictWriter(kept, writer.metrics_keys, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
        write_file(path, kept.getvalue())
    return logger


def _is_before(step: str | None, done: int) -> bool:
    return step is not None and step.isdecimal() and int(step) < done


def is_main_process() -> bool:
    """Whether this is the main process, not one that Lightning started for a further device."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def _keep_interrupts() -> Iterator[None]:
    """Undo what Lightning makes of Ctrl-C: an exit, after which further ones are ignored.

    A notebook and its process go on after an interruption.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if in_main_thread else None
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _silence_lightning() -> Iterator[None]:
    """Silence Lightning's notes on missing loggers, existing folders and numbers of workers."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_)?lightning")
            warnings.filterwarnings("ignore", module=r"torch\.(optim|utils\.data)")
            yield
    finally:
        logger.setLevel(level)


def _read_steps_done(run: Path) -> int:
    """Return the steps of the last checkpoint; 0 without one.

    Raises:
        RunError: the checkpoint is damaged.
    """
    path = run / CHECKPOINTS / LAST
    if not path.is_file():
        return 0
    damage = RunError(f"{path}: damaged; remove it to begin anew")
    try:
        content = load_state(path)
        steps, _ = content["global_step"], dict(content["state_dict"])
    except DAMAGES as error:
        raise damage from error
    if type(steps) is not int or steps < 0:
        raise damage
    return steps
