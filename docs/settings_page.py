"""The page of the reference that lists every setting, of files and of names typed with options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING
from inspect import getdoc
from typing import Any

from markdown_table import escape_text, render_table
from settings_rows import describe_default, walk_settings

OPENING = (
    "Settings files are YAML; [their page](files/settings.md) says how a file, a preset and an "
    "option go together. A point in a name is one level of a file: `schedule.steps` is "
    "`steps` under `schedule`. A part with a `form` has other settings for each of its forms; "
    "the form of the default is named."
)
TYPED = (
    "Methods, attacks, filters, detectors, heads, recipes and "
    "generated images take their settings after their names: "
    "`rise:masks=500,seed=1`. Any method also takes `augmented=COPIES` (the mean over "
    "that many shifted and mirrored copies) and `smoothed=SIGMA` (a Gaussian blur of the "
    "map, in fractions of its side)."
)


def make_settings_page() -> str:
    """Return the page of all settings: their defaults, allowed values and meanings."""
    lines = ["# Settings", "", OPENING]
    for title, (where, presets) in list_trainings().items():
        lines += ["", f"## {title}", "", *_render_training(where, presets)]
    lines += ["", "## Settings that are typed", "", TYPED]
    for title, (where, classes) in list_typed_settings().items():
        lines += ["", f"### {title}", "", f"Given by `{where} NAME:KEY=VALUE,…`.", ""]
        rows = [row for name, kind in classes.items() for row in _make_typed_rows(name, kind)]
        lines += render_table(("name", "setting", "default", "meaning"), rows)
    return "\n".join(lines) + "\n"


def list_trainings() -> dict[str, tuple[str, Any]]:
    """Return the settings files, by title: where they are given, and the presets."""
    from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
    from apercu.explainers.latent.settings import LATENT_PRESETS
    from apercu.explainers.mask.settings import MASK_PRESETS
    from apercu.explainers.shapley.explainer import SHAPLEY_PRESETS
    from apercu.learning.settings import LEARNING
    from apercu.pretraining.settings import PRETEXTS
    from apercu.robustness.defences.settings import DEFENCES
    from apercu.robustness.plan import StressSettings
    from apercu.training.config import ConfigPresets

    stress = ConfigPresets(StressSettings, {"standard": StressSettings()})
    return {
        "Mask explainers": ("apercu train mask --config", MASK_PRESETS),
        "Counterpart explainers": ("apercu train counterpart --config", COUNTERPART_PRESETS),
        "Latent explainers": ("apercu train latent --config", LATENT_PRESETS),
        "Shapley explainers": ("apercu train shapley --config", SHAPLEY_PRESETS),
        "Pretraining": ("apercu pretrain PRETEXT --config", PRETEXTS),
        "Classifiers from few labels": ("apercu train classifier --config", LEARNING),
        "Classifiers that resist attacks": ("apercu stress train --config", DEFENCES),
        "Stress tests": ("apercu stress --config", stress),
    }


def list_typed_settings() -> dict[str, tuple[str, Mapping[str, type]]]:
    """Return what is typed as `name:key=value`, by title: where, and the classes by name."""
    from apercu.filters import FILTERS
    from apercu.images.planted import Planted
    from apercu.learning.recipes.registry import RECIPES
    from apercu.methods.registry import METHODS
    from apercu.pretraining.heads import HEADS
    from apercu.robustness.attacks import ATTACKS
    from apercu.robustness.detection.detectors import DETECTORS
    from apercu.robustness.unknown import UNKNOWN_METHODS

    return {
        "Methods": ("apercu compare --methods", METHODS),
        "Attacks": ("apercu stress --attacks", ATTACKS),
        "Filters": ("apercu stress --filters", FILTERS),
        "Detectors": ("apercu stress detect --detectors", DETECTORS),
        "Unknown images": ("apercu stress unknown --methods", UNKNOWN_METHODS),
        "Heads": ("apercu evaluate-features --heads", HEADS),
        "Recipes": ("apercu train classifier --recipe", RECIPES),
        "Generated images": ("--images", {"planted": Planted}),
    }


def _render_training(where: str, presets: Any) -> list[str]:
    """Return how a settings file is given, its presets, and the table of its settings."""
    names = ", ".join(f"`{name}`" for name in presets.presets)
    first = next(iter(presets.presets))
    start = (
        f"a file without `preset` starts from `{first}`; without a file it is `{presets.default}`"
        if presets.default
        else "the first one is the default"
    )
    rows = [
        (f"`{row.name}`", _quote(row.default), row.allowed, escape_text(row.meaning))
        for row in walk_settings(presets.model)
    ]
    return [
        f"Given by `{where} FILE`. Presets: {names}; {start}.",
        "",
        *render_table(("setting", "default", "allowed", "meaning"), rows),
        *_render_presets(presets),
    ]


def _render_presets(presets: Any) -> list[str]:
    """Return a list of what each preset changes of the first one."""
    (start, first), *others = presets.presets.items()
    base = _flatten(first.model_dump(mode="json"))
    lines = []
    for name, preset in others:
        values = _flatten(preset.model_dump(mode="json"))
        changed = [
            f"`{key}: {describe_default(value)}`"
            for key, value in values.items()
            if base.get(key, MISSING) != value
        ]
        lines += [f"- `{name}` has {', '.join(changed)}."]
    return ["", f"What the other presets change of `{start}`:", "", *lines] if lines else []


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their names with points."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + key
        flat |= _flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _make_typed_rows(name: str, kind: type) -> list[tuple[str, str, str, str]]:
    """Return the cells of a name that takes settings: what it is, then each setting."""
    summary = escape_text((getdoc(kind) or "").split("\n\n")[0])
    return [
        (f"`{name}`", "", "", summary),
        *(
            (f"`{name}`", f"`{row.name}`", _quote(row.default), escape_text(row.meaning))
            for row in walk_settings(kind)
        ),
    ]


def _quote(default: str) -> str:
    """Return a default as a span of code, unless it is empty or emphasised."""
    return default if not default or default.startswith("*") else f"`{default}`"
