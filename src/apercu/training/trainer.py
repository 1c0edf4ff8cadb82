"""The fit of an explainer: embedding phase, its own phase, checkpoints, curves, samples."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save
from torch.utils.data import DataLoader

from apercu.classifiers import Classifier
from apercu.explainers.class_embedding import BinaryEmbedding
from apercu.explainers.embedding_training import (
    fit_ridge_embedding,
    train_binary_embedding,
    train_ridge_embedding,
)
from apercu.explainers.settings import GatedSettings
from apercu.images import ImageSource
from apercu.io import write_file
from apercu.networks.gated import GatedNetwork
from apercu.training.callbacks import BatchNormWarmup, DegeneracyWarning, SampleSheets
from apercu.training.config import TrainingConfig
from apercu.training.data import EndlessSampler, TrainingImages, split_held_out
from apercu.training.module import TrainingModule
from apercu.training.weight_ema import WeightEma

CHECKPOINTS, LAST, EMBEDDED = "checkpoints", "last.ckpt", "embedded.safetensors"


@dataclass(frozen=True)
class Hardware:
    """Where and how a training runs.

    Args:
        device: `auto`, `cpu` or `cuda`.
        devices: how many of them.
        precision: as Lightning names it, `32-true`, `bf16-mixed` or `16-mixed`.
        progress: show a progress bar.
    """

    device: str = "auto"
    devices: int = 1
    precision: Any = "32-true"
    progress: bool = False


@dataclass(frozen=True)
class Trainer:
    """One training of an explainer, which can be interrupted and gone on with.

    Args:
        classifier: the black box, or its student; differentiable.
        source: training images.
        run: the folder that is written.
        machine: where it runs.
        seed: of every draw.
        say: receives one line of news at a time.
    """

    classifier: Classifier
    source: ImageSource
    run: Path
    hardware: Hardware = Hardware()
    seed: int = 0
    say: Callable[[str], None] = field(default=print, repr=False)

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that was typed, not one that Lightning started beside it."""
        return os.environ.get("LOCAL_RANK", "0") == "0"

    def __call__(self, module: TrainingModule) -> dict[str, float]:
        """Trains a network in place, from the last checkpoint if there is one.

        Args:
            module: what is trained, and how; its classifier and seed are this fit's.

        Returns:
            What was measured: seconds, images, steps, quality of the embedding.

        Raises:
            ImagesError: too few images can be read.
        """
        begun = time.monotonic()
        network, settings = module.network, module.settings
        chosen = split_held_out(len(self.source), self.seed)[0]
        images = TrainingImages(self.source, self.classifier, chosen, target_of=module.target_of)
        facts: dict[str, float] = {}
        if isinstance(network, GatedNetwork) and isinstance(settings, GatedSettings):
            facts["embedding_agreement"] = self._prepare_embedding(network, settings, images)
            network.freeze_encoder()
        if images.unusable:
            first = next(iter(images.unusable.values()))
            self.say(
                f"warning: {len(images.unusable)} images cannot be used, others stand in for them; "
                f"the first because {first}"
            )
        spent = TrainingTimer(begun)
        averaging = WeightEma(settings.schedule.averaging, module.trained_buffers)
        trainer = self._build_lightning_trainer(module, [spent, averaging])
        with _silence_lightning():
            trainer.fit(
                module,
                self._build_loader(images, settings, trainer),
                ckpt_path=self._find_checkpoint(),
                weights_only=True,
            )
        averaging.copy_to(network)
        network.eval()
        return {
            "training_seconds": spent.seconds,
            "training_images": float(len(images)),
            "steps": float(trainer.global_step),
            **facts,
        }

    def _prepare_embedding(
        self, network: GatedNetwork, settings: GatedSettings, images: TrainingImages
    ) -> float:
        """The embedding phase, or its stored result; returns how often it was right."""
        path = self.run / CHECKPOINTS / EMBEDDED
        if path.is_file():
            state = load_file(path)
            share = state.pop("agreement").item()
            network.load_state_dict(state, strict=False)
            return float(share)
        embedding, asked = settings.embedding, (self.classifier, images)
        if isinstance(embedding, BinaryEmbedding):
            share = train_binary_embedding(network, *asked, embedding, self.seed)
            self.say(f"class embedding: tells real from fake classes in {share:.1%} of cases")
        else:
            if network.frozen:
                share = fit_ridge_embedding(network, *asked, embedding)
            else:
                share = train_ridge_embedding(network, *asked, embedding, self.seed)
            held_out = (
                f"in {share:.1%} of cases" if share == share else "(too few to hold some out)"
            )
            self.say(f"class embedding: names the classifier's top class {held_out}")
        write_file(
            path, save(network.state_without_frozen_encoder() | {"agreement": torch.tensor(share)})
        )
        return share

    def _build_lightning_trainer(
        self, module: TrainingModule, callbacks: list[Callback]
    ) -> LightningTrainer:
        from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

        schedule = module.settings.schedule
        checkpoint = ModelCheckpoint(
            self.run / CHECKPOINTS,
            filename=LAST.removesuffix(".ckpt"),
            every_n_train_steps=schedule.save_every,
            enable_version_counter=False,
        )
        trivial = DegeneracyWarning(module.degenerate, max(50, schedule.steps // 4), self.say)
        samples = SampleSheets(self.classifier, self.source, self.run / "samples")
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
                    trivial,
                    samples,
                    checkpoint,
                ],
                logger=[
                    CSVLogger(self.run, name="logs", version=""),
                    TensorBoardLogger(self.run, name="logs", version=""),
                ],
                log_every_n_steps=min(10, schedule.steps),
                use_distributed_sampler=False,  # the order knows its rank
                enable_progress_bar=self.hardware.progress,
                enable_model_summary=False,
            )

    def _build_loader(
        self, images: TrainingImages, settings: TrainingConfig, trainer: LightningTrainer
    ) -> DataLoader[Any]:
        """Each device's own share of the images, from where the last checkpoint left them."""
        batch = settings.schedule.batch
        order = EndlessSampler(
            len(images),
            self.seed,
            start=_count_steps_done(self.run) * batch,
            rank=trainer.global_rank,
            ranks=trainer.world_size,
        )
        return DataLoader(images, batch, sampler=order, num_workers=1)

    def _find_checkpoint(self) -> str | None:
        """The last checkpoint; with all steps done, the fit only reads it."""
        path = self.run / CHECKPOINTS / LAST
        return str(path) if path.is_file() else None


class TrainingTimer(Callback):
    """Seconds spent in training, over interruptions."""

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.earlier_seconds = 0.0

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.begun

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.earlier_seconds = state["seconds"]


@contextmanager
def _silence_lightning() -> Iterator[None]:
    """Silences Lightning's remarks: on loggers it misses, folders it finds, workers it counts."""
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


def _count_steps_done(run: Path) -> int:
    path = run / CHECKPOINTS / LAST
    if not path.is_file():
        return 0
    return int(torch.load(path, weights_only=True, map_location="cpu")["global_step"])
