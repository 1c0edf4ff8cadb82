"""AntidoteRT: neuron patterns recognise poisoned inputs at run time, and the trigger is removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ImagesError
from apercu.extras import require_extra
from apercu.filters.checks import check_between, check_count, check_whole
from apercu.methods.layers import compute_deep_features
from apercu.option_strings import MAX_SEED
from apercu.robustness.backdoors.base import fill_regions
from apercu.types import Images, Regions, Scores, Targets

FEWEST_SAMPLES = 5
"""Smallest number of clean and of poisoned samples from which patterns are mined."""
ALARM = 0.5
"""Fraction of poisoned samples in a pattern above which an image is flagged."""
SIDES = (0.125, 0.1875, 0.25, 0.375)
"""Sides of the windows that may hold a trigger, as fractions of the shorter side of the image."""
BATCH = 256


@dataclass(frozen=True, eq=False)
class Correction:
    """Images whose trigger was reset to a neutral colour, and what is predicted of them then.

    Attributes:
        images: the repaired images; those where no trigger was located are unchanged.
        regions: the pixels that were reset, `batch × height × width`.
        predicted: predicted classes after the repair.
        is_located: whether a trigger was located in each image.
    """

    images: Images
    regions: Regions
    predicted: Targets
    is_located: Bool[Tensor, " batch"]


@final
@dataclass(frozen=True)
class AntidoteRt:
    """Mines neuron patterns of poisoned samples, flags inputs that match, and repairs them.

    After Usman, Sun, Gopinath and Pasareanu (2022, AntidoteRT). The claim: patterns mined from a
    small set of clean and poisoned samples with known labels recognise new poisoned inputs;
    differential analysis then locates the trigger, which is reset to a neutral colour, and the
    input is classified again; nothing is trained again. The paper's layer, the size of the
    patterns and the details of its analysis were not known to us. Our choices: a decision tree over
    the input of the last layer; the difference is that of the predicted probability with and
    without a window, from small windows to larger ones, until one takes the class away; the
    neutral colour is the mean of the clean samples.

    Args:
        depth: largest number of neurons in a pattern.
        drop: fraction of the predicted probability that a window has to take away.
        samples: largest number of clean, and of poisoned samples that are used.
        seed: seed of the tree, for equal splits.
    """

    depth: int = 3
    drop: float = 0.5
    samples: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        require_extra("robust", "antidote", "sklearn")
        check_count(self.depth, "antidote: depth")
        check_between("antidote", 0.01, 1.0, drop=self.drop)
        check_whole("antidote", FEWEST_SAMPLES, 10**6, samples=self.samples)
        check_whole("antidote", 0, MAX_SEED, seed=self.seed)

    def fit(
        self,
        classifier: Classifier,
        clean: Images,
        poisoned: Float[Tensor, "others channels height width"],
    ) -> Antidote:
        """Mine the patterns of poisoned samples.

        Args:
            classifier: classifier whose layers can be reached.
            clean: clean samples, `batch × channels × height × width`.
            poisoned: poisoned samples that get the attacker's class, of the same size.

        Returns:
            The fitted antidote.

        Raises:
            ImagesError: there are too few samples.
            ClassifierError: the layers cannot be reached.
        """
        from sklearn.tree import DecisionTreeClassifier

        clean, poisoned = clean[: self.samples], poisoned[: self.samples]
        check_samples(clean=len(clean), poisoned=len(poisoned))
        with torch.no_grad():
            features = [compute_deep_features(classifier, part).cpu() for part in (clean, poisoned)]
            targets = classifier(poisoned).argmax(1)
        is_poisoned = torch.tensor([0] * len(clean) + [1] * len(poisoned))
        tree = DecisionTreeClassifier(
            max_depth=self.depth, class_weight="balanced", random_state=self.seed
        )
        tree.fit(torch.cat(features).numpy(), is_poisoned.numpy())
        neutral = clean.mean((0, 2, 3), keepdim=True)
        return Antidote(classifier, self, neutral, tuple(sorted(set(targets.tolist()))), tree)


@dataclass(frozen=True, eq=False)
class Antidote:
    """Patterns that were mined for one classifier: it scores, flags and repairs inputs.

    Attributes:
        classifier: the classifier.
        settings: the settings of the method.
        neutral: the neutral colour, `1 × channels × 1 × 1`.
        targets: classes that the poisoned samples got.
        tree: the decision tree over the neurons.
    """

    classifier: Classifier
    settings: AntidoteRt
    neutral: Float[Tensor, "1 channels 1 1"]
    targets: tuple[int, ...]
    tree: Any = field(repr=False)

    @torch.no_grad()
    def __call__(self, images: Images) -> Scores:
        """Return the fraction of poisoned samples in the pattern that each image matches.

        An image that gets none of the attacker's classes has a score of 0.
        """
        features = compute_deep_features(self.classifier, images).cpu().numpy()
        scores = torch.from_numpy(self.tree.predict_proba(features)[:, 1]).float()
        predicted = self.classifier(images).argmax(1).cpu()
        is_target = torch.isin(predicted, torch.tensor(self.targets))
        return torch.where(is_target, scores, 0.0).to(images.device)

    def flag(self, images: Images) -> Bool[Tensor, " batch"]:
        """Return whether each image matches a pattern of poisoned samples."""
        return self(images) > ALARM

    def describe_patterns(self) -> list[str]:
        """Describe each pattern of poisoned samples as conditions on neurons."""
        tree, lines = self.tree.tree_, []

        def walk(node: int, conditions: tuple[str, ...]) -> None:
            if tree.children_left[node] < 0:
                clean, poisoned = tree.value[node][0]
                if poisoned > ALARM * (clean + poisoned):
                    lines.append(" and ".join(conditions) or "always")
                return
            name, value = f"neuron {tree.feature[node]}", tree.threshold[node]
            walk(int(tree.children_left[node]), (*conditions, f"{name} <= {value:.3g}"))
            walk(int(tree.children_right[node]), (*conditions, f"{name} > {value:.3g}"))

        walk(0, ())
        return lines

    @torch.no_grad()
    def correct(self, images: Images) -> Correction:
        """Locate the trigger of flagged images, reset it to the neutral colour, classify again.

        Args:
            images: flagged images, `batch × channels × height × width`.

        Returns:
            The repaired images with their predicted classes.
        """
        regions = torch.stack([self._locate(image[None]) for image in images])
        is_located = regions.flatten(1).any(1)
        repaired = fill_regions(images, regions, self.neutral)
        return Correction(repaired, regions, self.classifier(repaired).argmax(1), is_located)

    def _locate(self, image: Images) -> Bool[Tensor, "height width"]:
        """Return the smallest window that takes the predicted class away; empty if none does."""
        before = self.classifier.predict_probabilities(image)
        target = int(before.argmax(1))
        for windows in self._list_windows(image.shape[2], image.shape[3]):
            remaining = []
            for part in torch.split(windows.to(image.device), BATCH):
                filled = fill_regions(image.expand(len(part), -1, -1, -1), part, self.neutral)
                remaining.append(self.classifier.predict_probabilities(filled)[:, target])
            probability, best = torch.cat(remaining).min(0)
            if probability <= (1 - self.settings.drop) * before[0, target]:
                return windows[int(best)].to(image.device)
        return torch.zeros(image.shape[2:], dtype=torch.bool, device=image.device)

    def _list_windows(self, height: int, width: int) -> list[Regions]:
        """Return all windows of each side, which overlap by half."""
        groups = []
        for fraction in SIDES:
            side = max(1, round(fraction * min(height, width)))
            stride = max(1, side // 2)
            tops = sorted({*range(0, height - side, stride), height - side})
            lefts = sorted({*range(0, width - side, stride), width - side})
            windows = torch.zeros(len(tops) * len(lefts), height, width, dtype=torch.bool)
            for number, (top, left) in enumerate(product(tops, lefts)):
                windows[number, top : top + side, left : left + side] = True
            groups.append(windows)
        return groups


def check_samples(**counts: int) -> None:
    """Check that there are enough samples to mine patterns from.

    Raises:
        ImagesError: there are too few samples of a kind.
    """
    for name, count in counts.items():
        if count < FEWEST_SAMPLES:
            raise ImagesError(
                f"antidote: expected at least {FEWEST_SAMPLES} {name} samples to mine patterns "
                f"from, got {count}"
            )
