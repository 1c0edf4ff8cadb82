"""PGD with smooth changes that are the same in all channels, which leave fine noise as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from apercu.filters.checks import check_budget, check_count, check_positive
from apercu.filters.gaussian import blur
from apercu.robustness.attacks.base import Access, Attack, choose_start, compute_gradients
from apercu.robustness.objectives import AttackObjective
from apercu.types import Images


@final
@dataclass(frozen=True)
class SmoothPgd(Attack):
    """Follows blurred gradients, averaged over the channels (Guo et al., Sharma et al. 2019).

    Low-frequency changes fool networks with fewer queries, and get past defences that look at high
    frequencies. The papers choose coefficients of a cosine transform; here the gradient is blurred
    by a Gaussian, so that a change has no edges.

    Args:
        epsilon: largest change of a value, in units of the range [0, 1].
        steps: number of steps.
        pace: length of a step where the blurred gradient is largest, as a fraction of epsilon.
        sigma: standard deviation of the blur, in pixels.
    """

    epsilon: float = 8 / 255
    steps: int = 40
    pace: float = 0.25
    sigma: float = 4.0
    needs: ClassVar[Access] = "gradients"
    any_objective: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_budget(self.epsilon, "smooth_pgd")
        check_count(self.steps, "smooth_pgd: steps")
        check_positive("smooth_pgd", pace=self.pace, sigma=self.sigma)

    def __call__(self, objective: AttackObjective, images: Images) -> Images:
        attacked, change = choose_start(objective, images), images.new_zeros(images.shape)
        for step in range(self.steps):
            gradients, _ = compute_gradients(objective, attacked, clean=None if step else images)
            smooth = blur(gradients.mean(1, keepdim=True), self.sigma)
            largest = smooth.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
            change = change + self.pace * self.epsilon * smooth / largest
            change = change.clamp(-self.epsilon, self.epsilon)
            attacked = (images + change).clamp(0, 1)
        return attacked
