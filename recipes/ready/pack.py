"""Puts a trained run into the package as a ready-made explainer.

    python recipes/ready/pack.py RUN COMPARISON NAME --images … --terms … --test … --command …

RUN was trained for `ready:NAME`; COMPARISON is what `apercu compare` left for it. The weights of
gate and decoder are stored as they are; those of the classifier come from its own package.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

from safetensors.torch import save

from apercu import load_explainer, open_classifier
from apercu.evaluation import ComparisonResults
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.ready import READY_FOLDER
from apercu.explainers.run_folder import CLASSIFIER, CONFIG, ENCODER, FACTS, WEIGHTS
from apercu.io import write_file, write_hashes

TEMPLATE = Path(__file__).with_name("card.md")
METRICS = {
    "localisation_error": "objects missed at an intersection of one half",
    "pointing_game": "highest point on the object",
    "saliency_metric": "saliency metric of Dabkowski & Gal",
}
"""What the card shows of a comparison."""


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("run", type=Path)
    words.add_argument("comparison", type=Path)
    words.add_argument("name")
    words.add_argument("--images", required=True, help="the training images, in words")
    words.add_argument("--terms", required=True, help="the terms of the training images")
    words.add_argument("--test", required=True, help="the images of the comparison, in words")
    words.add_argument("--command", required=True, help="the command that trains it again")
    arguments = words.parse_args()
    out = READY_FOLDER / arguments.name
    pack_run(arguments.run, out, arguments.name)
    write_file(out / "card.md", render_card(arguments, out).encode())
    names = [CONFIG, CLASSIFIER, FACTS, WEIGHTS]
    write_hashes(out, names)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


def pack_run(run: Path, out: Path, name: str) -> None:
    """Write the files of a run that explaining needs."""
    explainer = load_explainer(run)
    weights = explainer.network.state_without_frozen_encoder()
    classifier = open_classifier(f"ready:{name}")
    explainer.classifier_info.check_classifier(classifier)
    info = ClassifierInfo.from_classifier(classifier)
    write_file(out / CONFIG, explainer.settings.model_dump_json(indent=1).encode())
    write_file(out / CLASSIFIER, info.model_dump_json(indent=1).encode())
    write_file(out / FACTS, json.dumps(explainer.facts, indent=1).encode())
    write_file(out / ENCODER / "card.json", json.dumps({"source": f"ready:{name}"}).encode())
    write_file(out / WEIGHTS, save(weights))


def render_card(arguments: argparse.Namespace, out: Path) -> str:
    """Return the card: what it explains, what it was trained on, how good it is, its limits."""
    facts = json.loads((out / FACTS).read_text(encoding="utf-8"))
    information = json.loads((out / CLASSIFIER).read_text(encoding="utf-8"))
    return TEMPLATE.read_text(encoding="utf-8").format(
        **vars(arguments),
        **facts,
        fingerprint=information["fingerprint"][:16],
        date=date.today().isoformat(),
        table=render_table(arguments.comparison),
    )


def render_table(comparison: Path) -> str:
    """Return the figures of a comparison as Markdown, with their 95 % intervals."""
    results = ComparisonResults.load(comparison)
    rows = {(row.explainer, row.metric): row for row in results.rows}
    explainers = [name for name in results.explainers if ":" not in name]
    lines = [f"| | {' | '.join(explainers)} |", "|---" * (len(explainers) + 1) + "|"]
    for metric, words in METRICS.items():
        cells = [
            "{:.3f} ({:.3f} to {:.3f})".format(row.value, *row.ci95)
            for explainer in explainers
            if (row := rows.get((explainer, metric)))
        ]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
