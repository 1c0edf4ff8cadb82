"""`apercu stress detect`: tampered images told from honest ones."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apercu.cli.exit_codes import on_interrupt, read_arguments
from apercu.cli.options import (
    ClassifierOption,
    DebugOption,
    Device,
    DeviceOption,
    ImagesOption,
    SeedOption,
)
from apercu.cli.stress.budgets import parse_epsilons
from apercu.cli.stress.decisions import choose_decision_attacks
from apercu.cli.terminal import say, show_progress, warn

if TYPE_CHECKING:
    from apercu.robustness.attacks import Attack

DEFAULT_ATTACKS = "fgsm,pgd"
"""Attacks of a classifier with gradients, where none are chosen."""


def detect(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results go.")],
    explainer: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A trained explainer, for map and stability.")
    ] = None,
    looks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="map, stability (or stability:FILTER), deep, or a method such as cam.",
        ),
    ] = None,
    detectors: Annotated[
        str, typer.Option(metavar="A,B:KEY=VALUE,…", help="Fitted to honest images alone.")
    ] = "autoencoder,one_class_svm,mahalanobis",
    attacks: Annotated[
        str | None,
        typer.Option(metavar="A,B:KEY=VALUE,…", help="As for apercu stress; fgsm,pgd by default."),
    ] = None,
    epsilons: Annotated[
        str, typer.Option(metavar="E,E", help="Budgets of the attacks that have one.")
    ] = "2/255,4/255,8/255",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the images, drawn at random.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Tell tampered images from honest ones by their explanations.

    Half of the images teach what is usual; the other half is shown honest and attacked. No detector
    ever learns from an attack. Writes detection.json.

    Example: apercu stress detect --classifier timm/resnet50 --images val/ --explainer run --out out
    """
    from apercu.classifiers import open_classifier
    from apercu.evaluation.cost import describe_environment
    from apercu.explainers.run_folder import load_explainer
    from apercu.images import open_images
    from apercu.io import check_writable, write_json
    from apercu.robustness.detection import DetectionBenchmark
    from apercu.robustness.detection.option_strings import parse_detectors, parse_extractors
    from apercu.robustness.plan import expand_budgets

    made = parse_detectors(detectors, seed)
    budgets, named = (
        parse_epsilons(epsilons),
        _parse_class_attacks(DEFAULT_ATTACKS if attacks is None else attacks, seed),
    )
    opened = open_classifier(classifier, device=device.resolve())
    watched = None if explainer is None else load_explainer(explainer).to(opened.device)
    seen = parse_extractors(looks, opened, watched)
    if not opened.differentiable:
        named = choose_decision_attacks(named, opened, seed, usual=attacks is None)
    cases = expand_budgets(named, budgets)
    source = open_images(images, channels=opened.channels, bands=opened.bands)
    check_writable(out)
    with on_interrupt(f"{out} keeps what is finished; the same command does the rest"):
        watch = DetectionBenchmark(opened, source, seen, made, cases, limit, seed)
        with show_progress(lines=True) as report:
            rows = watch.run(out, report)
    content = {
        "classifier": opened.spec,
        "fingerprint": opened.fingerprint,
        "images": source.name,
        "learnt_from": len(watch.sample.tune),
        "command": shlex.join(["apercu", *read_arguments()]),
        "rows": [row._asdict() for row in rows],
        "environment": describe_environment(seed, opened.device),
    }
    path = write_json(out / "detection.json", content)
    for name, epsilon in cases.keys() - {(row.attack, row.epsilon) for row in rows}:
        warn(f"{name} fools the classifier with none of the images" + _format_budget(epsilon))
    for row in rows:
        if row.metric == "auroc":
            low, high = row.ci95
            say(
                f"{row.attack}{_format_budget(row.epsilon)}, {row.look}, {row.detector}: "
                f"AUROC {row.value:.3f} ({low:.3f} to {high:.3f})"
            )
    say(f"rows: {path}")


def _parse_class_attacks(text: str, seed: int) -> dict[str, Attack]:
    from apercu.errors import ConfigError
    from apercu.option_strings import split_names
    from apercu.robustness.plan import find_objective_name, parse_attack

    names = split_names(text, "attacks", ())
    if other := next((name for name in names if find_objective_name(name) != "class"), None):
        raise ConfigError(f"attacks: {other} is for apercu stress; expected attacks on the class")
    return {name: parse_attack(name, seed) for name in names}


def _format_budget(epsilon: float | None) -> str:
    return "" if epsilon is None else f" at {255 * epsilon:g}/255"
