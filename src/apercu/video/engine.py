"""What explains a frame: a run in PyTorch, or what `apercu export` wrote in ONNX Runtime."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray

from apercu.classifiers import Classifier, ClassNames
from apercu.errors import ConfigError, ImageError, RunError
from apercu.explainers.mask import MaskExplainer
from apercu.explainers.run import load_run
from apercu.export.graphs import TOP, MaskGraph
from apercu.export.manifest import MANIFEST, read_manifest
from apercu.export.onnx_graph import session
from apercu.serving.reading import Reading

COMBINED = "combined"
"""The graph that predicts, too."""
CHANNELS = (1, 3)

Values: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """What is said about a frame.

    Attributes:
        map: mask of one class, height × width, in [0, 1].
        probabilities: of all classes.
    """

    map: Values
    probabilities: Values


class Engine(ABC):
    """An explainer that also predicts.

    Attributes:
        names: of the classes.
        channels: of its images.
        size: height and width of its images and maps.
        by: who predicts, the `classifier` or the `explainer` from its own features.
    """

    names: ClassNames
    channels: int
    size: tuple[int, int]
    by: str

    @abstractmethod
    def __call__(self, image: Values, target: int = TOP) -> Answer:
        """The answer for one image, channels × height × width in [0, 1].

        Args:
            image: at the engine's size.
            target: index of the class to look for; `TOP` is the one seen most.
        """


@final
class RunEngine(Engine):
    """A run in PyTorch.

    Args:
        explainer: a trained mask explainer, on its device.
        classifier: the one it was trained for, where the explainer does not carry it.

    Raises:
        RunError: the explainer was trained for another classifier.
    """

    def __init__(self, explainer: MaskExplainer, classifier: Classifier | None = None) -> None:
        self.reading = Reading(explainer, classifier).to(str(explainer.device))
        self.graph = MaskGraph(explainer.network).eval()
        self.device = explainer.device
        self.names, self.by = explainer.passport.names, self.reading.by
        self.channels, self.size = explainer.passport.input.channels, explainer.passport.input.size

    @torch.inference_mode()
    def __call__(self, image: Values, target: int = TOP) -> Answer:
        images = torch.from_numpy(image)[None].to(self.device)
        targets = torch.tensor([target], device=self.device)
        answers, features = self.reading(images)
        (maps,) = self.graph.explained(images, features, answers, targets)
        return Answer(maps[0].cpu().numpy(), answers.softmax(1)[0].cpu().numpy())


@final
class GraphEngine(Engine):
    """An exported explainer in ONNX Runtime, on the CPU.

    Args:
        folder: that `apercu export` wrote.
        threads: that compute one answer; torch's number where None.

    Raises:
        RunError: the folder is damaged, holds no masks, or no graph that predicts.
    """

    by = "classifier"

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        manifest = read_manifest(folder)
        if manifest.kind != "mask":
            raise RunError(f"{folder}: expected an export of masks, got one of {manifest.kind}s")
        if COMBINED not in manifest.files:
            raise RunError(
                f"{folder}: expected a graph that predicts, too, found no {COMBINED}.onnx; "
                "export again with --combined"
            )
        file = manifest.files[COMBINED]
        path = folder / file.file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
            raise RunError(f"{path}: missing, or not what {MANIFEST} tells of; export again")
        self.names = ClassNames(manifest.classes, manifest.identifiers)
        self.channels, self.size = manifest.input.channels, manifest.input.size
        self._session = session(path, threads, spin=False)

    def __call__(self, image: Values, target: int = TOP) -> Answer:
        given = {"images": image[None], "targets": np.array([target], np.int64)}
        maps, probabilities = self._session.run(["maps", "probabilities"], given)
        return Answer(maps[0], probabilities[0])


def open_engine(run: Path, classifier: Classifier | None = None, device: str = "cpu") -> Engine:
    """Opens a run folder, or a folder that `apercu export` wrote.

    Args:
        run: the folder.
        classifier: for a run that does not carry it.
        device: of a run.

    Raises:
        RunError: the folder is neither, is damaged, or belongs to another classifier.
        ConfigError: an export is given a classifier, which it holds.
        ImageError: it takes images that no video has.
    """
    engine: Engine
    if (run / MANIFEST).is_file():
        if classifier is not None:
            raise ConfigError(f"classifier: {run} is an export and predicts itself; leave it out")
        engine = GraphEngine(run)
    else:
        engine = RunEngine(load_run(run, MaskExplainer).to(device), classifier)
    if engine.channels not in CHANNELS:
        raise ImageError(f"{run}: takes {engine.channels} channels; a video has 3, or 1 as grey")
    return engine
