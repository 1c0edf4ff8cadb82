"""Guided backprop: every ReLU passes only positive gradients back (Springenberg et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor
from torch.overrides import TorchFunctionMode

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.methods.base import Method, Requirement, require_gradients
from apercu.methods.smooth_grad import compute_input_gradients
from apercu.types import Images, Maps, Targets

RELUS = frozenset({"relu", "relu_", "relu6", "hardtanh", "hardtanh_"})
"""The functions behind ReLU and ReLU6, whether they are layers or called in `forward`."""


@final
@dataclass(frozen=True)
class GuidedBackprop(Method):
    """The largest absolute guided derivative of the target's logit over the channels.

    It guides ReLUs that are layers (in place or not), that `forward` calls as functions, and those
    of exported programs.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients",)

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        require_gradients(classifier, "guided_backprop")
        with GuidedGradients(RELUS) as guided:
            gradients = compute_input_gradients(classifier, images, targets)
        guided.check_applied(classifier, "guided_backprop")
        return gradients.abs().amax(dim=1)


class GuidedGradients(TorchFunctionMode):
    """Within the `with` block, the named functions pass only positive gradients back.

    Calls of functions are intercepted, which no hook on layers can do. The hooks on tensors belong
    to the graph of one pass, so nothing remains afterwards.

    Args:
        names: the names of functions of torch.
    """

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self._names = names
        self._guided_count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "").partition(".")[0]
        if name in self._names and not (
            name.startswith("hardtanh") and _get_lower_bound(args, kwargs) != 0
        ):
            output = result[0] if isinstance(result, tuple) else result
            if output.requires_grad:
                self._guided_count += 1
                output.register_hook(_clamp_gradient)
        return result

    def check_applied(self, classifier: Classifier, method: str) -> None:
        """Check that at least one function was guided.

        Raises:
            ClassifierError: the classifier called none of the functions.
        """
        if not self._guided_count:
            raise ClassifierError(
                f"{method} needs a classifier with ReLU or ReLU6; {classifier.spec} has none that "
                "can be reached: choose gradient or smooth_grad"
            )


def _clamp_gradient(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)


def _get_lower_bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """Return the lower bound of a hardtanh."""
    return kwargs.get("min_val", args[1] if len(args) > 1 else -1.0)
