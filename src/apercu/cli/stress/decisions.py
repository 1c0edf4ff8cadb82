"""The attacks that a classifier without gradients allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from apercu.cli.terminal import warn

if TYPE_CHECKING:
    from apercu.classifiers import Classifier
    from apercu.robustness.attacks import Attack


def choose_decision_attacks(
    attacks: Mapping[str, Attack], classifier: Classifier, seed: int, *, usual: bool
) -> dict[str, Attack]:
    """Those that need decisions alone; in place of the usual ones the one that does.

    Args:
        attacks: by name.
        classifier: one without gradients.
        seed: of that attack.
        usual: whether nobody chose the attacks.

    Raises:
        ClassifierError: an attack that was chosen needs gradients.
    """
    from apercu.errors import ClassifierError
    from apercu.robustness.attacks import SparseEvo

    left = [name for name, one in attacks.items() if one.needs != "decisions"]
    if not left:
        return dict(attacks)
    if not usual:
        raise ClassifierError(
            f"attacks: {', '.join(left)} need gradients, and {classifier.spec} has none; "
            "use sparse_evo"
        )
    warn(f"{classifier.spec} has no gradients, so it is attacked by its decisions alone")
    return {"sparse_evo": SparseEvo(seed=seed)}
