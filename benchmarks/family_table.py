"""The families of classifiers, what came of each, and the page that shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs" / "reference"
RESULTS, PAGE = "families.json", "families.md"
FAULT = "fault:"
"""Beginning of a reason that is a mistake of the package, rather than what it tells its user."""


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
        methods: why each method does not run, by name; an empty text where it does.
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

    @property
    def has_fault(self) -> bool:
        """Whether something failed by a mistake of the package."""
        steps = (self.opened, self.trained, self.explained, self.exported)
        return any(map(is_fault, (*steps, *self.methods.values())))


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


def is_fault(reason: str) -> bool:
    """Return whether a reason is a fault, rather than what the package tells its user."""
    return reason.startswith(FAULT)


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
    if row.methods:
        reasons.append(_count_methods(row, " methods"))
    return f"{row.name} ({row.spec}, {row.side}, {row.seconds} s): {'; '.join(reasons) or 'all'}"


_STEPS = ("opened", "trained", "explained", "exported")
_ENCODERS = {"StageMaps": "stages", "GraphMaps": "trace", "ProgramMaps": "program", "": "–"}


def render_page(rows: Mapping[str, Row]) -> str:
    """Return the page with both tables, and the reasons under them."""
    notes: dict[str, int] = {}
    trained = sum(not row.trained and not row.opened for row in rows.values())
    exported = sum(row.difference is not None for row in rows.values())
    faults = sum(row.has_fault for row in rows.values())
    lines = [
        "# Families of classifiers",
        "",
        "Which classifiers work with what? One small architecture of each family was tried, with",
        "random weights, on planted images at the smallest side tried that it takes:",
        "",
        "1. It is opened from a card.",
        "2. A mask explainer is trained for two steps, with the classifier as its own encoder.",
        "3. The run is opened again and gives maps.",
        "4. Prediction and maps are exported as one ONNX graph.",
        "5. Each method is called (where the last column counts them).",
        "",
        "Where something does not work, a note has the reason, as the command line says it.",
        f"Mistakes of the package begin with `{FAULT}`.",
        "",
        "| column | |",
        "|---|---|",
        "| encoder | where the feature maps come from: `stages` are the stages that a model of "
        "timm gives by `forward_intermediates`; `trace` is the last map of each stride in a trace "
        "of the network |",
        "| ONNX | the largest difference of a number from PyTorch's |",
        "",
        "`make families` measures what is not in families.json yet, and writes this page.",
        "",
        f"{len(rows)} of {len(FAMILIES)} families were run: {trained} of them trained, {exported} "
        f"exported, {faults} with a fault.",
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
        _ENCODERS[row.encoder],
        ", ".join(map(str, row.strides)),
        trained,
        "–" if ended else _mark(row.explained, row, notes),
        "–" if ended else exported or _mark(row.exported, row, notes),
        _count_methods(row),
    ]
    return f"| {' | '.join(cells)} |"


def _count_methods(row: Row, noun: str = "") -> str:
    """Return how many methods run, and how many fail by a fault."""
    if not row.methods:
        return "–"
    working = sum(not reason for reason in row.methods.values())
    faults = sum(map(is_fault, row.methods.values()))
    noun_of_faults = "fault" if faults == 1 else "faults"
    end = f", {faults} {noun_of_faults}" if faults else ""
    return f"{working} of {len(row.methods)}{noun}{end}"


def _mark(reason: str | None, row: Row, notes: dict[str, int]) -> str:
    """Return ✓, – for what was not tried, or the number of the note with the reason."""
    if reason is None:
        return "–"
    if not reason:
        return "✓"
    words = reason.replace(row.spec, "SPEC").split(" ")
    general = " ".join("CARD" if "card.json" in word else word for word in words)
    return f"note {notes.setdefault(general, len(notes) + 1)}"
