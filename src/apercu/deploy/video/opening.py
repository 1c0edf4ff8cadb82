"""A folder → the engine that explains frames."""

from __future__ import annotations

from pathlib import Path

from apercu.classifiers import InputSpec
from apercu.deploy import inference as engines
from apercu.deploy.inference import InferenceEngine
from apercu.errors import RunError

CHANNELS = (1, 3)
"""What can be made of the pictures of a video: grey, or colours."""


def open_engine(
    run: Path, classifier: str | Path | None = None, device: str = "cpu"
) -> InferenceEngine:
    """Opens a run or an export, whose threads leave the cores to other work when they rest.

    Args:
        run: the folder.
        classifier: SPEC of the explained classifier, for a run that does not hold it.
        device: where a run computes.

    Raises:
        RunError: it explains images that no video has, or as `engines.open_engine`.
        ClassifierError: the classifier cannot be opened.
        ConfigError: an export is given a classifier or a GPU.
    """
    engine = engines.open_engine(run, classifier, device, spin=False)
    _check_input(run, engine.input)
    return engine


def _check_input(run: Path, spec: InputSpec) -> None:
    if spec.channels not in CHANNELS or spec.takes_raw_counts:
        kind = "raw counts" if spec.takes_raw_counts else f"{spec.channels} channels"
        raise RunError(f"{run}: it explains images of {kind}, which a video does not have")
