"""Shapes and types are checked at run time here, and real data is found or skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import config, install_import_hook

install_import_hook("apercu", "beartype.beartype")

ROOT = Path(__file__).resolve().parent.parent
PLANTED = "planted:size=32,images=24,classes=3,difficulty=0"


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their length: files that hold a time would change the name of the test."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and len(val) > 8 else None


@pytest.fixture(scope="session")
def apercu_data() -> Path:
    """The folder that holds `data/` and `models/`, from APERCU_DATA or beside the repository."""
    folder = Path(os.environ.get("APERCU_DATA", ROOT.parent / "shared"))
    if not (folder / "data").is_dir() or not (folder / "models").is_dir():
        pytest.skip(f"real data: no data/ and models/ in {folder}; set APERCU_DATA")
    return folder


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """For tests that hand in wrong shapes, to see what a user would see."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def tiny_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained classifier of three planted classes at 32 pixels, as a card."""
    from apercu.classifiers import (
        ClassifierCard,
        InputSpec,
        SmallResNet,
        save_classifier,
        wrap_module,
    )

    options = {"channels": 3, "classes": 3, "size": [32, 32], "width": 4}
    card = ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options=options,
        input=InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3),
        classes=("stripes, bands", "dots", "rings"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallResNet(**options)
    return save_classifier(wrap_module(network, card), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_run(tiny_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mask explainer of `tiny_card`, trained for two steps."""
    from apercu import open_classifier, open_images
    from apercu.explainers.mask.settings import MASK_PRESETS
    from apercu.explainers.train import train_explainer
    from apercu.training.trainer import Hardware, Trainer

    settings = MASK_PRESETS.parse(
        {
            "preset": "small",
            "decoder": {"width": 16},
            "embedding": {"steps": 2, "batch": 4},
            "schedule": {"steps": 2, "batch": 4},
        }
    )
    classifier, run = open_classifier(tiny_card), tmp_path_factory.mktemp("runs") / "tiny"
    fit = Trainer(classifier, open_images(PLANTED), run, Hardware("cpu"), say=lambda line: None)
    train_explainer(settings, fit, classifier)
    return run


@pytest.fixture(scope="session")
def tiny_export(tiny_run: Path, tiny_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_run` with the prediction of `tiny_card`, exported; not to be written to."""
    from apercu import MaskExplainer, open_classifier
    from apercu.deploy.export import ExportSettings, write_export
    from apercu.deploy.export.settings import ExportInputs

    explainer, out = MaskExplainer.from_pretrained(tiny_run), tmp_path_factory.mktemp("exports")
    write_export(
        explainer, out, ExportSettings(combined=True), ExportInputs(open_classifier(tiny_card))
    )
    return out
