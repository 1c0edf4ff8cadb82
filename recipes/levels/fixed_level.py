"""The localisation error of a run's masks at one level, which nothing here chooses.

    python recipes/levels/fixed_level.py CLASSIFIER RUN IMAGES [--level L] [--aside N] [--seed N]

IMAGES have boxes. Prints the error of all images, of those of a random part that is put aside, and
by the area of the largest box: below a tenth of the image, a tenth to a quarter, above.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from apercu import load_explainer, open_classifier
from apercu.images import batches, open_images
from apercu.maps import find_regions, tight_boxes
from apercu.metrics import localisation_error
from apercu.statistics import bootstrap_interval

LIMITS = (0.1, 0.25)


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("classifier", "run", "images"):
        words.add_argument(name)
    words.add_argument("--level", type=float, default=0.55)
    words.add_argument("--aside", type=int, default=100)
    words.add_argument("--seed", type=int, default=20261129)
    arguments = words.parse_args()
    classifier = open_classifier(arguments.classifier)
    explainer, source = load_explainer(arguments.run), open_images(arguments.images)
    missed, areas = [], []
    for batch in batches(source, classifier.prepare, 20):
        targets = torch.tensor([classifier.index_of(label) for label in batch.labels])
        masks = explainer.attribute(batch.images, targets)
        boxes = tight_boxes(find_regions(masks, arguments.level))
        for box, truth in zip(boxes, batch.boxes, strict=True):
            truth = torch.as_tensor(truth, dtype=box.dtype)
            missed.append(localisation_error(box[None], truth[None]).item())
            sides = truth[:, 2:] - truth[:, :2]
            areas.append((sides.prod(1).max() / masks[0].numel()).item())
    errors, size = np.array(missed), np.array(areas)
    order = np.random.default_rng(arguments.seed).permutation(len(errors))
    aside = np.isin(np.arange(len(errors)), order[: arguments.aside])
    print_error("all", errors)
    print_error("the part put aside", errors[aside])
    print_error("the others", errors[~aside])
    print_error("below a tenth", errors[size < LIMITS[0]])
    print_error("a tenth to a quarter", errors[(size >= LIMITS[0]) & (size < LIMITS[1])])
    print_error("above a quarter", errors[size >= LIMITS[1]])


def print_error(name: str, errors: np.ndarray) -> None:
    """Print the mean error of some images in percent, with its 95 % interval."""
    low, high = bootstrap_interval(errors, 0)
    print(
        f"{name}: {100 * errors.mean():.1f} % ({100 * low:.1f} to {100 * high:.1f}), {len(errors)}"
    )


if __name__ == "__main__":
    main()
