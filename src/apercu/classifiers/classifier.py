"""The image classifier as the rest of the package uses it: images in [0, 1] → logits."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apercu.classifiers.card import RAW_COUNTS
from apercu.classifiers.names import ClassNames, ClassWord
from apercu.classifiers.network import Network
from apercu.classifiers.output_checks import resolve_output
from apercu.classifiers.preprocessing import (
    FitMode,
    check_channels,
    check_images,
    check_picture,
    fit_image,
)
from apercu.classifiers.probe import (
    NetworkProbe,
    TensorLayout,
    find_device,
    find_dtype,
    freeze_module,
)
from apercu.devices import read_device
from apercu.errors import ClassifierError, ConfigError, first_line
from apercu.filters import FilterLayer, parse_filter
from apercu.log import warn
from apercu.types import Images, Logits, Picture

if TYPE_CHECKING:
    from apercu.images import ImageSource


@final
class Classifier:
    """An image classifier that checks and normalises its images, and knows its class names.

    Two plain images are classified at once, so that a network that does not work is refused here.
    The network is put into evaluation mode, and its parameters receive no gradients; images do,
    where `differentiable` is true.

    Args:
        network: the network that a source has opened.
        spec: the text by which the caller named the classifier; the source of the network if None.

    Attributes:
        filter: the filter in front of the network, or None. It is a part of the classifier:
            gradients pass it by its differentiable surrogate.
        queries: number of images that were classified so far.
        module: the network, where its layers can be reached by hooks; else None.
        fingerprint: identity of weights, preprocessing and kind of output, a SHA-256.
        gradient_fault: why an open network gives no gradients; else empty.
        layout: the precision and the order in memory in which the network takes its images.
        output: what the numbers of the network mean.
        decision: how logits become probabilities and predicted classes.

    Raises:
        ClassifierError: the network cannot classify an image of its own size, the number of
            class names is wrong, or it takes raw counts and has a filter.
    """

    def __init__(self, network: Network, *, spec: str | None = None) -> None:
        self.spec = spec or network.source
        self.channels = network.input.channels
        self.bands = network.input.bands
        self.size = network.input.size
        self.resize = network.input.resize
        self.queries = 0
        self.filter = None if network.filter is None else parse_filter(network.filter, "filter")
        self._filter_layer = FilterLayer(self.filter, "surrogate") if self.filter else None
        if self.filter is not None and network.input.takes_raw_counts:
            raise ClassifierError(f"classifier {self.spec}: filter: {RAW_COUNTS}")
        self._forward = network.forward
        self.module = network.forward if isinstance(network.forward, nn.Module) else None
        self.device = find_device(network.forward)
        self.layout = TensorLayout(find_dtype(network.forward))
        if self._filter_layer is not None:  # before any trace, as some filters keep tables
            self._filter_layer(torch.full((1, self.channels, *self.size), 0.5))
        with torch.random.fork_rng(devices=[]):
            self.network = self._resolve_output(network)
            self.gradient_fault = self._adapt_to_network()
        self.output = self.network.meaning
        self.decision = self.output.decision
        self.fingerprint = self.network.compute_fingerprint()
        self.names = self._resolve_names()
        self.differentiable = network.differentiable and not self.gradient_fault

    @property
    def classes(self) -> tuple[str, ...]:
        """Readable names of the classes, in the order of the logits."""
        return self.names.names

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Identifiers of the classes (WordNet's, say), in the order of the logits; else names."""
        return self.names.identifiers

    @property
    def guard_folder(self) -> Path | None:
        """The folder of the guard that the card names, or None; see `apercu.guard`."""
        return None if self.network.guard is None else Path(self.network.guard)

    def open_images(self, images: str | Path | ImageSource) -> ImageSource:
        """Open images as the classifier takes them: with its channels, and the bands of its card.

        Args:
            images: a folder, a file or another SPEC; a source that is open already is returned.

        Returns:
            The source of the images.

        Raises:
            ImagesError: there are no such images, or they have other channels.
        """
        from apercu.images import ImageSource, open_images

        if isinstance(images, ImageSource):
            return images
        return open_images(images, channels=self.channels, bands=self.bands)

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
                f"classifier {self.spec} gives no gradients{self.gradient_reason}; distil a "
                "student from it, or use a method that only queries"
            )
        self.queries += len(images)
        return self.network.read_logits(self._forward(self.normalise(images)), len(images))

    def compute_logits_at_any_size(self, images: Images) -> Logits:
        """Return the logits of images of another size, which are neither checked nor counted.

        Raises:
            ClassifierError: the classifier is a black box, whose size is fixed.
        """
        if self.module is None:
            raise ClassifierError(f"classifier {self.spec} takes images of its own size only")
        return self.network.read_logits(self.module(self.normalise(images)), len(images))

    def require_classes(self) -> None:
        """Check that the numbers of the network are classes, and not features alone.

        Raises:
            ClassifierError: they are features, as those of a pretrained network.
        """
        if self.network.output == "features":
            raise ClassifierError(
                f"{self.spec}: gives features and no classes, as it was trained without labels; "
                "train a classifier from it first: apercu train classifier --network …"
            )

    def takes_size(self, size: tuple[int, int]) -> bool:
        """Return whether the network takes images of another height and width, in pixels.

        A grey image is tried, which does not count as a query.
        """
        grey = torch.full((1, self.channels, *size), 0.5, device=self.device)
        try:
            with torch.no_grad():
                logits = self.compute_logits_at_any_size(grey)
        except (ClassifierError, AssertionError, RuntimeError, ValueError, TypeError, LookupError):
            return False
        return logits.shape == (1, len(self.classes)) and bool(torch.isfinite(logits).all())

    @property
    def gradient_reason(self) -> str:
        """The reason for which there are no gradients, in brackets after a space, or nothing."""
        return f" ({self.gradient_fault})" if self.gradient_fault else ""

    @property
    def zero_colour(self) -> tuple[float, ...]:
        """The colour that the normalisation turns into 0; black where a rule normalises."""
        spec = self.network.input
        if spec.mean is None:
            return (0.0,) * spec.channels
        return tuple(min(1.0, max(0.0, value)) for value in spec.mean)

    def predict_probabilities(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Return the probability of each class: a softmax, or a sigmoid of each class by itself."""
        return self.decision.probabilities(self(images))

    def without_filter(self) -> Classifier:
        """Return the same classifier without the filter in front; it shares the network.

        A guard belongs to the whole classifier, and is left out, too.
        """
        if self.filter is None:
            return self
        bare = copy.copy(self)
        bare.filter = bare._filter_layer = None
        bare.network = replace(self.network, filter=None, guard=None)
        bare.fingerprint = bare.network.compute_fingerprint()
        bare.queries = 0
        return bare

    def without_guard(self) -> Classifier:
        """Return the same classifier without the guard of its card; it shares the network."""
        if self.network.guard is None:
            return self
        bare = copy.copy(self)
        bare.network = replace(self.network, guard=None)
        bare.queries = 0
        return bare

    def normalise(self, images: Images) -> Images:
        """Return what `module` receives for these images: filtered, then normalised."""
        if self._filter_layer is not None:
            images = self._filter_layer(images)
        return self.layout.normalise(images, self.network.input)

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
            ImageError: it is no float tensor, or it holds raw counts and the classifier has no
                stretch.
        """
        check_picture(image)
        check_channels(image.shape[0], self.network.input)
        return fit_image(image, self.network.input, fit)

    def index_of(self, word: ClassWord) -> int:
        """Return the index of a class by its name, synonym, identifier or index, in any case.

        Raises:
            TargetError: no class has this name, or several have it; or the word is neither text nor
                a whole number.
        """
        return self.names.find_index(word)

    def to(self, device: str | torch.device) -> Classifier:
        """Move the network to a device; a black box stays on the CPU and takes images from any.

        Args:
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, `mps`, or a device of torch.

        Returns:
            This classifier.

        Raises:
            ClassifierError: there is no such device, or it cannot hold the network.
        """
        try:
            target = read_device(device)
            if target != self.device:
                self._forward.to(target)
        except (ConfigError, AssertionError, TypeError, RuntimeError) as error:
            raise ClassifierError(
                f"classifier {self.spec} cannot be moved to {device}: {first_line(error)}"
            ) from error
        self.device = target
        return self

    def __repr__(self) -> str:
        size = "×".join(map(str, (self.channels, *self.size)))
        return f"Classifier({self.spec}, {size}, {len(self.classes)} classes)"

    def _resolve_output(self, network: Network) -> Network:
        """Classify a grey image, which does not count as a query, and see what the numbers are."""
        if self.module is not None:
            freeze_module(self.module)
        grey = torch.full((1, self.channels, *self.size), 0.5, device=self.device)
        probe = NetworkProbe(self._forward, network.input, self.spec, self.device, self.layout)
        return resolve_output(network, probe.run, grey, self.spec)

    def _adapt_to_network(self) -> str:
        """Choose the layout of the images; return why no gradients reach them, if that is so."""
        probe = self._make_probe()
        self.layout = probe.choose_layout(self.module)
        fault = probe.find_gradient_fault() if self.network.differentiable else ""
        if fault:
            warn(
                f"classifier {self.spec} gives no gradients ({fault}); methods that need them "
                "refuse it, and trainings distil a student in its place"
            )
        return fault

    def _make_probe(self) -> NetworkProbe:
        """Return the network as it is tried on images, with logits as its numbers."""

        def compute(images: Images) -> Logits:
            raw = self._forward(images)
            return self.network.read_logits(raw, len(images))

        return NetworkProbe(compute, self.network.input, self.spec, self.device, self.layout)

    def _resolve_names(self) -> ClassNames:
        """Return the network's class names, or numbered ones, and check how many there are."""
        count = self.output.class_count
        names = self.output.name_classes(self.network.names)
        if len(names.names) != count:
            raise ClassifierError(
                f"classifier {self.spec} has {count} classes, but {len(names.names)} names"
            )
        return names
