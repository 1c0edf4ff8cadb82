"""A RUN as it is typed → an explainer at work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from apercu.batch.explaining import Explaining
from apercu.batch.onnx_masks import OnnxMasks
from apercu.batch.torch_masks import TorchMasks
from apercu.classifiers import open_classifier
from apercu.errors import ConfigError
from apercu.explainers.mask import MaskExplainer
from apercu.explainers.run import load_run
from apercu.export.manifest import MANIFEST


@dataclass(frozen=True)
class Who:
    """An explainer as it is named on a command line.

    Args:
        run: folder of a trained explainer, or one that `apercu export` wrote.
        classifier: SPEC of the explained classifier, where the explainer does not carry it.
    """

    run: Path
    classifier: str | None = None

    def open(self, target: str, device: str = "cpu") -> Explaining:
        """Opens it.

        Args:
            target: what is asked about every image.
            device: where to compute.

        Raises:
            RunError: the folder is neither, is damaged, or explains by other means than masks.
            ConfigError: an exported graph is to run on a GPU, or beside a classifier.
            TargetError: there is no such class.
        """
        if (self.run / MANIFEST).is_file():
            if self.classifier is not None:
                raise ConfigError("classifier: exported graphs predict themselves; leave it out")
            if device != "cpu":
                raise ConfigError(
                    "device: exported graphs run on the CPU here; use --device cpu, or the run "
                    "folder itself"
                )
            return OnnxMasks(self.run, target)
        explainer = load_run(self.run, MaskExplainer).to(device)
        spec = self.classifier
        opened = None if spec is None else open_classifier(spec, device=device)
        explaining = TorchMasks(explainer, target, opened)
        explaining.reading.to(device)
        return explaining
