"""How near a Shapley explainer comes to sampled Shapley values, beside class activation maps.

The sampled values of each image are the least squares over thousands of subsets of its cells, which
are drawn by the Shapley kernel (KernelSHAP, Lundberg & Lee 2017). Half of the subsets each give one
estimate; how well the two halves agree is the ceiling of what an explainer can reach here.

    python recipes/shapley/agreement.py --run runs/shapley --classifier CARD --images DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import apercu
from apercu.classifiers import Classifier
from apercu.explainers.shapley.explainer import ShapleyExplainer
from apercu.explainers.shapley.network import ShapleyNetwork, share_rest
from apercu.explainers.shapley.training import query_subsets
from apercu.statistics import spearman

BATCH = 64
"""Subsets that the classifier receives at once."""


def sample_values(
    network: ShapleyNetwork,
    classifier: Classifier,
    image: Tensor,
    target: int,
    count: int,
    seed: int,
) -> Tensor:
    """Return the sampled Shapley values of the cells of one image, `rows × columns`."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        query_subsets(network, classifier, image, BATCH, generator) for _ in range(count // BATCH)
    ]
    subsets = torch.cat([subsets[0].flatten(1) for subsets, _ in parts]).double()
    gains = torch.cat([gains[0, :, target] for _, gains in parts]).double()
    with torch.no_grad():
        total = network.compute_gain(classifier(image))[0, target].double()
    centred = subsets - subsets.mean(1, keepdim=True)  # equal parts of the total are taken off
    rest = gains - subsets.mean(1) * total
    free = torch.linalg.lstsq(centred, rest[:, None], driver="gelsd").solution[:, 0]
    return share_rest(free.view(network.decoder.grid), total).float()


def main() -> None:
    """Measure the agreement, and write it into the run folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True)
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--subsets", type=int, default=1024)
    typed = parser.parse_args()
    classifier = apercu.open_classifier(typed.classifier)
    explainer = apercu.load_explainer(typed.run)
    assert isinstance(explainer, ShapleyExplainer)
    network, source = explainer.network, apercu.open_images(typed.images)
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[: typed.limit]
    methods = {name: apercu.methods.get(name) for name in ("cam", "grad_cam", "gradient_shap")}
    rows: list[dict[str, float]] = []
    for index in order.tolist():
        image = classifier.prepare(source.picture(index))[None]
        with torch.no_grad():
            logits = classifier(image)
        target = int(logits.argmax())
        halves = [
            sample_values(network, classifier, image, target, typed.subsets, seed)
            for seed in (2 * index, 2 * index + 1)
        ]
        sampled = (halves[0] + halves[1]) / 2 * network.unit
        maps = {"shapley": explainer.shapley_values(image, target, logits=logits)}
        for name, method in methods.items():
            map = method(classifier, image, target)
            maps[name] = F.adaptive_avg_pool2d(map[:, None], network.decoder.grid)[:, 0]
        row = {
            name: float(spearman(sampled.view(1, -1), map.flatten(1))) for name, map in maps.items()
        }
        row["halves"] = float(spearman(*(half.view(1, -1) for half in halves)))
        for name in ("shapley", "half"):
            values = maps["shapley"][0] if name == "shapley" else halves[0] * network.unit
            other = sampled if name == "shapley" else halves[1] * network.unit
            spread = (other - other.mean()).square().sum()
            row[f"{name} explained"] = float(1 - (values - other).square().sum() / spread)
        rows.append(row)
        print(source.names[index], {key: round(value, 3) for key, value in row.items()}, flush=True)
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    print("mean", {key: round(value, 3) for key, value in means.items()})
    Path(typed.run, "agreement.json").write_text(
        json.dumps({"mean": means, "rows": rows}, indent=1)
    )


if __name__ == "__main__":
    main()
