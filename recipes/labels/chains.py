"""Ways from few labels to a classifier: a network to begin with, and recipes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

IMAGENET_SIZE = 160
"""Side of the images, in pixels, of ImageNet's frozen network."""
FROZEN_BATCH, TUNED_BATCH = 32, 16
ATTENTION = "spatial_attention"
"""The recipe that changes the features of a frozen network."""


@dataclass(frozen=True)
class Chain:
    """One way from few labels to a classifier.

    Args:
        start: the network: `imagenet` (EfficientNet-Lite0), `mobilenetv2` (also of ImageNet),
            `pretraining`, `scratch` or `small`.
        recipes: recipes as people type them.
        frozen: whether the network does not change, but for its last layer.
        size: side of the images in pixels; that of the network when None.
        times: factor of the number of steps.
    """

    start: str
    recipes: tuple[str, ...] = ()
    frozen: bool = True
    size: int | None = None
    times: int = 1

    @property
    def changes(self) -> tuple[str, ...]:
        """The recipes that change the features of a frozen network."""
        return tuple(recipe for recipe in self.recipes if self.frozen and recipe == ATTENTION)

    def count_steps(self, labels: int) -> int:
        """Return the steps of a training: of a last layer always as many, else at least 5 passes.

        Passes count up to 400 steps, which are fewer than 5 of the largest sets.
        """
        usual = 150 if self.frozen else min(400, max(120, 5 * labels // TUNED_BATCH))
        return self.times * usual


def list_chains() -> dict[str, Chain]:
    """Return all chains by name; those without a recipe are what the others are compared with."""
    imagenet = Chain("imagenet", size=IMAGENET_SIZE)
    pretraining = Chain("pretraining")
    small = Chain("small", frozen=False, size=64)
    scratch = Chain("scratch", frozen=False, size=64)
    chains = {
        "imagenet": imagenet,
        "mobilenetv2": replace(imagenet, start="mobilenetv2"),
        "pretraining": pretraining,
        "small": small,
        "scratch": scratch,
        "scratch, five times as long": replace(scratch, times=5),
        "imagenet, all layers": replace(imagenet, frozen=False, size=64),
        "pretraining, all layers": replace(pretraining, frozen=False),
    }
    static = "static_augmentation:copies=4"
    added = {
        "static": static,
        "final norm": "final_batch_norm",
        "graph": "graph_interpolation",
        "groups": "auxiliary_targets:combine=true",
        "born again": "distillation:reborn=true",
        "self": "distillation",
        "explanation": "explanation_guided",
        "mixmatch": "mixmatch",
    }
    for name, recipe in added.items():
        chains[f"imagenet + {name}"] = replace(imagenet, recipes=(recipe,))
        chains[f"pretraining + {name}"] = replace(pretraining, recipes=(recipe,))
    chains["mobilenetv2 + graph"] = replace(chains["mobilenetv2"], recipes=(added["graph"],))
    chains["imagenet + attention"] = replace(imagenet, recipes=(ATTENTION,))
    further = {
        "small": {"static": static, "unsupervised": "unsupervised_loss"},
        "scratch": {"static": static, "mean teacher": "mean_teacher"},
        "imagenet, all layers": {"colouring": "colouring"},
        "pretraining, all layers": {
            "unsupervised": "unsupervised_loss",
            "explanation": "explanation_guided",
            "background": "background_exchange",
            "generated": "glico",
            "self": "distillation",
            "self, features": "distillation:form=features",
            "self, attention": "distillation:form=attention",
            "adaptation": "domain_adaptation",
        },
    }
    for start in ("imagenet, all layers", "pretraining, all layers"):
        further[start] |= {
            "graph": "graph_interpolation",
            "gradually": "gradual_unfreezing",
            "mean teacher": "mean_teacher",
            "mixmatch": "mixmatch",
        }
    for start, recipes in further.items():
        for name, recipe in recipes.items():
            chains[f"{start} + {name}"] = replace(chains[start], recipes=(recipe,))
    return chains


def describe_chain(chain: Chain, labels: int) -> dict[str, object]:
    """Return what a training of a chain depends on besides its seed, as JSON keeps it."""
    content = json.loads(json.dumps(asdict(chain))) | {"steps": chain.count_steps(labels)}
    del content["times"]  # the number of steps says it
    return content
