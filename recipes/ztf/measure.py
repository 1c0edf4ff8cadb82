"""Does the evidence of braai lie on the object? The share of flux in the strongest tenth of maps.

    python recipes/ztf/measure.py RUN_FOLDER [LIMIT]

Writes measure.json and a Markdown table into the folder: for alerts of the test, how much of the
difference image's flux (above three times its noise, whatever its sign) lies on the tenth of the
pixels where each method's map is highest. A tenth would be chance.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from apercu import open_classifier, open_images
from apercu.explainers.run_folder import load_explainer
from apercu.images.stretch import SIGMA_PER_MAD, subtract_sky
from apercu.io import write_file, write_json
from apercu.methods import (
    CentreBlob,
    Gradient,
    Method,
    Occlusion,
    RandomMap,
    Rise,
    SmoothGrad,
)
from apercu.statistics import bootstrap_interval
from apercu.types import Maps, Picture, Scores

STRONGEST, ABOVE = 0.1, 3.0
METHODS: dict[str, Method] = {
    "gradient": Gradient(),
    "smooth_grad": SmoothGrad(),
    "occlusion": Occlusion(),
    "rise": Rise(masks=1000),
    "centre_blob": CentreBlob(),
    "random": RandomMap(),
}
DIFFERENCE = 2


def flux(picture: Picture) -> Float[Tensor, "height width"]:
    """Absolute counts of the difference image where they are above its noise, 0 elsewhere."""
    counts = subtract_sky(picture)[DIFFERENCE].abs()
    noise = (
        SIGMA_PER_MAD * counts[counts > 0].median()
        if (counts > 0).any()
        else counts.new_tensor(1.0)
    )
    return torch.where(counts > ABOVE * noise, counts, 0.0)


def on_flux(maps: Maps, light: Float[Tensor, "batch height width"]) -> Scores:
    """Share of each image's flux on the strongest tenth of its map; NaN without any flux."""
    count = round(STRONGEST * maps[0].numel())
    top = maps.flatten(1).topk(count).indices
    result = light.flatten(1).gather(1, top).sum(1)
    return result / light.flatten(1).sum(1)


def main(run: Path, limit: int) -> None:
    """Measures all methods on the same alerts."""
    classifier = open_classifier(run / "braai.json")
    source = open_images(run / "data" / "test.npz", channels=3)
    step = max(1, len(source) // limit)
    pictures = [source[index].picture for index in range(0, len(source), step)]
    images = torch.stack([classifier.prepare(picture) for picture in pictures])
    light = torch.stack([flux(picture) for picture in pictures])
    targets = classifier.predict_probabilities(images).argmax(1)
    results: dict[str, Scores] = {}
    for name in ("mask", "counterpart"):
        explainer = load_explainer(run / name)
        results[name] = on_flux(explainer.attribute(images, targets), light)
    for name, method in METHODS.items():
        parts = zip(images.split(8), targets.split(8), strict=True)
        maps = torch.cat([method(classifier, *part) for part in parts])
        results[name] = on_flux(maps, light)
    rows, lines = [], ["| map | on flux, real | on flux, bogus |", "|---|---|---|"]
    for name, scores in results.items():
        cells = []
        for index, kind in enumerate(classifier.classes):
            chosen = scores[(targets == index) & scores.isfinite()]
            mean, (low, high) = float(chosen.mean()), bootstrap_interval(chosen.numpy(), 0)
            ends = [low, high]
            rows.append({"map": name, "class": kind, "value": mean, "ci95": ends, "n": len(chosen)})
            cells.append(f"{100 * mean:.0f} % ({100 * low:.0f} to {100 * high:.0f})")
        lines.append(f"| {name} | {cells[1]} | {cells[0]} |")
    write_json(run / "measure.json", {"rows": rows})
    write_file(run / "measure.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 150)
