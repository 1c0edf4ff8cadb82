"""The run folder of a trained explainer: settings, classifier, trained weights, what was measured.

config.json           the settings
classifier.json       the passport of the classifier
weights.safetensors   everything that was trained
encoder/              a classifier's frozen backbone with its card, where it is the encoder
facts.json            figures measured in training
card.md               the same for people
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

from pydantic import Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from apercu.classifiers import open_classifier, save_classifier
from apercu.errors import ClassifierError, ConfigError, RunError
from apercu.explainers.base import E, TrainedExplainer
from apercu.explainers.build import build_network
from apercu.explainers.card import render_card
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.explainer import CounterpartExplainer
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.explainers.latent.explainer import LatentExplainer
from apercu.explainers.latent.network import LatentNetwork
from apercu.explainers.latent.settings import LatentSettings
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.network import MaskNetwork
from apercu.explainers.mask.settings import MaskSettings
from apercu.io import write_file
from apercu.networks.gate import GatedNetwork
from apercu.networks.graph_encoder import GraphEncoder

CONFIG, CLASSIFIER, WEIGHTS, FACTS, CARD = (
    "config.json",
    "classifier.json",
    "weights.safetensors",
    "facts.json",
    "card.md",
)
ENCODER = "encoder"

_Settings: TypeAlias = MaskSettings | CounterpartSettings | LatentSettings
_SETTINGS: TypeAdapter[_Settings] = TypeAdapter(
    Annotated[_Settings, Field(discriminator="explainer")]
)


def save_run(explainer: TrainedExplainer[Any, Any], run: str | Path) -> None:
    """Writes the run folder, weights last: a folder with weights is complete.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder = Path(run)
    write_file(folder / CONFIG, explainer.settings.model_dump_json(indent=1).encode())
    write_file(folder / CLASSIFIER, explainer.classifier_info.model_dump_json(indent=1).encode())
    write_file(folder / FACTS, json.dumps(explainer.facts, indent=1).encode())
    card = render_card(explainer.classifier_info, explainer.settings, explainer.facts)
    write_file(folder / CARD, card)
    network = explainer.network
    if isinstance(network, GatedNetwork) and isinstance(network.encoder, GraphEncoder):
        save_classifier(network.encoder.classifier[0], folder / ENCODER)
        state = network.state_without_frozen_encoder()
    else:
        state = {k: v.contiguous().cpu() for k, v in network.state_dict().items()}
    write_file(folder / WEIGHTS, save(state))


def open_run(run: str | Path) -> MaskExplainer | CounterpartExplainer | LatentExplainer:
    """Opens the run folder of any explainer, on the CPU.

    Raises:
        RunError: the folder is no run, is damaged, or its training has not finished.
    """
    folder = Path(run)
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder}: expected a run folder, found no {CONFIG}")
    if not (folder / WEIGHTS).is_file():
        raise RunError(
            f"{folder}: training has not finished ({WEIGHTS} is missing); "
            "continue it with `apercu train … --resume`"
        )
    try:
        settings = _SETTINGS.validate_python({"explainer": "mask", **_read_json(folder / CONFIG)})
        passport = ClassifierInfo.model_validate(_read_json(folder / CLASSIFIER))
        facts = TypeAdapter(dict[str, float]).validate_python(_read_json(folder / FACTS))
        open_encoder = folder / ENCODER / "card.json"
        own = open_classifier(open_encoder) if open_encoder.is_file() else None
        network = build_network(settings, passport, own, pretrained=False)
        missing, unknown = network.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    except (OSError, ValueError, TypeError, SafetensorError, RuntimeError) as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise RunError(f"{folder}: the run folder is damaged ({reason[:300]})") from error
    except (ClassifierError, ConfigError) as error:
        raise RunError(f"{folder}: the run folder is damaged ({error})") from error
    if unknown or any(not name.startswith("encoder.") for name in missing):
        raise RunError(f"{folder}: {WEIGHTS} does not fit {CONFIG}; the folder mixes two runs")
    if isinstance(settings, CounterpartSettings):
        return CounterpartExplainer(cast(CounterpartNetwork, network), passport, settings, facts)
    if isinstance(settings, LatentSettings):
        return LatentExplainer(cast(LatentNetwork, network), passport, settings, facts)
    return MaskExplainer(cast(MaskNetwork, network), passport, settings, facts)


def load_run(run: str | Path, kind: type[E]) -> E:
    """Opens the run folder of one kind of explainer, on the CPU.

    Raises:
        RunError: as `open_run`, or the folder holds another kind.
    """
    explainer = open_run(run)
    if not isinstance(explainer, kind):
        raise RunError(
            f"{run}: expected a run of a {kind.__name__}, got a {type(explainer).__name__}"
        )
    return explainer


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
