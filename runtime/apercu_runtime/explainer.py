"""Open an exported explainer, and explain images with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apercu_runtime.errors import ConfigError, ImageError, RunError, TargetError
from apercu_runtime.explanation import Explanation, NamedClass
from apercu_runtime.manifest import Manifest, read_manifest
from apercu_runtime.names import Target
from apercu_runtime.pictures import ImageLike, read_picture, resize_picture

Values: TypeAlias = NDArray[np.float32]
"""An array of numbers, such as maps."""

EXPLAINER, COMBINED, CLASSES = "explainer", "combined", "classes"
"""Graphs: maps alone; maps and the prediction; many classes of one image."""
PROBABILITIES, TRUST = "probabilities", "trust"
"""Outputs of a graph that predicts, and of one with a guard."""
_TOLERANCE = 1e-3
"""How far outside of [0, 1] rounding may move a pixel."""


def load_explainer(folder: str | Path, *, threads: int | None = None) -> Explainer:
    """Load an exported explainer, as `apercu.load_explainer` loads a run.

    Where the export predicts, too, the prediction chooses the class that is explained by default.

    >>> explainer = load_explainer("exported")  # doctest: +SKIP
    >>> explainer.explain("cat.jpg", target="tabby").overlay()  # doctest: +SKIP

    Args:
        folder: the folder that `apercu export` wrote.
        threads: the number of threads that compute; None for ONNX Runtime's choice.

    Returns:
        The explainer.

    Raises:
        RunError: the folder is not an export, is damaged, or of another version.
        ConfigError: there are fewer threads than one.
    """
    graph = COMBINED if COMBINED in read_manifest(folder).files else EXPLAINER
    return Explainer.from_onnx(folder, graph=graph, threads=threads)


@final
class Explainer:
    """An exported explainer; it needs neither PyTorch nor its classifier.

    Args:
        manifest: what the exported folder holds.
        graph: the graph that explains, `explainer` or `combined`.
        threads: the number of threads that compute; None for ONNX Runtime's choice.

    Raises:
        RunError: the graph is damaged, or ONNX Runtime cannot run it.
        ConfigError: the export has no such graph.

    >>> explainer = load_explainer("exported")  # doctest: +SKIP
    >>> maps = explainer(images, target="tabby")  # doctest: +SKIP
    """

    def __init__(self, manifest: Manifest, graph: str, threads: int | None) -> None:
        self.manifest = manifest
        self._threads = threads
        self._session = _open_session(manifest, graph, threads)
        self._outputs = [output.name for output in self._session.get_outputs()]

    @classmethod
    def from_onnx(
        cls, folder: str | Path, *, graph: str = EXPLAINER, threads: int | None = None
    ) -> Explainer:
        """Open one graph of an exported folder.

        Args:
            folder: the folder with `explainer.json`.
            graph: `explainer`, or `combined` for the prediction, too.
            threads: the number of threads that compute; None for ONNX Runtime's choice.

        Returns:
            The explainer.

        Raises:
            RunError: the folder is not an export, is damaged, or of another version.
            ConfigError: it holds no such graph, or there are fewer threads than one.
        """
        if graph == CLASSES:
            raise ConfigError(
                f"graph: {CLASSES} is used by attribute_classes(); expected explainer or combined"
            )
        if threads is not None and threads < 1:
            raise ConfigError(f"threads: expected at least 1, got {threads}")
        return cls(read_manifest(folder), graph, threads)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their indices."""
        return self.manifest.names.names

    def explain(
        self, image: ImageLike, target: int | str | None = None, *, level: float = 0.5
    ) -> Explanation:
        """Explain one picture of any size.

        `numpy.asarray(explainer.explain(image))` is the map itself.

        Args:
            image: a file, its bytes, a Pillow image, or an array.
            target: the class to explain by name or index; `top` or None for the class predicted
                most. With counterparts it is the class to change into; None for the runner-up.
            level: where a mask is cut for its box, in (0, 1).

        Returns:
            The map with its image, and the prediction where the graph predicts.

        Raises:
            ImageError: the image cannot be read, or has other channels.
            TargetError: there is no such class, or a counterpart is asked for the class that is
                predicted already.
            ConfigError: the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ConfigError(f"level: expected a number above 0 and below 1, got {level}")
        pixels = read_picture(image, self.manifest.channels)
        batch = self._prepare_pixels(pixels)[None]
        index: int | None = None
        if target is not None and target != "top":
            index = int(self.manifest.names.find_indices([target])[0])
        name = Path(image).name if isinstance(image, str | Path) else "image"
        outputs = self._compute_outputs(batch, index, [name])
        prediction: dict[str, Any] = {}
        if PROBABILITIES in outputs:
            index = self._find_target(outputs[PROBABILITIES][0], index, name)
            prediction = self._describe_prediction(outputs[PROBABILITIES][0], index)
        return Explanation(
            image=pixels,
            map=outputs["maps"][0],
            kind=self.manifest.kind,
            name=name,
            target=None if index is None else self._name_class(index),
            level=level,
            trust=next(iter(self._read_trust(outputs)), None),
            **prediction,
        )

    def _find_target(self, probabilities: Values, target: int | None, name: str) -> int:
        """Return the class that the graph explained in one image, where it predicts.

        That is the class that was asked for, else the one predicted most; of counterparts, which
        change the image into another class, the one predicted second.

        Raises:
            TargetError: a counterpart was asked for the class that is predicted already.
        """
        predicted, *others = map(int, (-probabilities).argsort(kind="stable"))
        if self.manifest.kind == "mask":
            return predicted if target is None else target
        if target == predicted:
            raise TargetError(
                f"{name}: is predicted as {self.classes[predicted]} already; choose another class"
            )
        return others[0] if target is None else target

    def _describe_prediction(self, probabilities: Values, target: int) -> dict[str, Any]:
        """Return what is predicted for one image, as fields of an `Explanation`."""
        predicted, *others = map(int, (-probabilities).argsort(kind="stable"))
        several = self.manifest.output.find_predicted(probabilities)
        return {
            "predicted": self._name_class(predicted),
            "runner_up": self._name_class(others[0]) if others else None,
            "probability": float(probabilities[target]),
            "predicted_classes": None if several is None else tuple(map(self._name_class, several)),
            "value": self.manifest.output.find_value(probabilities),
        }

    def _name_class(self, index: int) -> NamedClass:
        return NamedClass(index, self.classes[index])

    def attribute(self, images: ArrayLike, target: Target = None) -> Values:
        """Compute one map per image.

        Args:
            images: images in [0, 1] at the explainer's size, `batch × channels × height × width`.
            target: the class to explain by name or index, or one per image; None for the class
                predicted most.

        Returns:
            Maps, `batch × height × width`.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class, or not one target per image.
        """
        return self.outputs(images, target)["maps"]

    def __call__(self, images: ArrayLike, target: Target = None) -> Values:
        """Compute one map per image, as `attribute` does."""
        return self.attribute(images, target)

    def predict(self, images: ArrayLike) -> Values:
        """Predict the probabilities of all classes with the combined graph.

        Args:
            images: images in [0, 1] at the explainer's size, `batch × channels × height × width`.

        Returns:
            Probabilities, `batch × classes`.

        Raises:
            ConfigError: the export has no graph that predicts.
            ImageError: the images have another size or number of channels.
        """
        if PROBABILITIES in self._outputs:
            return self.outputs(images)[PROBABILITIES]
        batch = self._check_images(images)
        targets = self.manifest.names.resolve_targets(None, len(batch))
        inputs = {"images": batch, "targets": targets}
        probabilities: Values = self._combined_session.run([PROBABILITIES], inputs)[0]
        _check_finite(PROBABILITIES, probabilities)
        return probabilities

    def judge(self, images: ArrayLike) -> list[dict[str, Any]]:
        """Say of each image whether its prediction may be believed, with the guard of the export.

        Args:
            images: images in [0, 1] at the explainer's size, `batch × channels × height × width`.

        Returns:
            One answer per image, see `VerdictFormat.read`.

        Raises:
            ConfigError: the export has no guard, or another graph than `combined` is open.
            ImageError: the images have another size or number of channels.
        """
        if TRUST not in self._outputs or self.manifest.guard is None:
            raise ConfigError(
                f"judge: {self.manifest.folder} has no guard in its graph; export again with "
                "--guard, and open the graph combined"
            )
        return self._read_trust(self.outputs(images))

    def _read_trust(self, outputs: Mapping[str, Values]) -> list[dict[str, Any]]:
        """Return what the verdicts of a graph mean; nothing where it has no guard."""
        if TRUST not in outputs or self.manifest.guard is None:
            return []
        return [self.manifest.guard.read(row) for row in outputs[TRUST]]

    def attribute_classes(self, images: ArrayLike, targets: Sequence[int | str]) -> Values:
        """Compute masks of several classes per image; each image is encoded once.

        Args:
            images: images in [0, 1] at the explainer's size, `batch × channels × height × width`.
            targets: the classes by name or index.

        Returns:
            Masks, `batch × classes × height × width`.

        Raises:
            ImageError: the images have another size or number of channels.
            TargetError: there is no such class.
            ConfigError: the explainer makes no masks.
        """
        if isinstance(targets, str) or not isinstance(targets, Iterable):
            raise TargetError(f"targets: expected a list of classes, got {targets!r}")
        batch, indices = self._check_images(images), self.manifest.names.find_indices(targets)
        if not len(indices):
            raise TargetError("targets: expected at least one class, got none")
        masks = np.stack(
            [
                self._classes_session.run(["maps"], {"images": image[None], "targets": indices})[0]
                for image in batch
            ]
        )
        _check_finite("maps", masks)
        return masks

    @cached_property
    def _classes_session(self) -> Any:
        return _open_session(self.manifest, CLASSES, self._threads)

    @cached_property
    def _combined_session(self) -> Any:
        if COMBINED not in self.manifest.files:
            raise ConfigError(
                f"predict: {self.manifest.folder} has no {COMBINED}.onnx, which predicts; export "
                "again with --combined"
            )
        return _open_session(self.manifest, COMBINED, self._threads)

    def outputs(self, images: ArrayLike, target: Target = None) -> dict[str, Values]:
        """Compute all outputs of the graph.

        Args:
            images: images in [0, 1] at the explainer's size, `batch × channels × height × width`.
            target: the class to explain by name or index, or one per image; None for the class
                predicted most.

        Returns:
            The outputs by name: `maps`; `probabilities` of the combined graph; `stable` and
            `adversarial` of a counterpart explainer; `trust` of a graph with a guard.

        Raises:
            ImageError: the images have another size or number of channels, or an output of one is
                NaN or infinite.
            TargetError: there is no such class, or not one target per image.
        """
        return self._compute_outputs(images, target)

    def _compute_outputs(
        self, images: ArrayLike, target: Target, names: Sequence[str] = ()
    ) -> dict[str, Values]:
        """Compute all outputs; `names` are those of the images, for errors."""
        batch = self._check_images(images)
        targets = self.manifest.names.resolve_targets(target, len(batch))
        values = self._session.run(self._outputs, {"images": batch, "targets": targets})
        outputs = dict(zip(self._outputs, values, strict=True))
        for name, value in outputs.items():
            if name != TRUST:  # which is NaN where an image cannot be judged
                _check_finite(name, value, names)
        return outputs

    def prepare(self, image: ImageLike) -> Values:
        """Prepare a picture of any size for the explainer: whole, squashed.

        Args:
            image: a file, its bytes, a Pillow image, or an array.

        Returns:
            An image, `channels × height × width`.

        Raises:
            ImageError: the image cannot be read, or has other channels.
        """
        return self._prepare_pixels(read_picture(image, self.manifest.channels))

    def _prepare_pixels(self, pixels: Values) -> Values:
        if self.manifest.counts:
            pixels = np.where(np.isfinite(pixels), pixels, np.float32(0))
        return resize_picture(pixels, self.manifest.size)

    def _check_images(self, images: ArrayLike) -> Values:
        """Return images as float32; raise ImageError if they do not fit the graph."""
        batch = np.ascontiguousarray(images, np.float32)
        expected = (self.manifest.channels, *self.manifest.size)
        if batch.ndim != 4 or batch.shape[1:] != expected or not len(batch):
            shape = " × ".join(map(str, batch.shape))
            raise ImageError(
                f"images: expected batch × {' × '.join(map(str, expected))}, got {shape}; "
                "prepare() resizes a picture"
            )
        low, high = float(batch.min()), float(batch.max())
        if not self.manifest.counts and not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            raise ImageError(
                f"images: expected pixels in [0, 1], got [{low:.4g}, {high:.4g}]; scale them, 0 to "
                "255 by / 255"
            )
        return batch

    def __repr__(self) -> str:
        return f"Explainer({self.manifest.folder}, {len(self.classes)} classes)"


def _check_finite(output: str, values: Values, names: Sequence[str] = ()) -> None:
    """Raise ImageError, which names the image, where an output is NaN or infinite."""
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if finite.all():
        return
    row = int(finite.argmin())
    which = names[row] if names else f"image {row + 1} of {len(values)}"
    raise ImageError(
        f"{which}: its {output} are not numbers (NaN) or infinite; check the weights of the "
        "classifier, and what is computed of such images"
    )


def _open_session(manifest: Manifest, graph: str, threads: int | None) -> Any:
    import onnxruntime

    content = manifest.read_graph(graph)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # idle threads leave the cores to other work
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
