"""Open the engine of a folder: PyTorch for a run, ONNX Runtime for an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apercu.classifiers import Classifier, open_classifier
from apercu.deploy.export.manifest import MANIFEST
from apercu.deploy.inference.engine import InferenceEngine
from apercu.deploy.inference.onnx_engine import OnnxEngine
from apercu.deploy.inference.torch_engine import TorchEngine
from apercu.devices import read_device
from apercu.errors import ConfigError, RunError
from apercu.explainers.base import MaskingExplainer
from apercu.explainers.kind import describe_doubts
from apercu.explainers.run_folder import check_run, load_explainer
from apercu.log import warn
from apercu.verdicts import GuardChoice


def is_export(run: Path) -> bool:
    """Return whether `apercu export` wrote a folder."""
    return (run / MANIFEST).is_file()


def choose_engine_device(run: Path | MaskingExplainer[Any, Any], device: str) -> str:
    """Choose the device of a run, an export or an opened explainer.

    For `auto` an export computes on the CPU, and an opened explainer where it is.

    Args:
        run: the folder, or the explainer.
        device: `auto`, `cpu`, `cuda`, `mps`, or a device of torch.

    Returns:
        The device.

    Raises:
        ConfigError: torch sees no such device.
    """
    if device == "auto":
        if isinstance(run, MaskingExplainer):
            return str(run.device)
        if is_export(run):
            return "cpu"
    return str(read_device(device))


def open_engine(
    run: Path | MaskingExplainer[Any, Any],
    classifier: str | Path | Classifier | None = None,
    device: str = "auto",
    *,
    spin: bool = True,
    trust: bool = False,
    guard: GuardChoice = None,
) -> InferenceEngine:
    """Open a run folder, a folder that `apercu export` wrote, or an explainer that makes masks.

    A warning tells of a run that does not look trained.

    Args:
        run: the folder, or the explainer.
        classifier: the explained classifier or its SPEC, for a run that does not hold it.
        device: `auto`, `cpu`, `cuda` or `mps`, where a run computes; an export takes `auto` or
            `cpu`, and with `auto` an opened explainer stays where it is.
        spin: whether threads of ONNX Runtime wait for each other without sleeping; False leaves
            the cores to other work.
        trust: whether the folder or a card may name a factory, whose code is run.
        guard: a guard or its folder, which judges the predictions; `none` for none, None for the
            one that the card of the classifier names. An export holds its own.

    Returns:
        The engine.

    Raises:
        UntrustedError: the folder or a card could run code, and is not trusted.
        RunError: the folder is neither, is damaged, explains by other means than masks, or was
            trained for another classifier; or the guard does not belong to it.
        ClassifierError: the classifier cannot be opened.
        ConfigError: an export is given a classifier or a guard, which it holds, or a GPU.
    """
    if isinstance(run, Path) and is_export(run):
        _check_export_options(run, classifier, device, guard)
        return OnnxEngine.from_export(run, spin=spin)
    device = choose_engine_device(run, device)
    if isinstance(run, Path):
        check_run(run, trust=trust)
    if isinstance(classifier, str | Path):
        classifier = open_classifier(classifier, device=device, trust=trust)
    explainer = load_explainer(run, trust=trust) if isinstance(run, Path) else run
    if not isinstance(explainer, MaskingExplainer):
        raise RunError(
            f"{run}: expected an explainer that makes masks (mask, shapley), got a "
            f"{explainer.kind} explainer; use apercu explain or apercu serve"
        )
    if isinstance(run, Path) and (doubts := explainer.doubts):
        warn(describe_doubts(run, doubts))
    return TorchEngine.from_explainer(explainer.to(device), classifier, guard)


def _check_export_options(
    run: Path, classifier: str | Path | Classifier | None, device: str, guard: GuardChoice
) -> None:
    """Raise ConfigError if an export is given what only a run takes."""
    if classifier is not None:
        raise ConfigError(
            f"classifier: {run} is an export, which predicts without it; leave it out"
        )
    if guard is not None:
        raise ConfigError(
            f"guard: {run} is an export, which holds its guard, if it has one; leave it out, or "
            "export again with --guard"
        )
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"device: {run} is an export, which runs on the CPU here; use --device cpu, or the "
            "run folder itself"
        )
