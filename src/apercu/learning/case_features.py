"""What cases are compared by: a classifier's deepest features, whole and under its explanation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier, open_classifier
from apercu.classifiers.card import CARD_FILE
from apercu.errors import ClassifierError, ConfigError, NoFeatureMapsError, RunError
from apercu.explain.mask_explanation import NO_EVIDENCE
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.ready import resolve_run
from apercu.explainers.run_folder import CLASSIFIER, digest_run, load_explainer
from apercu.io import is_file, is_folder, parse_json
from apercu.maps import resize_maps
from apercu.methods import registry
from apercu.methods.base import MapExplainer
from apercu.methods.baselines import TrueBox
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder
from apercu.pages import SOURCES
from apercu.types import Images, Logits, Maps, Targets

ExplainFn: TypeAlias = Callable[[Images, Targets], Maps]
"""Images and the class of each → the evidence for it."""
CaseSource: TypeAlias = str | Path | Classifier | TrainedExplainer[Any, Any]
"""A SPEC, the run folder of a trained explainer, or either of them opened."""
Features: TypeAlias = Float[Tensor, "batch features"]

PROGRAMS = (".pt2", ".onnx")
"""Endings of files that hold a classifier."""
NO_REGION = "none"
"""Stands for a method where no region is compared."""
DEFAULT_METHODS = ("cam", "grad_cam")
"""Methods that are tried where none is named; the first that the classifier allows is taken."""
DEEPEST = "deepest_grad_cam"
"""Stands for `explain_deepest`, for classifiers that return feature maps but show no layers."""
REGION_LEVEL = 0.5
"""Fraction of the largest value of a map from which on a pixel belongs to the region."""


@dataclass(frozen=True, eq=False)
class EncodedCases:
    """What one pass of the classifier gives for images, and the explanation of one class each.

    Attributes:
        logits: logits, `batch × classes`.
        features: means of the deepest feature map over all positions, `batch × features`.
        maps: the evidence for the class in [0, 1], at the size of the images; None without
            explanation.
        weights: the share of each position of the feature map in the region, which sums to 1, or 0
            where nothing speaks for the class; None without explanation.
        region_features: the features, weighted by the region; None without explanation.
    """

    logits: Logits
    features: Features
    maps: Maps | None = None
    weights: Float[Tensor, "batch rows columns"] | None = None
    region_features: Features | None = None


class CaseEncoder:
    """Computes the features of images, and those of the region that speaks for a class.

    Args:
        classifier: a classifier whose layers can be reached.
        explain: gives the evidence for a class; None where no region is compared.
        region: identity of what explains, on which stored features depend.
        is_mask: whether the evidence is in [0, 1] already.
        uses_runner_up: whether the class that is predicted second is explained, as counterparts
            change an image into another class.
        method: name of the method that explains; None for a trained explainer.

    Raises:
        NoFeatureMapsError: the classifier does not show its layers, or has no feature maps.
        ConfigError: the output of the classifier is not that of its last layer.
    """

    def __init__(
        self,
        classifier: Classifier,
        explain: ExplainFn | None = None,
        region: str = NO_REGION,
        *,
        is_mask: bool = False,
        uses_runner_up: bool = False,
        method: str | None = None,
    ) -> None:
        self.classifier = classifier
        self.explain = explain
        self.region = region
        self.is_mask = is_mask
        self.uses_runner_up = uses_runner_up
        self.method = method
        try:
            self.network = EncoderWithHead(GraphEncoder(classifier)).eval()
        except NoFeatureMapsError as error:
            raise NoFeatureMapsError(
                f"{classifier.spec} shows no feature maps, so that images cannot be compared by "
                "them; give a classifier in PyTorch, or a student of it (apercu.distil)"
            ) from error

    @property
    def has_classes(self) -> bool:
        """Whether the numbers of the network are logits of classes, and not features."""
        return self.classifier.network.output != "features"

    @torch.no_grad()
    def encode(self, images: Images, targets: Targets | None = None) -> EncodedCases:
        """Compute the features of images, and explain one class of each.

        Args:
            images: images at the classifier's size, in [0, 1].
            targets: the class to explain in each image; None for the predicted one.

        Returns:
            Logits and features on the CPU.
        """
        images = images.to(self.classifier.device)
        logits, feature_maps = self.network(images)
        deepest = feature_maps[-1]
        features = deepest.mean((2, 3))
        if self.explain is None:
            return EncodedCases(logits.cpu(), features.cpu())
        if targets is None:
            targets = self.choose_targets(logits)
        maps = self.find_evidence(images, targets.to(images.device)).to(deepest)
        weights = weigh_region(maps, (deepest.shape[2], deepest.shape[3]))
        pooled = torch.einsum("bhw,bchw->bc", weights, deepest)
        return EncodedCases(logits.cpu(), features.cpu(), maps.cpu(), weights.cpu(), pooled.cpu())

    def find_evidence(self, images: Images, targets: Targets) -> Maps:
        """Return what speaks for a class of each image, in [0, 1].

        Masks stay as they are; other maps are divided by their largest value.

        Args:
            images: images at the classifier's size, in [0, 1].
            targets: the class of each image.

        Returns:
            Maps at the size of the images; 0 everywhere where nothing speaks for the class.

        Raises:
            ConfigError: the encoder explains nothing.
        """
        if self.explain is None:
            raise ConfigError("method: expected one that explains, got none")
        maps = self.explain(images, targets).clamp(min=0)
        if self.is_mask:
            return maps
        highest = maps.amax((1, 2), keepdim=True)
        return maps / torch.where(highest > 0, highest, 1.0)

    def choose_targets(self, logits: Logits) -> Targets:
        """Return the class of each image that is explained where none is named."""
        if not self.uses_runner_up:
            return logits.argmax(1)
        return logits.topk(min(2, logits.shape[1])).indices[:, -1]


def weigh_region(maps: Maps, size: tuple[int, int]) -> Float[Tensor, "batch rows columns"]:
    """Return how much each cell of a feature map belongs to the region of a map.

    The region is where the map reaches half of its largest value. A cell weighs as much as the map
    says inside the region, averaged over its pixels.

    Args:
        maps: maps at the size of the images; values below 0 speak against the class.
        size: rows and columns of the feature map.

    Returns:
        Weights that sum to 1 for each image, or are all 0 where nothing speaks for the class.

    >>> weigh_region(torch.tensor([[[0.0, 0.2], [0.3, 0.6]]]), (2, 2))
    tensor([[[0.0000, 0.0000],
             [0.3333, 0.6667]]])
    """
    positive = maps.clamp(min=0)
    highest = positive.amax((1, 2), keepdim=True)
    region = torch.where(positive >= REGION_LEVEL * highest, positive, 0.0)
    region = region / torch.where(highest > 0, highest, 1.0)
    cells = F.adaptive_avg_pool2d(region[:, None], size)[:, 0]
    total = cells.sum((1, 2), keepdim=True)
    return cells / torch.where(total > 0, total, 1.0)


def open_case_encoder(
    source: CaseSource,
    *,
    classifier: str | Path | Classifier | None = None,
    method: str | None = None,
    explains: bool = True,
    device: str = "cpu",
    trust: bool = False,
) -> CaseEncoder:
    """Open what compares images: a classifier with a method, or the classifier of an explainer.

    Args:
        source: SPEC of a classifier, a run folder of a trained explainer, or either of them opened.
        classifier: the explained classifier, for a run that does not hold it.
        method: the method that explains, as in a comparison; `none` for no region. By default CAM,
            or Grad-CAM where the classifier does not allow it. A run explains itself.
        explains: whether there are regions; without them no method is needed.
        device: `auto`, `cpu`, `cuda` or `mps`, where to compute.
        trust: whether a card or a folder may name a factory, whose code is run.

    Returns:
        The encoder.

    Raises:
        ClassifierError: the classifier cannot be opened, or the method needs what it does not show.
        ConfigError: two things are given that exclude each other.
        RunError: the run cannot be opened, or its classifier is missing.
    """
    explainer = source if isinstance(source, TrainedExplainer) else None
    if isinstance(source, str | Path) and is_explainer_run(source):
        explainer = load_explainer(source, device, trust=trust)
    if explainer is not None:
        if method is not None:
            raise ConfigError("method: a trained explainer explains itself; leave the method out")
        opened = _open_spec(classifier, device, trust) if classifier is not None else None
        encoder = _encode_by_explainer(explainer.to(device), opened)
        return encoder if explains else CaseEncoder(encoder.classifier)
    if classifier is not None:
        raise ConfigError(
            "classifier: only a trained explainer needs its classifier beside it; name it once"
        )
    opened = _open_spec(cast("str | Path | Classifier", source), device, trust)
    return _encode_by_method(opened, method if explains else NO_REGION)


def is_explainer_run(source: str | Path) -> bool:
    """Return whether a text or path names the run folder of a trained explainer."""
    return is_file(resolve_run(source) / CLASSIFIER)


def is_classifier(source: str | Path) -> bool:
    """Return whether a path names a classifier: a card, its folder, a program, or a SPEC."""
    path = Path(source)
    card = path / CARD_FILE if is_folder(path) else path
    if not is_file(card):
        return str(source).startswith(SOURCES) and not is_folder(path)
    if card.suffix != ".json":
        return card.suffix in PROGRAMS
    try:
        content = parse_json(card.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "source" in content


def _open_spec(spec: str | Path | Classifier, device: str, trust: bool) -> Classifier:
    if isinstance(spec, Classifier):
        return spec.to(device)
    return open_classifier(spec, device=device, trust=trust)


def _encode_by_explainer(
    explainer: TrainedExplainer[Any, Any], classifier: Classifier | None
) -> CaseEncoder:
    """Return the encoder whose regions are the maps of a trained explainer."""
    if classifier is None:
        classifier = explainer.own_classifier
    if classifier is None:
        raise RunError(
            f"this explainer does not hold its classifier, {explainer.classifier_info.spec}, whose "
            "features are compared; name it with --classifier SPEC (in Python classifier=…)"
        )
    explainer.classifier_info.check_classifier(classifier)

    def explain(images: Images, targets: Targets) -> Maps:
        maps = explainer.attribute(images, targets)
        if explainer.map_scale != "mask":
            return maps
        return torch.where(maps.amax((1, 2), keepdim=True) >= NO_EVIDENCE, maps, 0.0)

    region = f"run {digest_run(explainer)}"
    is_mask, changes = explainer.map_scale == "mask", not explainer.makes_masks
    return CaseEncoder(classifier, explain, region, is_mask=is_mask, uses_runner_up=changes)


def _encode_by_method(classifier: Classifier, method: str | None) -> CaseEncoder:
    """Return the encoder whose regions are those of a method."""
    plain = CaseEncoder(classifier)
    if not plain.has_classes:
        if method not in (None, NO_REGION):
            raise ConfigError(
                f"method: {classifier.spec} computes features and knows no classes that could be "
                "explained; leave the method out"
            )
        return plain
    if method == NO_REGION:
        return plain
    if method is None and not classifier.exposes_layers and classifier.differentiable:
        deepest = functools.partial(explain_deepest, plain)
        return CaseEncoder(classifier, deepest, DEEPEST, method=DEEPEST)
    name = _choose_default_method(classifier) if method is None else method
    chosen = _parse_method(name)
    _try_method(chosen, classifier)

    def explain(images: Images, targets: Targets) -> Maps:
        return chosen(classifier, images, targets)

    is_mask = chosen.map_scale != "map"
    return CaseEncoder(classifier, explain, chosen.cache_key, is_mask=is_mask, method=name)


def explain_deepest(encoder: CaseEncoder, images: Images, targets: Targets) -> Maps:
    """Return the Grad-CAM of the deepest feature map, which needs no hooks (Selvaraju et al. 2017).

    It is for exported programs: they return their feature maps, but show no layers.

    Args:
        encoder: a classifier that gives gradients.
        images: images at the classifier's size, in [0, 1].
        targets: the class of each image.

    Returns:
        Maps at the size of the images.

    Raises:
        ClassifierError: the logits do not depend on the feature map that is returned.
    """
    with torch.enable_grad():
        logits, feature_maps = encoder.network(images.detach().requires_grad_())
        score = logits.gather(1, targets[:, None]).sum()
        [gradients] = torch.autograd.grad(score, [feature_maps[-1]], allow_unused=True)
    if gradients is None:
        raise ClassifierError(
            f"{encoder.classifier.spec}: its logits do not follow from the feature map that it "
            "returns; name a --method, or none for whole images only"
        )
    weights = gradients.mean((2, 3), keepdim=True)
    coarse = (weights * feature_maps[-1].detach()).sum(1).clamp(min=0)
    return resize_maps(coarse, (images.shape[2], images.shape[3]))


def _parse_method(text: str) -> MapExplainer:
    method = registry.get(text)
    if isinstance(method, TrueBox):
        raise ConfigError(f"method: {text} knows the truth, which new images lack; name another")
    return method


def _choose_default_method(classifier: Classifier) -> str:
    """Return the name of the first of `DEFAULT_METHODS` that a classifier allows."""
    for name in DEFAULT_METHODS:
        try:
            _try_method(_parse_method(name), classifier)
        except ClassifierError:
            continue
        return name
    raise ClassifierError(
        f"{classifier.spec} allows neither cam nor grad_cam; name another --method, none for whole "
        "images only, or give the run of a trained explainer"
    )


def _try_method(method: MapExplainer, classifier: Classifier) -> None:
    grey = torch.full((1, classifier.channels, *classifier.size), 0.5, device=classifier.device)
    method(classifier, grey, torch.zeros(1, dtype=torch.long, device=grey.device))
