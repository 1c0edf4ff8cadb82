"""An exported explainer explains frames, in ONNX Runtime."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, final

import numpy as np

from apercu.classifiers import ClassNames
from apercu.errors import RunError
from apercu.export.graphs import TOP
from apercu.export.manifest import MANIFEST, GraphFile
from apercu.export.onnx_graph import session
from apercu.video.engine import Answer, Engine, Values

COMBINED = "combined"
"""The graph that predicts, too."""


@final
class OnnxEngine(Engine):
    """A graph that predicts and explains at once.

    Args:
        running: a session of ONNX Runtime.
        names: of the classes.
    """

    def __init__(self, running: Any, names: ClassNames) -> None:
        self.names = names
        self._session = running
        images = next(one for one in running.get_inputs() if one.name == "images")
        self.channels, *size = images.shape[1:]
        self.size = (size[0], size[1])

    @classmethod
    def of(cls, folder: Path, files: dict[str, GraphFile], names: ClassNames) -> OnnxEngine:
        """That of an exported folder, whose threads leave the cores to other work when they rest.

        Raises:
            RunError: there is no graph that predicts, or another than was exported.
        """
        if COMBINED not in files:
            raise RunError(
                f"{folder}: expected a graph that predicts, too, found no {COMBINED}.onnx; "
                "export again with --combined"
            )
        path, expected = folder / files[COMBINED].file, files[COMBINED].sha256
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise RunError(f"{path}: missing, or not what {MANIFEST} tells of; export again")
        return cls(session(path, spin=False), names)

    def __call__(self, image: Values, target: int = TOP) -> Answer:
        given = {"images": image[None], "targets": np.array([target], np.int64)}
        maps, probabilities = self._session.run(["maps", "probabilities"], given)
        return Answer(maps[0], probabilities[0])
