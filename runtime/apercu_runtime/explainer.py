"""An exported explainer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apercu_runtime.errors import ConfigError, ImageError, RunError, TargetError
from apercu_runtime.manifest import Manifest, read_manifest
from apercu_runtime.names import Target
from apercu_runtime.pictures import Source, read_picture, resize_picture

Values: TypeAlias = NDArray[np.float32]

CLASSES = "classes"
"""The graph of many classes of one image."""
_TOLERANCE = 1e-3
"""How far rounding may carry a pixel out of [0, 1]."""


@final
class Explainer:
    """A trained explainer that `apercu export` wrote; needs neither PyTorch nor its classifier.

    Example:
        >>> explainer = Explainer.from_onnx("exported")  # doctest: +SKIP
        >>> map = explainer.explain("cat.jpg", target="tabby")  # doctest: +SKIP
    """

    def __init__(self, manifest: Manifest, graph: str, threads: int | None) -> None:
        self.manifest = manifest
        self._threads = threads
        self._session = _open_session(manifest, graph, threads)
        self._outputs = [output.name for output in self._session.get_outputs()]

    @classmethod
    def from_onnx(
        cls, folder: str | Path, *, graph: str = "explainer", threads: int | None = None
    ) -> Explainer:
        """Opens an exported folder.

        Args:
            folder: it holds `explainer.json`.
            graph: `explainer`, or `combined` for the prediction, too.
            threads: that compute one answer; ONNX Runtime's choice where None.

        Raises:
            RunError: the folder is no export, is damaged, or of another version.
            ConfigError: it holds no such graph, or there are fewer threads than one.
        """
        if graph == CLASSES:
            raise ConfigError(
                f"graph: {CLASSES} answers attribute_classes(); expected explainer or combined"
            )
        if threads is not None and threads < 1:
            raise ConfigError(f"threads: expected at least 1, got {threads}")
        return cls(read_manifest(folder), graph, threads)

    @property
    def classes(self) -> tuple[str, ...]:
        """Readable names, in the order of the indices."""
        return self.manifest.names.names

    def explain(self, image: Source, target: int | str = "top") -> Values:
        """The map of one picture of any size, `height × width` at the explainer's size.

        Args:
            image: a file, its bytes, a Pillow image, or an array.
            target: the class to look for: `top` (the one seen most), a name or an index.

        Raises:
            ImageError: it is no image, or has other channels.
            TargetError: there is no such class.
        """
        asked = None if target == "top" else target
        return self.attribute(self.prepare(image)[None], asked)[0]

    def attribute(self, inputs: ArrayLike, target: Target = None) -> Values:
        """One map per image, `batch × height × width`; see `outputs`."""
        return self.outputs(inputs, target)["maps"]

    def attribute_classes(self, inputs: ArrayLike, targets: Sequence[int | str]) -> Values:
        """Masks of several classes per image, `batch × classes × height × width`.

        Each image is encoded once.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class.
            ConfigError: the explainer is none of masks.
        """
        if isinstance(targets, str) or not isinstance(targets, Iterable):
            raise TargetError(f"targets: expected a list of classes, got {targets!r}")
        images, asked = self._check_images(inputs), self.manifest.names.find_indices(targets)
        if not len(asked):
            raise TargetError("targets: expected at least one class, got none")
        found = [
            self._classes_session.run(["maps"], {"images": image[None], "targets": asked})[0]
            for image in images
        ]
        return np.stack(found)

    @cached_property
    def _classes_session(self) -> Any:
        return _open_session(self.manifest, CLASSES, self._threads)

    def outputs(self, inputs: ArrayLike, target: Target = None) -> dict[str, Values]:
        """All that the graph answers, by name.

        Args:
            inputs: images in [0, 1] at the explainer's size, `batch × channels × height × width`.
            target: the class to look for, or one per image; None takes the class seen most.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, or not one target per image.
        """
        images = self._check_images(inputs)
        targets = self.manifest.names.resolve_targets(target, len(images))
        found = self._session.run(self._outputs, {"images": images, "targets": targets})
        return dict(zip(self._outputs, found, strict=True))

    def prepare(self, image: Source) -> Values:
        """A picture of any size as the explainer takes it: whole, squashed.

        Raises:
            ImageError: it is no image, or has other channels.
        """
        pixels = read_picture(image, self.manifest.channels)
        if self.manifest.counts:
            pixels = np.where(np.isfinite(pixels), pixels, np.float32(0))
        return resize_picture(pixels, self.manifest.size)

    def _check_images(self, inputs: ArrayLike) -> Values:
        images = np.ascontiguousarray(inputs, np.float32)
        expected = (self.manifest.channels, *self.manifest.size)
        if images.ndim != 4 or images.shape[1:] != expected or not len(images):
            shown = " × ".join(map(str, images.shape))
            raise ImageError(
                f"images: expected batch × {' × '.join(map(str, expected))}, got {shown}; "
                "prepare() resizes a picture"
            )
        low, high = float(images.min()), float(images.max())
        if not self.manifest.counts and not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            raise ImageError(f"images: expected pixels in [0, 1], got [{low:.4g}, {high:.4g}]")
        return images

    def __repr__(self) -> str:
        return f"Explainer({self.manifest.folder}, {len(self.classes)} classes)"


def _open_session(manifest: Manifest, graph: str, threads: int | None) -> Any:
    import onnxruntime

    content = manifest.read_graph(graph)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.force_spinning_stop", "1"
    )  # cores are for others then
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(
            f"{manifest.folder}: onnxruntime {onnxruntime.__version__} cannot run {graph} "
            f"({reason}); use a newer one"
        ) from error
