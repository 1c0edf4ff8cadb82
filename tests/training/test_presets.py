"""Settings in a file: what is named is merged into the preset, part by part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
from apercu.explainers.latent.settings import LATENT_PRESETS
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.shapley.explainer import SHAPLEY_PRESETS
from apercu.pretraining.settings import PRETEXTS
from apercu.robustness.defences.settings import DEFENCES
from apercu.training.config import ConfigPresets

ALL: dict[str, ConfigPresets[Any]] = {
    "mask": MASK_PRESETS,
    "counterpart": COUNTERPART_PRESETS,
    "latent": LATENT_PRESETS,
    "shapley": SHAPLEY_PRESETS,
    "pretexts": PRETEXTS,
    "defences": DEFENCES,
}
NAMED = [(kind, preset) for kind, presets in ALL.items() for preset in presets.presets]


def list_settings(content: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of every setting, also of parts as a whole."""
    for key, value in content.items():
        yield (key,), value
        if isinstance(value, dict):
            yield from (((key, *path), inner) for path, inner in list_settings(value))


@pytest.mark.parametrize(("kind", "preset"), NAMED)
def test_naming_a_setting_with_its_own_value_changes_nothing(kind: str, preset: str) -> None:
    presets = ALL[kind]
    full = presets.presets[preset]
    assert presets.parse({"preset": preset}) == full
    for path, value in list_settings(full.model_dump()):
        content = value
        for key in reversed(path):
            content = {key: content}
        assert presets.parse({"preset": preset, **content}) == full, path


def test_the_rest_of_a_part_stays_as_the_preset_has_it() -> None:
    objective = MASK_PRESETS.parse({"objective": {"area": 2.0}}).objective
    assert objective == MASK_PRESETS.presets["light"].objective.model_copy(update={"area": 2.0})
    embedding = MASK_PRESETS.parse({"preset": "paper", "embedding": {"steps": 3}}).embedding
    assert (embedding.form, embedding.steps) == ("labels", 3)
    other = MASK_PRESETS.parse({"embedding": {"form": "masked"}}).embedding
    assert (other.form, other.steps) == ("masked", 2400)
