"""Which images to label next: the most uncertain, those unlike all labelled ones, or both.

Uncertainty is the margin of the two largest probabilities or the entropy of all (Settles 2009).
`centre` is greedy k-centre (Sener and Savarese 2018): the image that is farthest from all labelled
and chosen ones comes next. `combined` takes k-centre among the most uncertain images, as Zhdanov
(2019) does with clusters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers.decisions import Decision
from apercu.errors import ConfigError, ImagesError
from apercu.explain.explanation import format_percent
from apercu.learning.case_index import CaseIndex, format_distance
from apercu.types import Scores

if TYPE_CHECKING:
    from apercu.learning.case_features import CaseEncoder

Features: TypeAlias = Float[Tensor, "images features"]
Strategy: TypeAlias = Literal["combined", "margin", "entropy", "centre"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
COLUMNS = (
    *("file", "rank", "reason", "predicted", "probability"),
    *("margin", "entropy", "distance", "nearest"),
)
SHORTLIST = 5
"""Uncertain images for each one that `combined` chooses."""
DIGITS = 6


@dataclass(frozen=True)
class LabelChoice:
    """One image to be labelled, and why.

    Attributes:
        row: its row in the index.
        name: its name in the source of the images.
        rank: its place in the list, from 1.
        reason: why it was chosen, in words.
        predicted: the class that the classifier predicts; None for a network without classes.
        probability: the probability of that class.
        margin: how clearly it is decided, as `measure_margins` says; None without classes.
        entropy: the entropy of the probabilities, as a fraction of the largest; None without
            classes.
        distance: 1 less the cosine to the nearest image that is labelled, or was chosen before;
            None where there was none.
        nearest: the name of that image.
    """

    row: int
    name: str
    rank: int
    reason: str
    predicted: str | None
    probability: float | None
    margin: float | None
    entropy: float | None
    distance: float | None
    nearest: str | None

    def list_cells(self) -> Iterator[object]:
        """Yield the cells of its row in `next.csv`, in the order of `COLUMNS`."""
        yield from (self.name, self.rank, self.reason, self.predicted or "")
        for value in (self.probability, self.margin, self.entropy, self.distance):
            yield "" if value is None else round(value, DIGITS)
        yield self.nearest or ""


@dataclass(frozen=True, eq=False)
class LabelChooser:
    """Chooses images of an index; it needs no network.

    Args:
        index: the images.
        classes: short names of the classes; empty for a network without classes.
        probabilities: probabilities of each image; None for a network without classes.
        decision: one class of an image is true, or each class by itself.
        labelled: further images that are labelled already.
    """

    index: CaseIndex
    classes: tuple[str, ...]
    probabilities: Float[Tensor, "cases classes"] | None
    decision: Decision
    labelled: CaseIndex | None = None

    @classmethod
    def from_encoder(
        cls, encoder: CaseEncoder, index: CaseIndex, labelled: CaseIndex | None = None
    ) -> LabelChooser:
        """Return the chooser of an index with the classes of its classifier."""
        classifier = encoder.classifier
        if not encoder.has_classes:
            return cls(index, (), None, classifier.decision, labelled)
        names = classifier.names.short_names
        probabilities = classifier.decision.probabilities(index.logits)
        return cls(index, names, probabilities, classifier.decision, labelled)

    def choose(
        self,
        labelled: Collection[int],
        by: Strategy = "combined",
        batch: int = 20,
        skipped: Collection[int] = (),
    ) -> list[LabelChoice]:
        """Choose images that have no label.

        Args:
            labelled: rows of the images that have one.
            by: how they are chosen.
            batch: how many, at most.
            skipped: rows of further images that are not chosen.

        Returns:
            The images, the most useful first.

        Raises:
            ConfigError: the network knows no classes, and they are needed.
            ImagesError: all images have labels.
        """
        have = set(labelled)
        left_out = have.union(skipped)
        rows = torch.tensor([row for row in range(len(self.index)) if row not in left_out])
        if not len(rows):
            name = self.index.source.name
            raise ImagesError(f"{name}: all {len(self.index)} images have labels; add further ones")
        if self.probabilities is None and by != "centre":
            raise ConfigError(
                f"by: the network knows no classes, so {by} cannot be measured; use centre"
            )
        if self.probabilities is not None and by != "centre":
            rows = self._sort_by_uncertainty(rows, "entropy" if by == "entropy" else "margin")
        if by in ("margin", "entropy"):
            return [self.describe(int(row), rank, by) for rank, row in enumerate(rows[:batch], 1)]
        if by == "combined":
            rows = rows[: SHORTLIST * batch]
        features, names = self._gather_labelled(sorted(have))
        centres = choose_centres(self.index.features[rows], features, batch)
        choices: list[LabelChoice] = []
        for rank, centre in enumerate(centres, 1):
            nearest = None if centre.nearest is None else names[centre.nearest]
            choice = self.describe(int(rows[centre.row]), rank, by, centre.distance, nearest)
            choices.append(choice)
            names.append(choice.name)  # a later centre may be nearest to this one
        return choices

    def _sort_by_uncertainty(self, rows: Tensor, measure: str) -> Tensor:
        """Return rows with the most uncertain first; equal ones stay in their order."""
        if self.probabilities is None:
            return rows
        probabilities = self.probabilities[rows]
        if measure == "entropy":
            certainty = -measure_entropies(probabilities, self.decision)
        else:
            certainty = measure_margins(probabilities, self.decision)
        return rows[certainty.argsort(stable=True)]

    def _gather_labelled(self, rows: list[int]) -> tuple[Features, list[str]]:
        """Return features and names of everything that has a label."""
        features, names = self.index.features[rows], [self.index.cases[row].name for row in rows]
        if self.labelled is not None:
            features = torch.cat([features, self.labelled.features])
            names += [case.name for case in self.labelled.cases]
        return features, names

    def describe(
        self,
        row: int,
        rank: int = 1,
        by: str = "margin",
        distance: float | None = None,
        nearest: str | None = None,
    ) -> LabelChoice:
        """Return an image with its figures and the reason for which it is chosen.

        Args:
            row: its row in the index.
            rank: its place in the list.
            by: how it is chosen.
            distance: distance to the nearest image that is labelled or chosen; None without any.
            nearest: name of that image.

        Returns:
            The choice.
        """
        reasons = []
        predicted, probability, margin, entropy = None, None, None, None
        if self.probabilities is not None:
            own = self.probabilities[row : row + 1]
            margin = float(measure_margins(own, self.decision))
            entropy = float(measure_entropies(own, self.decision))
            predicted, probability = self.classes[int(own[0].argmax())], float(own[0].max())
            clarity = (own[0] - 0.5).abs() if self.decision.is_multiple else -own[0]
            undecided = clarity.argsort(stable=True)[:2].tolist()
            classes = ", ".join(
                f"{self.classes[index]} {format_percent(float(own[0, index]))}"
                for index in undecided
            )
            measured = f"entropy {entropy:.2f}" if by == "entropy" else f"margin {margin:.2f}"
            if by != "centre":
                reasons.append(f"uncertain ({measured}): {classes}")
        if by in ("centre", "combined"):
            reasons.append(
                "the most typical of all, as none is labelled"
                if distance is None
                else f"{format_distance(distance)} from the nearest labelled or chosen image, "
                f"{nearest}"
            )
        name = self.index.cases[row].name
        return LabelChoice(
            row=row,
            name=name,
            rank=rank,
            reason="; ".join(reasons),
            predicted=predicted,
            probability=probability,
            margin=margin,
            entropy=entropy,
            distance=distance,
            nearest=nearest,
        )


@dataclass(frozen=True)
class Centre:
    """One image that greedy k-centre chose.

    Attributes:
        row: its row among the candidates.
        distance: 1 less the cosine to the nearest image before it; None for the first of all.
        nearest: that image: its row among the labelled ones, and after them the chosen ones.
    """

    row: int
    distance: float | None
    nearest: int | None


def choose_centres(
    candidates: Float[Tensor, "candidates features"],
    labelled: Float[Tensor, "labelled features"],
    count: int,
) -> list[Centre]:
    """Choose images by greedy k-centre: each is the farthest from all labelled and chosen ones.

    Without labelled images the first is the one nearest to the mean direction of all.

    Args:
        candidates: features of the images to choose from.
        labelled: features of the labelled images; there may be none.
        count: how many are chosen, at most.

    Returns:
        The chosen ones, in their order.
    """
    points = F.normalize(candidates.double(), dim=1)
    distances = torch.full((len(points),), torch.inf, dtype=torch.double)
    nearest = torch.full((len(points),), -1)
    centres: list[Centre] = []

    def add(features: Tensor, number: int) -> None:
        """Shorten the distances to a further image."""
        to_image = (1 - points @ features).clamp(min=0)
        is_nearer = to_image < distances
        distances[is_nearer] = to_image[is_nearer]
        nearest[is_nearer] = number

    for number, features in enumerate(F.normalize(labelled.double(), dim=1)):
        add(features, number)
    remaining = torch.ones(len(points), dtype=torch.bool)
    for _ in range(min(count, len(points))):
        is_first = not len(labelled) and not centres
        scores = points @ points.mean(0) if is_first else distances
        row = int(torch.where(remaining, scores, -torch.inf).argmax())
        if is_first:
            centres.append(Centre(row, None, None))
        else:
            centres.append(Centre(row, float(distances[row]), int(nearest[row])))
        remaining[row] = False
        add(points[row], len(labelled) + len(centres) - 1)
    return centres


def measure_margins(probabilities: Float[Tensor, "images classes"], decision: Decision) -> Scores:
    """Return how clearly each image is decided: 0 where two answers are equally probable.

    It is the largest probability less the second; where each class is decided by itself, that of
    the class that is least clear.

    Args:
        probabilities: probabilities of all classes.
        decision: one class of an image is true, or each class by itself.

    Returns:
        One number per image, in [0, 1].
    """
    if decision.is_multiple:
        return (2 * probabilities - 1).abs().amin(1)
    if probabilities.shape[1] == 1:
        return probabilities[:, 0]
    top = probabilities.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def measure_entropies(probabilities: Float[Tensor, "images classes"], decision: Decision) -> Scores:
    """Return how undecided each image is: 1 where all answers are equally probable.

    It is the entropy of the probabilities, divided by the largest that there is; where each class
    is decided by itself, the mean over the classes.

    Args:
        probabilities: probabilities of all classes.
        decision: one class of an image is true, or each class by itself.

    Returns:
        One number per image, in [0, 1].

    >>> from apercu.classifiers.decisions import ONE_CLASS
    >>> measure_entropies(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), ONE_CLASS)
    tensor([1., 0.])
    """
    own = torch.special.entr(probabilities)
    if decision.is_multiple:
        both = own + torch.special.entr(1 - probabilities)
        return both.mean(1) / torch.tensor(2.0).log()
    count = max(2, probabilities.shape[1])
    return own.sum(1) / torch.tensor(float(count)).log()
