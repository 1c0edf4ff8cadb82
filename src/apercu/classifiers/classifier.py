"""The image classifier as the rest of the package sees it: images in [0, 1] → logits."""

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
    """An image classifier that checks and normalises its images, and knows its class names.

    One grey image is classified at once, so that a network that does not work is refused here.
    The network is put into evaluation mode, and its parameters receive no gradients; images do,
    where `differentiable` is true.

    Args:
        network: the network that a source has opened.
        spec: the text by which the caller named the classifier; the source of the network if None.

    Attributes:
        queries: number of images that were classified so far.
        module: the network, where its layers can be reached by hooks; else None.
        fingerprint: identity of weights, preprocessing and kind of output, a SHA-256.

    Raises:
        ClassifierError: the network cannot classify an image of its own size, or the number of
            class names is wrong.
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
        """Readable names of the classes, in the order of the logits."""
        return self.names.names

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Identifiers of the classes (WordNet's, say), in the order of the logits; else names."""
        return self.names.identifiers

    @property
    def exposes_layers(self) -> bool:
        """Whether `module` is a tree of layers that hooks can reach."""
        return self.module is not None

    def __call__(self, images: Tensor) -> Logits:
        """Return the logits of a batch of images.

        Args:
            images: images at the classifier's size, `batch × channels × height × width`, float.

        Returns:
            Logits, `batch × classes`.

        Raises:
            ClassifierError: the number of channels or the size is wrong, or gradients are needed
                that this classifier cannot give.
            ImageError: pixels are outside [0, 1] or not numbers. Only a classifier with the rule
                `l2_per_channel` takes raw counts.
        """
        check_images(images, self.network.input)
        return self.compute_logits_unchecked(images)

    def compute_logits_unchecked(self, images: Images) -> Logits:
        """Return the logits of images whose pixels may have any value, as some methods need it.

        Raises:
            ClassifierError: gradients are needed that this classifier cannot give.
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
        """Return the logits of images of another size, which are neither checked nor counted.

        Raises:
            ClassifierError: the classifier is a black box, whose size is fixed.
        """
        if self.module is None:
            raise ClassifierError(f"classifier {self.spec} takes images of its own size only")
        return convert_to_logits(
            self.module(self.normalise(images)), self.network.output, count=len(images)
        )

    @property
    def zero_colour(self) -> tuple[float, ...]:
        """The colour that the normalisation turns into 0; black where a rule normalises."""
        spec = self.network.input
        if spec.mean is None:
            return (0.0,) * spec.channels
        return tuple(min(1.0, max(0.0, value)) for value in spec.mean)

    def predict_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Return the softmax of the logits."""
        return self(images).softmax(dim=1)

    def normalise(self, images: Images) -> Images:
        """Return what `module` receives for these images."""
        normalised = normalise(images, self.network.input)
        if self.module is None:
            return normalised
        return normalised.contiguous(memory_format=torch.channels_last)

    def prepare(
        self, image: Picture, fit: FitMode = "squash"
    ) -> Float[Tensor, "channels rows columns"]:
        """Resize a stored image to `size`.

        Args:
            image: a stored image, `channels × height × width`.
            fit: `squash` takes the whole image; `crop` keeps its aspect and cuts out the centre.

        Returns:
            The image at the classifier's size, `channels × rows × columns`.

        Raises:
            ClassifierError: the image has another number of channels.
            ImageError: it holds raw counts, and the classifier has no stretch.
        """
        check_channels(image.shape[0], self.network.input)
        return fit_image(image, self.network.input, fit)

    def index_of(self, word: str | int) -> int:
        """Return the index of a class by its name, synonym, identifier or index, in any case.

        Raises:
            TargetError: no class has this name, or several have it.
        """
        return self.names.find_index(word)

    def to(self, device: str | torch.device) -> Classifier:
        """Move the network to a device; a black box stays on the CPU and takes images from any."""
        if torch.device(device) != self.device:
            self.device = torch.device(device)
            self._forward.to(self.device)
        return self

    def __repr__(self) -> str:
        size = "×".join(map(str, (self.channels, *self.size)))
        return f"Classifier({self.spec}, {size}, {len(self.classes)} classes)"

    def _count_classes(self) -> int:
        """Classify one grey image, which does not count as a query, and count its logits."""
        grey = torch.full((1, self.channels, *self.size), 0.5, device=self.device)
        try:
            with torch.no_grad():
                raw = self._forward(self.normalise(grey))
            return convert_to_logits(raw, self.network.output, count=1).shape[1]
        except ApercuError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ClassifierError(
                f"classifier {self.spec} cannot classify an image of "
                f"{'×'.join(map(str, grey.shape[1:]))}: {reason}; check its input"
            ) from error

    def _resolve_names(self, count: int) -> ClassNames:
        """Return the network's class names, or numbered ones, and check how many there are."""
        kind = "feature" if self.network.output == "features" else "class"
        names = self.network.names or ClassNames.make_numbered(count, kind)
        if len(names.names) != count:
            raise ClassifierError(
                f"classifier {self.spec} has {count} classes, but {len(names.names)} names"
            )
        return names
