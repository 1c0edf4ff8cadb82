"""The door of the black box: images in [0, 1] go in, logits come out."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers.fingerprint import compute_fingerprint
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import Network, convert_to_logits
from apercu.classifiers.preprocessing import (
    FitMode,
    check_channels,
    check_images,
    fit_image,
    normalise,
)
from apercu.errors import ApercuError, ClassifierError
from apercu.types import Images, Logits, Picture


@final
class Classifier:
    """An image classifier behind one door, which checks, normalises, counts, and names classes.

    The classifier is asked once when it is opened, so one that exists answers. Its parameters
    receive no gradients; the images do where `differentiable` says so.

    Args:
        network: what a source opened.
        spec: how the caller named it; the network's source where nothing else was typed.

    Raises:
        ClassifierError: it cannot answer an image of its own size, or has another number of
            classes than names.
    """

    def __init__(self, network: Network, *, spec: str | None = None) -> None:
        self.network = network
        self.spec = spec or network.source
        self.channels = network.input.channels
        self.bands = network.input.bands
        self.size = network.input.size
        self.resize = network.input.resize
        self.differentiable = network.differentiable
        self.fingerprint = compute_fingerprint(network.digest, network.input, network.output)
        self.queries = 0
        self.device = torch.device("cpu")
        self._forward = network.forward
        self.module = network.forward if isinstance(network.forward, nn.Module) else None
        if self.module is not None:
            self.module.eval().requires_grad_(False).to(memory_format=torch.channels_last)
            self.device = next((p.device for p in self.module.parameters()), self.device)
        self.names = self._resolve_names(self._count_classes())

    @property
    def classes(self) -> tuple[str, ...]:
        """Readable names, in the order of the logits."""
        return self.names.names

    @property
    def identifiers(self) -> tuple[str, ...]:
        """WordNet or other identifiers, in the order of the logits; else the names."""
        return self.names.identifiers

    @property
    def exposes_layers(self) -> bool:
        """Whether `module` is a tree of layers that hooks can reach."""
        return self.module is not None

    def __call__(self, images: Tensor) -> Logits:
        """Answers a batch of images, float batch × channels × height × width.

        Raises:
            ClassifierError: another number of channels, another size, or gradients are wanted
                that this classifier cannot give.
            ImageError: pixels outside [0, 1] or not numbers; only a classifier with the
                rule `l2_per_channel` takes raw counts.
        """
        check_images(images, self.network.input)
        return self.compute_logits_unchecked(images)

    def compute_logits_unchecked(self, images: Images) -> Logits:
        """The same for pixels of any value, where the mathematics of a method asks for them.

        Raises:
            ClassifierError: gradients are wanted that this classifier cannot give.
        """
        if images.requires_grad and torch.is_grad_enabled() and not self.differentiable:
            raise ClassifierError(
                f"classifier {self.spec} gives no gradients; distil a student from it, "
                "or use a method that only queries"
            )
        self.queries += len(images)
        return convert_to_logits(
            self._forward(self.normalise(images)), self.network.output, count=len(images)
        )

    def compute_logits_at_any_size(self, images: Images) -> Logits:
        """Answers images of another size than its own, unchecked and uncounted.

        Raises:
            ClassifierError: the classifier is a black box, whose size is fixed.
        """
        if self.module is None:
            raise ClassifierError(f"classifier {self.spec} answers images of its own size only")
        return convert_to_logits(
            self.module(self.normalise(images)), self.network.output, count=len(images)
        )

    @property
    def zero_colour(self) -> tuple[float, ...]:
        """The colour that its normalisation turns into 0; black where a rule normalises."""
        spec = self.network.input
        if spec.mean is None:
            return (0.0,) * spec.channels
        return tuple(min(1.0, max(0.0, value)) for value in spec.mean)

    def predict_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Softmax of the logits."""
        return self(images).softmax(dim=1)

    def normalise(self, images: Images) -> Images:
        """What `module` receives for these images."""
        normalised = normalise(images, self.network.input)
        if self.module is None:
            return normalised
        return normalised.contiguous(memory_format=torch.channels_last)

    def prepare(
        self, image: Picture, fit: FitMode = "squash"
    ) -> Float[Tensor, "channels rows columns"]:
        """Brings a stored picture to `size`; `crop` keeps its aspect and cuts the centre.

        Raises:
            ClassifierError: the picture has another number of channels.
            ImageError: it holds raw counts, and the classifier knows no stretch.
        """
        check_channels(image.shape[0], self.network.input)
        return fit_image(image, self.network.input, fit)

    def index_of(self, word: str | int) -> int:
        """The index of a class, by name, synonym, identifier or index; case does not matter.

        Raises:
            TargetError: no class is called so, or several are.
        """
        return self.names.index_of(word)

    def to(self, device: str | torch.device) -> Classifier:
        """Moves the network; a black box that lives on the CPU takes images from any device."""
        if torch.device(device) != self.device:
            self.device = torch.device(device)
            self._forward.to(self.device)
        return self

    def __repr__(self) -> str:
        size = "×".join(map(str, (self.channels, *self.size)))
        return f"Classifier({self.spec}, {size}, {len(self.classes)} classes)"

    def _count_classes(self) -> int:
        """Asks about one grey image; not counted as a query."""
        grey = torch.full((1, self.channels, *self.size), 0.5, device=self.device)
        try:
            with torch.no_grad():
                answer = self._forward(self.normalise(grey))
            return convert_to_logits(answer, self.network.output, count=1).shape[1]
        except ApercuError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ClassifierError(
                f"classifier {self.spec} cannot answer an image of "
                f"{'×'.join(map(str, grey.shape[1:]))}: {reason}; check its input"
            ) from error

    def _resolve_names(self, count: int) -> ClassNames:
        kind = "feature" if self.network.output == "features" else "class"
        names = self.network.names or ClassNames.make_numbered(count, kind)
        if len(names.names) != count:
            raise ClassifierError(
                f"classifier {self.spec} has {count} classes, but {len(names.names)} names"
            )
        return names
