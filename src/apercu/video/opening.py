"""A folder → the engine that explains frames: a run's in PyTorch, an export's in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from apercu.classifiers import Classifier, ClassNames
from apercu.errors import ConfigError, RunError
from apercu.explainers.mask import MaskExplainer
from apercu.explainers.run import load_run
from apercu.export.manifest import MANIFEST, read_manifest
from apercu.video.engine import Engine
from apercu.video.onnx_engine import OnnxEngine
from apercu.video.torch_engine import TorchEngine

CHANNELS = (1, 3)
"""What can be made of the pictures of a video: grey, or colours."""


def open_engine(run: Path, classifier: Classifier | None = None, device: str = "cpu") -> Engine:
    """Opens a run folder, or a folder that `apercu export` wrote.

    Args:
        run: the folder.
        classifier: for a run that does not hold it.
        device: of a run; an export stays on the CPU.

    Raises:
        RunError: the folder is neither, is damaged, belongs to another classifier, holds no mask
            explainer, or one of images that no video has.
        ConfigError: an export is given a classifier, which it holds.
    """
    if not (run / MANIFEST).is_file():
        explainer = load_run(run, MaskExplainer)
        spec = explainer.passport.input
        _check_input(run, spec.channels, spec.raw)
        return TorchEngine(explainer.to(device), classifier)
    if classifier is not None:
        raise ConfigError(f"classifier: {run} is an export and predicts itself; leave it out")
    manifest = read_manifest(run)
    if manifest.kind != "mask":
        raise RunError(f"{run}: expected an export of masks, got one of {manifest.kind}s")
    _check_input(run, manifest.input.channels, manifest.input.range == "counts")
    return OnnxEngine.of(run, manifest.files, ClassNames(manifest.classes, manifest.identifiers))


def _check_input(run: Path, channels: int, counts: bool) -> None:
    if channels not in CHANNELS or counts:
        kind = "raw counts" if counts else f"{channels} channels"
        raise RunError(f"{run}: it explains images of {kind}, which a video does not have")
