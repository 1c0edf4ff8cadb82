"""Attacks of the Adversarial Robustness Toolbox, which the `robust` extra installs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import nn

from apercu.classifiers.decisions import find_decision
from apercu.devices import enable_gradients
from apercu.errors import ConfigError
from apercu.extras import require_extra
from apercu.filters.checks import check_budget, check_count, check_not_negative, check_whole
from apercu.option_strings import MAX_SEED
from apercu.robustness.attacks.base import Access, Attack, Norm, check_gradients
from apercu.robustness.objectives import AttackObjective, Targeted, Untargeted
from apercu.types import Images, Logits, LogitsFn


@final
@dataclass(frozen=True)
class CarliniWagner(Attack):
    """Optimises the smallest change in the Euclidean norm (Carlini and Wagner 2017).

    Args:
        steps: number of steps of one optimisation.
        searches: number of weights of the change that are tried.
        confidence: margin by which the logit of the other class should lead.
    """

    steps: int = 20
    searches: int = 5
    confidence: float = 0.0
    needs: ClassVar[Access] = "gradients"

    def __post_init__(self) -> None:
        _require_toolbox()
        check_count(self.steps, "carlini_wagner: steps")
        check_count(self.searches, "carlini_wagner: searches")
        check_not_negative(self.confidence, "carlini_wagner: confidence")

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        def build(evasion: Any, classifier: Any, targeted: bool) -> Any:
            return evasion.CarliniL2Method(
                classifier,
                confidence=self.confidence,
                targeted=targeted,
                max_iter=self.steps,
                binary_search_steps=self.searches,
                batch_size=1,  # of a batch, it would compute the gradient of each class for all
                verbose=False,
            )

        check_gradients(objective, images)
        return _run_toolbox_attack(build, objective, images)


@final
@dataclass(frozen=True)
class AutoAttack(Attack):
    """Runs Auto-PGD on two losses, DeepFool and Square, in this order (Croce and Hein 2020).

    Each attack only gets the images that the earlier ones left right. The published settings are
    100 steps, five restarts and 5,000 queries.

    Args:
        epsilon: largest change of a value, in units of the range [0, 1].
        steps: number of steps of each attack that follows gradients.
        restarts: number of restarts of the same attacks.
        queries: number of queries of Square.
        seed: seed of the random searches.
    """

    epsilon: float = 8 / 255
    steps: int = 20
    restarts: int = 1
    queries: int = 300
    seed: int = 0
    needs: ClassVar[Access] = "gradients"
    uses_whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_toolbox()
        check_budget(self.epsilon, "auto_attack")
        for name in ("steps", "restarts", "queries"):
            check_count(getattr(self, name), f"auto_attack: {name}")
        check_whole("auto_attack", 0, MAX_SEED, seed=self.seed)

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        def build(evasion: Any, classifier: Any, targeted: bool) -> Any:
            if targeted:
                raise ConfigError(
                    "auto_attack: expected no target, as it only leads away from a class; "
                    "choose pgd for a target"
                )
            batch = {"batch_size": len(images)}
            losses = ["cross_entropy"]
            if classifier.nb_classes > 2:
                losses.append("difference_logits_ratio")
            parts = [
                evasion.AutoProjectedGradientDescent(
                    classifier,
                    eps=self.epsilon,
                    eps_step=self.epsilon / 4,
                    max_iter=self.steps,
                    nb_random_init=self.restarts,
                    loss_type=loss,
                    verbose=False,
                    **batch,
                )
                for loss in losses
            ]
            grads = min(10, classifier.nb_classes)
            parts.append(
                evasion.DeepFool(
                    classifier, max_iter=self.steps, nb_grads=grads, verbose=False, **batch
                )
            )
            parts.append(
                evasion.SquareAttack(
                    classifier, eps=self.epsilon, max_iter=self.queries, verbose=False, **batch
                )
            )
            return evasion.AutoAttack(classifier, eps=self.epsilon, attacks=parts, **batch)

        check_gradients(objective, images)
        return _run_toolbox_attack(build, objective, images, self.seed)


@final
@dataclass(frozen=True)
class HopSkipJump(Attack):
    """Walks along the decision boundary, which it finds from decisions only (Chen et al. 2020).

    Args:
        steps: number of steps along the boundary.
        queries: largest number of queries in each step.
        norm: norm in which the change becomes small.
        seed: seed of all draws.
    """

    steps: int = 10
    queries: int = 500
    norm: Norm = "l2"
    seed: int = 0
    needs: ClassVar[Access] = "decisions"
    uses_whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_toolbox()
        check_count(self.steps, "hop_skip_jump: steps")
        check_count(self.queries, "hop_skip_jump: queries")
        check_whole("hop_skip_jump", 0, MAX_SEED, seed=self.seed)

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        def build(evasion: Any, classifier: Any, targeted: bool) -> Any:
            return evasion.HopSkipJump(
                classifier,
                targeted=targeted,
                norm=2 if self.norm == "l2" else np.inf,
                max_iter=self.steps,
                max_eval=self.queries,
                init_eval=min(100, self.queries),
                batch_size=len(images),
                verbose=False,
            )

        return _run_toolbox_attack(build, objective, images, self.seed)


@final
@dataclass(frozen=True)
class Square(Attack):
    """Changes the colour of squares at random places, and keeps what helps (Andriushchenko et al.).

    It needs logits and no gradients.

    Args:
        epsilon: largest change of a value, in units of the range [0, 1].
        queries: largest number of queries per image.
        seed: seed of all draws.
    """

    epsilon: float = 8 / 255
    queries: int = 300
    seed: int = 0
    needs: ClassVar[Access] = "decisions"
    uses_whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_toolbox()
        check_budget(self.epsilon, "square")
        check_count(self.queries, "square: queries")
        check_whole("square", 0, MAX_SEED, seed=self.seed)

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        def build(evasion: Any, classifier: Any, targeted: bool) -> Any:
            if targeted:
                raise ConfigError(
                    "square: expected no target, as it only leads away from a class; "
                    "choose pgd for a target"
                )
            return evasion.SquareAttack(
                classifier,
                eps=self.epsilon,
                max_iter=self.queries,
                batch_size=len(images),
                verbose=False,
            )

        return _run_toolbox_attack(build, objective, images, self.seed)


def _require_toolbox() -> None:
    """Raise MissingExtraError if the toolbox is not installed."""
    require_extra("robust", "attacks", "art")


class _LogitsModule(nn.Module):
    """The logits that an attack queries, as a module that the toolbox accepts."""

    def __init__(self, logits_fn: LogitsFn) -> None:
        super().__init__()
        self.logits_fn = logits_fn
        self.device_follower = nn.Parameter(torch.zeros(0))

    def forward(self, images: Images) -> Logits:
        return self.logits_fn(images.float().clamp(0, 1))  # some attacks work in double precision


def _run_toolbox_attack(
    build: Callable[[Any, Any, bool], Any],
    objective: AttackObjective,
    images: Images,
    seed: int = 0,
) -> Images:
    """Run an attack of the toolbox; the global generators of numpy and torch are restored after.

    Args:
        build: makes the attack from the toolbox's module of attacks, its classifier, and whether
            the attack is targeted.
        objective: classes to leave or to reach.
        images: clean images in [0, 1].
        seed: seed of the global generators during the attack.

    Returns:
        Attacked images of the same shape.

    Raises:
        ConfigError: the objective is not about classes.
    """
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    if not isinstance(objective, Untargeted | Targeted):
        raise ConfigError(
            "attacks: expected the objective Untargeted or Targeted, as this attack changes "
            "classes only"
        )
    if find_decision(objective.logits_fn).is_multiple:
        raise ConfigError(
            "attacks: this one needs exactly one predicted class, and several classes of this "
            "classifier may be predicted; choose fgsm, pgd, deepfool, multiplicative or sparse_evo"
        )
    labels = objective.labels if isinstance(objective, Untargeted) else objective.targets
    with torch.no_grad():
        classes = objective.logits_fn(images[:1]).shape[1]
    classifier = PyTorchClassifier(
        model=_LogitsModule(objective.logits_fn),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if images.is_cuda else "cpu",
    )
    attack = build(evasion, classifier, isinstance(objective, Targeted))
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            with enable_gradients():
                attacked = attack.generate(images.cpu().numpy(), labels.cpu().numpy())
        finally:
            np.random.set_state(before)
    return torch.from_numpy(np.asarray(attacked)).to(images).clamp(0, 1)
