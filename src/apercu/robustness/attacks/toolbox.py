"""Attacks of the Adversarial Robustness Toolbox, in our terms; with the `robust` extra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import nn

from apercu.errors import ClassifierError, ConfigError
from apercu.option_strings import MAX_SEED
from apercu.robustness.attacks.base import (
    Access,
    Attack,
    Norm,
    check_budget,
    check_count,
    check_gradients,
    check_not_negative,
)
from apercu.robustness.filters.base import check_whole
from apercu.robustness.objectives import AttackObjective, LogitsFn, Targeted, Untargeted
from apercu.types import Images, Logits


@final
@dataclass(frozen=True)
class CarliniWagner(Attack):
    """The smallest change in the Euclidean norm, by optimisation (Carlini and Wagner 2017).

    Args:
        steps: of one optimisation.
        searches: how many weights of the change are tried.
        confidence: by how much the other class's logit should lead.
    """

    steps: int = 20
    searches: int = 5
    confidence: float = 0.0
    needs: ClassVar[Access] = "gradients"

    def __post_init__(self) -> None:
        check_count(self.steps, "carlini_wagner: steps")
        check_count(self.searches, "carlini_wagner: searches")
        check_not_negative(self.confidence, "carlini_wagner: confidence")

    def __call__(self, aim: AttackObjective, images: Images) -> Images:
        def made(evasion: Any, classifier: Any, targeted: bool) -> Any:
            return evasion.CarliniL2Method(
                classifier,
                confidence=self.confidence,
                targeted=targeted,
                max_iter=self.steps,
                binary_search_steps=self.searches,
                batch_size=len(images),
                verbose=False,
            )

        check_gradients(aim, images)
        return _run_toolbox_attack(made, aim, images)


@final
@dataclass(frozen=True)
class AutoAttack(Attack):
    """Auto-PGD on two losses, DeepFool and Square, one after the other (Croce and Hein 2020).

    Each next one is made of what the last ones left. The published settings are 100 steps, five
    restarts and 5,000 queries.

    Args:
        epsilon: largest change of a value, in units of the range [0, 1].
        steps: of each attack that follows gradients.
        restarts: of the same.
        queries: of Square.
        seed: of the random searches.
    """

    epsilon: float = 8 / 255
    steps: int = 20
    restarts: int = 1
    queries: int = 300
    seed: int = 0
    needs: ClassVar[Access] = "gradients"
    uses_whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_budget(self.epsilon, "auto_attack")
        for name in ("steps", "restarts", "queries"):
            check_count(getattr(self, name), f"auto_attack: {name}")
        check_whole("auto_attack", 0, MAX_SEED, seed=self.seed)

    def __call__(self, aim: AttackObjective, images: Images) -> Images:
        def made(evasion: Any, classifier: Any, targeted: bool) -> Any:
            if targeted:
                raise ConfigError("auto_attack: climbs away from a class, not towards one")
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

        check_gradients(aim, images)
        return _run_toolbox_attack(made, aim, images, self.seed)


@final
@dataclass(frozen=True)
class HopSkipJump(Attack):
    """Walks along the boundary of the decision, seen by its answers alone (Chen et al. 2020).

    Args:
        steps: along the boundary.
        queries: decisions asked for in each, at most.
        norm: in which the change becomes small.
        seed: of all draws.
    """

    steps: int = 10
    queries: int = 500
    norm: Norm = "l2"
    seed: int = 0
    needs: ClassVar[Access] = "decisions"
    uses_whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count(self.steps, "hop_skip_jump: steps")
        check_count(self.queries, "hop_skip_jump: queries")
        check_whole("hop_skip_jump", 0, MAX_SEED, seed=self.seed)

    def __call__(self, aim: AttackObjective, images: Images) -> Images:
        def made(evasion: Any, classifier: Any, targeted: bool) -> Any:
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

        return _run_toolbox_attack(made, aim, images, self.seed)


@final
@dataclass(frozen=True)
class Square(Attack):
    """Squares of changed colour at random places, kept where they help (Andriushchenko et al.).

    It asks for logits and needs no gradients.

    Args:
        epsilon: largest change of a value, in units of the range [0, 1].
        queries: per image, at most.
        seed: of all draws.
    """

    epsilon: float = 8 / 255
    queries: int = 300
    seed: int = 0
    needs: ClassVar[Access] = "decisions"
    uses_whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_budget(self.epsilon, "square")
        check_count(self.queries, "square: queries")
        check_whole("square", 0, MAX_SEED, seed=self.seed)

    def __call__(self, aim: AttackObjective, images: Images) -> Images:
        def made(evasion: Any, classifier: Any, targeted: bool) -> Any:
            if targeted:
                raise ConfigError("square: climbs away from a class, not towards one")
            return evasion.SquareAttack(
                classifier,
                eps=self.epsilon,
                max_iter=self.queries,
                batch_size=len(images),
                verbose=False,
            )

        return _run_toolbox_attack(made, aim, images, self.seed)


class _LogitsModule(nn.Module):
    """What an attack climbs, as the toolbox expects a network."""

    def __init__(self, answer: LogitsFn) -> None:
        super().__init__()
        self.answer = answer
        self.device_follower = nn.Parameter(torch.zeros(0))

    def forward(self, images: Images) -> Logits:
        return self.answer(images.float().clamp(0, 1))  # some attacks work in double precision


def _run_toolbox_attack(
    made: Callable[[Any, Any, bool], Any], aim: AttackObjective, images: Images, seed: int = 0
) -> Images:
    """Runs one of the toolbox's attacks; numpy's and torch's global draws are as they were after.

    Raises:
        ClassifierError: the toolbox is not installed.
        ConfigError: the aim is no class.
    """
    try:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise ClassifierError(
            "attacks: this one needs the Adversarial Robustness Toolbox; install apercu[robust]"
        ) from error
    if not isinstance(aim, Untargeted | Targeted):
        raise ConfigError("attacks: this one climbs classes only; expected Untargeted or Targeted")
    labels = aim.labels if isinstance(aim, Untargeted) else aim.targets
    with torch.no_grad():
        classes = aim.logits_fn(images[:1]).shape[1]
    classifier = PyTorchClassifier(
        model=_LogitsModule(aim.logits_fn),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if images.is_cuda else "cpu",
    )
    attack = made(evasion, classifier, isinstance(aim, Targeted))
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            found = attack.generate(images.cpu().numpy(), labels.cpu().numpy())
        finally:
            np.random.set_state(before)
    return torch.from_numpy(np.asarray(found)).to(images).clamp(0, 1)
