"""Every family of timm and torchvision: opened, trained on, explained, exported, by each method.

    python benchmarks/families.py [--only ViT,Swin] [--again] [--no-methods]

One small architecture of each family, random weights, planted images, the smallest side that the
family takes. What was measured is kept in docs/reference/families.json after each family, so that
a run goes on where the last one ended (`--again` measures anew), and docs/reference/families.md is
written from it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from family_table import (
    DOCS,
    FAMILIES,
    FAULT,
    PAGE,
    Family,
    Row,
    describe,
    read_rows,
    render_page,
    write_rows,
)
from safetensors.torch import save_file
from torch import nn

import apercu
from apercu.classifiers import Classifier
from apercu.classifiers.positions import find_layout, make_probes
from apercu.classifiers.sources.timm import find_size_option as find_timm_option
from apercu.classifiers.sources.torchvision import find_size_option as find_torchvision_option
from apercu.deploy.export.checks import check_outputs, make_trials
from apercu.deploy.export.graphs import CombinedGraph, build_graph, build_predictor
from apercu.deploy.export.tracing import Traceable, open_session, run_session, write_onnx
from apercu.errors import ApercuError
from apercu.methods import get
from apercu.methods.registry import METHODS
from apercu.networks.feature_maps import StageMaps

SIDES = (32, 64, 96, 128, 224)
"""Sides that are tried where a family does not take its own, pixels."""
CLASSES = 6
TRAINING: dict[str, Any] = {
    "decoder": {"width": 16},
    "schedule": {"batch": 4, "side": 48},
}
SHORT = {
    "rise": "rise:masks=16",
    "mfpp": "mfpp:masks=16",
    "occlusion": "occlusion:window=0.5,stride=0.25",
    "meaningful_perturbation": "meaningful_perturbation:steps=3",
    "smooth_grad": "smooth_grad:samples=3",
    "smooth_taylor": "smooth_taylor:samples=3",
    "gradient_shap": "gradient_shap:samples=3",
    "integrated_gradients": "integrated_gradients:steps=3",
    "guided_integrated_gradients": "guided_integrated_gradients:steps=3",
}
"""Methods with few queries, as here it is only seen whether they run."""
NEEDS_BOXES = ("true_box",)
FOLDER_OF_CARD = re.compile(r"[^\s\"']*/(?=card\.json)")
"""The path of a card up to its name, which is of this call alone."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="families, separated by commas")
    parser.add_argument("--again", action="store_true", help="also those that were measured")
    parser.add_argument("--no-methods", action="store_true", help="leave the methods out")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the results")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else [family.name for family in FAMILIES]
    for family in (family for family in FAMILIES if family.name in names):
        earlier = None if arguments.again else read_rows(arguments.out).get(family.name)
        if earlier is not None and (earlier.methods or arguments.no_methods):
            continue
        with tempfile.TemporaryDirectory() as folder:
            if earlier is None:
                row = try_family(family, Path(folder), methods=not arguments.no_methods)
            else:
                row = add_methods(earlier, family, Path(folder))
        rows = read_rows(arguments.out) | {row.name: row}  # another process may have written
        write_rows(arguments.out, rows)
        print(describe(row), flush=True)
    (arguments.out / PAGE).write_text(render_page(read_rows(arguments.out)), encoding="utf-8")
    return 0


def try_family(family: Family, folder: Path, *, methods: bool = True) -> Row:
    """Do with one family all that a user would do, and note what came of it."""
    torch.manual_seed(0)
    row, start = Row(family.name, family.spec, family.side), time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = _attempt(row, "opened", _open, family, folder, row)
        if classifier is not None:
            explainer = _attempt(row, "trained", _train, folder, row)
            if explainer is not None:
                _attempt(row, "explained", _explain, classifier, explainer, folder, row)
                _attempt(row, "exported", _export, classifier, explainer, folder, row)
            if methods:
                row.methods = dict(_try_methods(classifier))
    row.seconds = round(time.monotonic() - start, 1)
    return row


def add_methods(row: Row, family: Family, folder: Path) -> Row:
    """Call each method for a family that was trained on before."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier = _attempt(row, "opened", _open, family, folder, row)
        if classifier is not None:
            row.methods = dict(_try_methods(classifier))
    return row


def _attempt(row: Row, name: str, work: Any, *arguments: Any) -> Any:
    """Call a function; what it raises becomes the reason in the row."""
    try:
        return work(*arguments)
    except Exception as error:
        setattr(row, name, _describe_error(error))
        return None


def _describe_error(error: Exception) -> str:
    """Return one line; a fault, unlike what the package tells, is marked, with its type."""
    line = FOLDER_OF_CARD.sub("", " ".join(str(error).split()))[:300]
    return line if isinstance(error, ApercuError) else f"{FAULT} {type(error).__name__}: {line}"


def _open(family: Family, folder: Path, row: Row) -> Classifier:
    """Write a card with random weights at the smallest side that the family takes, and open it."""
    sides = [family.side, *(side for side in SIDES if side > family.side)]
    for side in sides:
        try:
            card = _write_card(family, side, folder)
            row.side = side
            classifier = apercu.open_classifier(card)
        except Exception:
            if side == sides[-1]:
                raise
            continue
        parameters = sum(p.numel() for p in classifier.module.parameters())
        row.parameters = round(parameters / 1e6, 1)
        return classifier
    raise AssertionError("there is a last side")


def _write_card(family: Family, side: int, folder: Path) -> Path:
    module = _build(family, (side, side))
    _settle(module, side)
    weights = {name: value.clone().contiguous() for name, value in module.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    content = {
        "source": family.spec,
        "options": dict(family.options),
        "weights": "weights.safetensors",
        "input": {"size": [side, side], "mean": [0.5] * 3, "std": [0.25] * 3},
        "classes": [f"class {index}" for index in range(CLASSES)],
    }
    card = folder / "card.json"
    card.write_text(json.dumps(content))
    return card


def _build(family: Family, size: tuple[int, int]) -> nn.Module:
    library, _, name = family.spec.partition("/")
    options = dict(family.options) | {"num_classes": CLASSES}
    if library == "timm":
        import timm

        return timm.create_model(name, **(find_timm_option(name, size) | options))
    from torchvision import models

    return models.get_model(name, weights=None, **(find_torchvision_option(name, size) | options))


@torch.no_grad()
def _settle(module: nn.Module, side: int) -> None:
    """Let batch norms see images, and draw heads that begin as zeros, so that logits differ."""
    for values in module.parameters():
        if values.ndim > 1 and not values.any():
            values.normal_(std=0.1)
    module.train()
    for _ in range(3):
        module(torch.randn(4, 3, side, side))
    module.eval()


def _train(folder: Path, row: Row) -> Any:
    explainer = apercu.train(
        folder / "card.json",
        f"planted:size={row.side},images=16,classes={CLASSES}",
        folder / "run",
        config=TRAINING,
        steps=2,
        encoder="own",
        device="cpu",
        workers=0,
        say=lambda line: None,
    )
    encoder = explainer.network.encoder
    row.encoder = type(encoder.feature_maps[0]).__name__
    row.strides = tuple(encoder.strides)
    return explainer


def _explain(classifier: Classifier, explainer: Any, folder: Path, row: Row) -> None:
    """Open the run again, and check its maps and where the encoder's maps look."""
    opened = apercu.load_explainer(folder / "run")
    images = torch.rand(2, 3, *classifier.size, generator=torch.Generator().manual_seed(0))
    maps = opened(images, 1)
    if maps.shape != (2, *classifier.size) or not bool(torch.isfinite(maps).all()):
        raise ValueError(f"maps of shape {tuple(maps.shape)}, or not finite")
    if float((maps - explainer(images, 1)).abs().amax()) > 1e-3:
        raise ValueError("the opened run gives other maps than the trained explainer")
    maps = opened.network.encoder.feature_maps[0]
    if isinstance(maps, StageMaps) and (maps.final is None or maps.ends_in_map):
        return  # deep features of convolutions can depend on the whole image
    layouts = getattr(maps, "layouts", ())
    if layouts and all(layout.form == "channels_first" for layout in layouts):
        return
    with torch.no_grad():
        features = opened.network.encode(make_probes(3, classifier.size))
    for stride, outputs in zip(row.strides, features, strict=True):
        layout = find_layout(outputs, classifier.size)
        if min(outputs.shape[2:]) > 3 and (layout is None or layout.form != "channels_first"):
            raise ValueError(f"the map of stride {stride} does not follow the image")


def _export(classifier: Classifier, explainer: Any, folder: Path, row: Row) -> None:
    """Export prediction and maps as one graph, and compare it with PyTorch."""
    exportable = build_graph(explainer)
    predictor = build_predictor(explainer.network, explainer.classifier_info, classifier)
    combined = CombinedGraph(exportable, predictor)
    graph = Traceable.for_images(combined, combined.outputs, explainer.classifier_info.input)
    path = write_onnx(graph, folder / "combined.onnx")
    session = open_session(path)
    trials = make_trials(graph.inputs[0].shape[1:], CLASSES)
    check = check_outputs(lambda *trial: run_session(session, *trial), graph, trials)
    row.difference = check.difference


def _try_methods(classifier: Classifier) -> Iterator[tuple[str, str]]:
    """Yield why each method does not run, or an empty text."""
    images = torch.rand(2, 3, *classifier.size, generator=torch.Generator().manual_seed(0))
    for name in (name for name in METHODS if name not in NEEDS_BOXES):
        try:
            maps = get(SHORT.get(name, name))(classifier, images, 1)
            fits = maps.shape == (2, *classifier.size) and bool(torch.isfinite(maps).all())
            wrong = f"{FAULT} maps of shape {tuple(maps.shape)}, or not finite"
            yield name, "" if fits else wrong
        except Exception as error:
            yield name, _describe_error(error)


if __name__ == "__main__":
    sys.exit(main())
