"""Every family of timm and torchvision: opened, trained on, explained, exported, by each method.

    python benchmarks/families.py [--only ViT,Swin] [--again] [--no-methods]

One small architecture of each family, random weights, planted images, the smallest side that the
family takes. What was measured is kept in docs/families.json after each family, so that a run goes
on where the last one ended (`--again` measures anew), and docs/families.md is written from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
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

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS, PAGE = "families.json", "families.md"
SIDES = (32, 64, 96, 128, 224)
"""Sides that are tried where a family does not take its own, pixels."""
CLASSES = 6
TRAINING: dict[str, Any] = {
    "decoder": {"width": 16},
    "embedding": {"steps": 2, "batch": 4},
    "schedule": {"steps": 2, "batch": 4, "side": 48},
}
SHORT = {
    "rise": "rise:masks=16",
    "mfpp": "mfpp:masks=16",
    "occlusion": "occlusion:window=0.5,stride=0.25",
    "meaningful_perturbation": "meaningful_perturbation:steps=3",
    "smooth_grad": "smooth_grad:samples=3",
    "smooth_taylor": "smooth_taylor:samples=3",
    "integrated_gradients": "integrated_gradients:steps=3",
    "guided_integrated_gradients": "guided_integrated_gradients:steps=3",
}
"""Methods with few queries, as here it is only seen whether they run."""
FAULT = "fault:"
NEEDS_BOXES = ("true_box",)


@dataclass(frozen=True)
class Family:
    """One small architecture of a family.

    Attributes:
        name: the family.
        spec: the classifier, as it is typed.
        side: the side of the images, pixels.
        options: options with which it is built.
    """

    name: str
    spec: str
    side: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Row:
    """What came of one family; reasons are empty where all went well.

    Attributes:
        name: the family.
        spec: the classifier.
        side: the side of the images, pixels.
        parameters: number of the network's parameters, millions.
        encoder: where the feature maps come from: stages of timm, or a trace.
        strides: strides of the encoder's maps.
        opened: why it was not opened.
        trained: why it was not trained on.
        explained: why no maps came, or what is wrong with them.
        exported: why it was not exported.
        difference: largest difference between the maps of ONNX Runtime and PyTorch.
        methods: why each method does not run, by name.
        seconds: time of all of it.
    """

    name: str
    spec: str
    side: int
    parameters: float = 0.0
    encoder: str = ""
    strides: tuple[int, ...] = ()
    opened: str = ""
    trained: str = ""
    explained: str = ""
    exported: str = ""
    difference: float | None = None
    methods: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def _timm(name: str, model: str, side: int = 64, **options: Any) -> Family:
    return Family(name, f"timm/{model}", side, options)


def _torchvision(model: str, side: int = 64, **options: Any) -> Family:
    return Family(f"torchvision {model}", f"torchvision/{model}", side, options)


FAMILIES: tuple[Family, ...] = (
    _timm("ViT", "vit_tiny_patch16_224", depth=4),
    _timm("DeiT", "deit_tiny_distilled_patch16_224", depth=4),
    _timm("BEiT", "beit_base_patch16_224", depth=2),
    _timm("EVA-02", "eva02_tiny_patch14_224", 56, depth=4),
    _timm("DINOv2 with registers", "vit_small_patch14_reg4_dinov2", 56, depth=4),
    _timm("DINOv3", "vit_small_patch16_dinov3", depth=4),
    _timm("Swin", "swin_tiny_patch4_window7_224", depths=[1, 1, 2, 1]),
    _timm("Swin v2", "swinv2_tiny_window8_256", depths=[1, 1, 2, 1]),
    _timm("Swin v2 CR", "swinv2_cr_tiny_ns_224", depths=[1, 1, 2, 1]),
    _timm("MaxViT", "maxvit_pico_rw_256", depths=[1, 1, 1, 1]),
    _timm("CoAtNet", "coatnet_pico_rw_224", depths=[1, 1, 1, 1]),
    _timm("ConvNeXt", "convnext_atto"),
    _timm("ConvNeXt v2", "convnextv2_atto"),
    _timm("EfficientNet", "efficientnet_b0"),
    _timm("EfficientNet v2", "tf_efficientnetv2_b0"),
    _timm("EfficientNet lite", "tf_efficientnet_lite0"),
    _timm("MobileNet v1", "mobilenetv1_100"),
    _timm("MobileNet v2", "mobilenetv2_035"),
    _timm("MobileNet v3", "mobilenetv3_small_050"),
    _timm("MobileNet v4", "mobilenetv4_conv_small_035"),
    _timm("MobileNet v4 hybrid", "mobilenetv4_hybrid_medium_075"),
    _timm("MobileNet v5", "mobilenetv5_base"),
    _timm("RegNetX", "regnetx_002"),
    _timm("RegNetY", "regnety_002"),
    _timm("ResNet", "resnet10t"),
    _timm("ResNeXt", "resnext50_32x4d"),
    _timm("SE-ResNet", "seresnet18"),
    _timm("DenseNet", "densenet121"),
    _timm("Inception v3", "inception_v3", 96),
    _timm("VGG", "vgg11"),
    _timm("MobileViT", "mobilevit_xxs"),
    _timm("MobileViT v2", "mobilevitv2_050"),
    _timm("EfficientFormer", "efficientformer_l1"),
    _timm("EfficientFormer v2", "efficientformerv2_s0"),
    _timm("EdgeNeXt", "edgenext_xx_small"),
    _timm("PiT", "pit_ti_224"),
    _timm("Twins", "twins_svt_small"),
    _timm("CaiT", "cait_xxs24_224", depth=3),
    _timm("XCiT", "xcit_nano_12_p16_224", depth=4),
    _timm("MLP-Mixer", "mixer_s16_224"),
    _timm("gMLP", "gmlp_ti16_224"),
    _timm("ResMLP", "resmlp_12_224"),
    _timm("Hiera", "hiera_tiny_224"),
    _timm("FastViT", "fastvit_t8"),
    _timm("RepViT", "repvit_m0_9"),
    _timm("TinyViT", "tiny_vit_5m_224"),
    _timm("LeViT", "levit_128s"),
    _timm("PoolFormer", "poolformer_s12"),
    _timm("NFNet", "nf_regnet_b0"),
    _torchvision("vit_b_16"),
    _torchvision("swin_t"),
    _torchvision("swin_v2_t"),
    _torchvision("convnext_tiny"),
    _torchvision("maxvit_t"),
    _torchvision("resnet18"),
    _torchvision("googlenet"),
    _torchvision("inception_v3", 96),
    _torchvision("squeezenet1_1"),
    _torchvision("mobilenet_v2"),
    _torchvision("mobilenet_v3_small"),
    _torchvision("efficientnet_b0"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("mnasnet0_5"),
    _torchvision("regnet_y_400mf"),
    _torchvision("densenet121"),
    _torchvision("alexnet"),
    _torchvision("vgg11"),
    _timm("DeiT III", "deit3_small_patch16_224", depth=3),
    _timm("ViT with registers", "vit_wee_patch16_reg1_gap_256", depth=3),
    _timm("CLIP ViT", "vit_xsmall_patch16_clip_224", depth=3),
    _timm("SigLIP ViT", "vit_base_patch16_siglip_224", depth=2),
    _timm("FlexiViT", "flexivit_small", depth=3),
    _timm("ViT with relative positions", "vit_relpos_small_patch16_224", depth=3),
    _timm("ViT hybrid", "vit_tiny_r_s16_p8_224", depth=3),
    _timm("ViTamin", "vitamin_small_224"),
    _timm("ConViT", "convit_tiny", depth=3),
    _timm("CoaT", "coat_lite_tiny"),
    _timm("CrossViT", "crossvit_tiny_240", 96),
    _timm("TNT", "tnt_s_patch16_224", depth=3),
    _timm("Visformer", "visformer_tiny"),
    _timm("NesT", "nest_tiny"),
    _timm("PVT v2", "pvt_v2_b0"),
    _timm("MViT v2", "mvitv2_tiny"),
    _timm("DaViT", "davit_tiny", depths=[1, 1, 1, 1]),
    _timm("GCViT", "gcvit_xxtiny"),
    _timm("FocalNet", "focalnet_tiny_srf"),
    _timm("VOLO", "volo_d1_224"),
    _timm("NextViT", "nextvit_small"),
    _timm("EfficientViT (MIT)", "efficientvit_b0"),
    _timm("EfficientViT (MSRA)", "efficientvit_m0"),
    _timm("CAFormer", "caformer_s18"),
    _timm("ConvFormer", "convformer_s18"),
    _timm("SwiftFormer", "swiftformer_xs"),
    _timm("SHViT", "shvit_s1"),
    _timm("Sequencer", "sequencer2d_s", layers=[1, 1, 1, 1]),
    _timm("MambaOut", "mambaout_femto"),
    _timm("InceptionNeXt", "inception_next_atto"),
    _timm("FasterNet", "fasternet_t0"),
    _timm("StarNet", "starnet_s050"),
    _timm("GhostNet", "ghostnet_050"),
    _timm("RexNet", "rexnet_100"),
    _timm("MNASNet", "mnasnet_small"),
    _timm("MixNet", "mixnet_s"),
    _timm("LCNet", "lcnet_035"),
    _timm("HGNet v2", "hgnetv2_b0"),
    _timm("RepVGG", "repvgg_a0"),
    _timm("MobileOne", "mobileone_s0"),
    _timm("BotNet", "botnet26t_256"),
    _timm("HaloNet", "halonet26t"),
    _timm("ResNet v2", "resnetv2_18"),
    _timm("Res2Net", "res2net50_14w_8s"),
    _timm("ResNeSt", "resnest14d"),
    _timm("SKNet", "skresnet18"),
    _timm("DLA", "dla46_c"),
    _timm("DPN", "dpn48b"),
    _timm("HRNet", "hrnet_w18_small"),
    _timm("VoVNet", "ese_vovnet19b_slim_dw"),
    _timm("CSPNet", "cs3darknet_s"),
    _timm("SelecSLS", "selecsls42"),
    _timm("TResNet", "tresnet_m"),
    _timm("Xception", "legacy_xception", 96),
    _timm("Inception v4", "inception_v4", 96),
    _timm("Inception-ResNet v2", "inception_resnet_v2", 96),
    _timm("ConvMixer", "convmixer_768_32"),
)


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


def is_fault(reason: str) -> bool:
    """Return whether a reason is a fault, rather than what the package tells its user."""
    return reason.startswith(FAULT)


def _describe_error(error: Exception) -> str:
    """Return one line; a fault, unlike what the package tells, is marked, with its type."""
    line = " ".join(str(error).split())[:300]
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
        raise ApercuError(f"maps of shape {tuple(maps.shape)}, or not finite")
    if float((maps - explainer(images, 1)).abs().amax()) > 1e-3:
        raise ApercuError("the opened run gives other maps than the trained explainer")
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
            raise ApercuError(f"the map of stride {stride} does not follow the image")


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
            yield name, "" if fits else f"maps of shape {tuple(maps.shape)}, or not finite"
        except Exception as error:
            yield name, _describe_error(error)


def read_rows(folder: Path) -> dict[str, Row]:
    """Return what was measured so far, by family, in the order of `FAMILIES`."""
    path = folder / RESULTS
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows = {name: Row(**values) for name, values in content.items()}
    return {family.name: rows[family.name] for family in FAMILIES if family.name in rows}


def write_rows(folder: Path, rows: Mapping[str, Row]) -> None:
    """Write what was measured, whole."""
    content = {name: asdict(row) for name, row in rows.items()}
    part = folder / f"{RESULTS}.part"
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(folder / RESULTS)


def describe(row: Row) -> str:
    """Return one line about a family."""
    reasons = [f"{name}: {reason}" for name in _STEPS if (reason := getattr(row, name))]
    refused = sum(bool(reason) for reason in row.methods.values())
    if row.methods:
        reasons.append(f"{len(row.methods) - refused} of {len(row.methods)} methods")
    return f"{row.name} ({row.spec}, {row.side}, {row.seconds} s): {'; '.join(reasons) or 'all'}"


_STEPS = ("opened", "trained", "explained", "exported")
_WAYS = {"StageMaps": "stages", "GraphMaps": "trace", "ProgramMaps": "program", "": "–"}


def render_page(rows: Mapping[str, Row]) -> str:
    """Return the page with both tables, and the reasons under them."""
    notes: dict[str, int] = {}
    lines = [
        "# Families of classifiers",
        "",
        "One small architecture of each family, with random weights, on planted images at the",
        "smallest side tried that it takes: it is opened from a card, a mask explainer is trained",
        "for two steps with the classifier as its own encoder, the run is opened again and gives",
        "maps, prediction and maps are exported as one ONNX graph, and (where the last column",
        "counts them) each method is called. Where something does not work, the note holds the",
        "reason, as the command line tells it.",
        "`make families` measures what is not in families.json yet, and writes this page.",
        "",
        "*Encoder*: `stages` are the stages that a model of timm gives by `forward_intermediates`;",
        "`trace` is the last map of each stride in a trace of the network. *ONNX*: the largest",
        "difference of a number from PyTorch's.",
        "",
        f"{len(rows)} families, {sum(not row.trained and not row.opened for row in rows.values())}"
        " of them trained.",
        "",
        "| family | classifier | side | million weights | encoder | strides | trained | explained |"
        " ONNX | methods |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_render_row(row, notes) for row in rows.values()]
    methods = list(dict.fromkeys(name for row in rows.values() for name in row.methods))
    if methods:
        lines += ["", "## Methods", "", f"| family | {' | '.join(methods)} |"]
        lines += ["|---" * (len(methods) + 1) + "|"]
    for row in (row for row in rows.values() if row.methods):
        cells = [_mark(row.methods.get(name), row, notes) for name in methods]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    lines += ["", "## Notes", ""]
    lines += [f"{number}. {text}" for text, number in notes.items()]
    return "\n".join(lines) + "\n"


def _render_row(row: Row, notes: dict[str, int]) -> str:
    trained = _mark(row.opened or row.trained, row, notes)
    ended = bool(row.opened or row.trained)
    exported = f"{row.difference:.0e}" if row.difference is not None else ""
    cells = [
        row.name,
        f"`{row.spec}`",
        str(row.side),
        f"{row.parameters:g}",
        _WAYS[row.encoder],
        ", ".join(map(str, row.strides)),
        trained,
        "–" if ended else _mark(row.explained, row, notes),
        "–" if ended else exported or _mark(row.exported, row, notes),
        _count_methods(row),
    ]
    return f"| {' | '.join(cells)} |"


def _count_methods(row: Row) -> str:
    if not row.methods:
        return "–"
    return f"{sum(not reason for reason in row.methods.values())} of {len(row.methods)}"


def _mark(reason: str | None, row: Row, notes: dict[str, int]) -> str:
    """Return ✓, – for what was not tried, or the number of the note with the reason."""
    if reason is None:
        return "–"
    if not reason:
        return "✓"
    general = reason.replace(row.spec, "SPEC")
    for part in ("/tmp/", tempfile.gettempdir()):
        if part in general:
            words = general.split()
            general = " ".join("CARD" if part in word else word for word in words)
    return f"note {notes.setdefault(general, len(notes) + 1)}"


if __name__ == "__main__":
    sys.exit(main())
