"""What a second look brings: crops that a search finds from masks, from CAM and from the centre.

    python recipes/levels/second_look.py CLASSIFIER RUN IMAGES --training-images FOLDER [--limit N]

IMAGES have labels. The limit above which a mask is doubtful is the run's, or else is chosen on the
images of FOLDER that its training kept. Prints means of the saliency metric of one crop per image,
the differences from the mask's own crop, and how often the classifier was asked.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from apercu import load_explainer, open_classifier
from apercu.explainers.mask.objectives.crop_search import (
    LIMIT_FACT,
    choose_limit,
    score_masks,
    search_crops,
)
from apercu.images import batches, open_images
from apercu.maps import min_max_scale
from apercu.methods import Cam, CentreBlob
from apercu.methods.second_look import STRETCHED_EXTENT_LEVEL
from apercu.statistics import bootstrap_interval, sign_flip_test
from apercu.training.data import TrainingImages, iterate_batches, split_held_out

QUERIES = (5, 20)
STARTS = {"CAM": Cam(), "centred blob": CentreBlob()}


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("classifier", "run", "images"):
        words.add_argument(name)
    words.add_argument("--training-images")
    words.add_argument("--limit", type=int, default=10**9)
    words.add_argument("--out", type=Path)
    arguments = words.parse_args()
    classifier, explainer = open_classifier(arguments.classifier), load_explainer(arguments.run)
    limit = explainer.facts.get(LIMIT_FACT)
    if limit is None:
        source = open_images(arguments.training_images)
        kept = TrainingImages(source, classifier, split_held_out(len(source), 0).held_out)
        limit = choose_limit(explainer, classifier, iterate_batches(kept, len(kept)))
    print(f"limit of doubtful masks: {limit:.3f}")
    scores: dict[str, list[torch.Tensor]] = {}
    for batch in batches(open_images(arguments.images), classifier.prepare, 20):
        targets = torch.tensor([classifier.index_of(label) for label in batch.labels])
        masks = explainer.attribute(batch.images, targets).clone()
        add(scores, "mask", score_masks(classifier, batch.images, targets, masks))
        for count in QUERIES:
            found = search_crops(classifier, batch.images, targets, masks, queries=count)
            add(scores, f"mask, {count} queries", found.scores)
            for name, method in STARTS.items():
                maps = method(classifier, batch.images, targets).detach()
                found = search_crops(
                    classifier,
                    batch.images,
                    targets,
                    min_max_scale(maps),
                    lowest=STRETCHED_EXTENT_LEVEL,
                    queries=count,
                )
                add(scores, f"{name}, {count} queries", found.scores)
        done = sum(map(len, scores["mask"]))
        print(f"{done} images", flush=True)
        if done >= arguments.limit:
            break
    rows = {name: torch.cat(values).numpy() for name, values in scores.items()}
    first, last = rows["mask"], rows[f"mask, {QUERIES[-1]} queries"]
    doubtful = first > limit
    rows["mask, 20 queries for doubtful ones"] = np.where(doubtful, last, first)
    print(f"doubtful: {doubtful.sum()} of {len(first)}")
    for name, values in rows.items():
        print_row(name, values, last)
    if arguments.out:
        arguments.out.write_text(json.dumps({name: row.tolist() for name, row in rows.items()}))


def add(scores: dict[str, list[torch.Tensor]], name: str, values: torch.Tensor) -> None:
    """Add the scores of one batch to those of a row."""
    scores.setdefault(name, []).append(values.cpu())


def print_row(name: str, values: np.ndarray, best: np.ndarray) -> None:
    """Print a mean with its 95 % interval, and the difference from the search that starts best."""
    low, high = bootstrap_interval(values, 0)
    difference = values - best
    p = sign_flip_test(difference, 0) if difference.any() else 1.0
    print(
        f"{name}: {values.mean():.3f} ({low:.3f} to {high:.3f}); "
        f"from the masks' search {difference.mean():+.3f}, p {p:.4f}"
    )


if __name__ == "__main__":
    main()
