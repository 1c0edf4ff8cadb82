"""`apercu stress` itself: every attack at every budget, bare and behind each filter."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from apercu.cli.exit_codes import on_interrupt, read_arguments
from apercu.cli.options import Context, DebugOption, Device, DeviceOption
from apercu.cli.stress.decisions import choose_decision_attacks
from apercu.cli.stress.order import check_no_options, read_settings
from apercu.cli.terminal import say, show_progress, warn
from apercu.option_strings import MAX_SEED


def stress(
    context: Context,
    classifier: Annotated[
        str | None, typer.Option(metavar="SPEC", help="The classifier that is attacked.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder, image, Parquet file, or planted.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where results go.")] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B:KEY=VALUE,…",
            help="fgsm, i_fgsm, pgd, mult, deepfool, carlini_wagner, auto_attack; sparse_evo, "
            "hop_skip_jump, square; pgd:norm=l2,restarts=3 …; "
            "map_pgd moves the map, eot_pgd expects over noise, margin_pgd climbs the margin.",
        ),
    ] = None,
    filters: Annotated[
        str | None,
        typer.Option(metavar="A,B:KEY=VALUE,…", help="none, floyd_steinberg, jpeg:quality=75 …"),
    ] = None,
    epsilons: Annotated[
        str | None, typer.Option(metavar="E,E", help="Budgets, such as 2/255,4/255,8/255.")
    ] = None,
    knowledge: Annotated[
        str | None,
        typer.Option(metavar="naive,adaptive", help="Does the attacker know of the filter?"),
    ] = None,
    explainer: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Also measure how far its maps move.")
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Also show it images made against another classifier."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML with any of these but --out and --device; options override.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the images, drawn at random.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images attacked together.")] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=MAX_SEED, help="Of every random draw; 0 without a plan."),
    ] = None,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Attack a classifier: each attack at each budget, bare and behind each filter.

    A naive attacker knows the classifier alone; an adaptive one attacks through the filter.
    Writes results.json and report.html. What is there of the same test is not done again.

    Example: apercu stress --classifier timm/resnet50 --images val/ --filters none,jpeg --out stress
    """
    if context.invoked_subcommand is not None:
        check_no_options(context)
        return
    from apercu.classifiers import open_classifier
    from apercu.errors import ConfigError
    from apercu.evaluation.cost import describe_environment
    from apercu.explainers.run_folder import load_explainer
    from apercu.images import open_images
    from apercu.io import check_writable
    from apercu.robustness.benchmark import StressBenchmark
    from apercu.robustness.plan import StressPlan, parse_attack, parse_filter
    from apercu.robustness.report import write_report
    from apercu.robustness.results import summarise

    order = read_settings(plan, context.params)
    for name, value in {"classifier": order.classifier, "images": order.images, "out": out}.items():
        if value is None:
            raise ConfigError(f"--{name} is missing; see apercu stress --help")
    asked, folder = order.plan, Path(str(out))
    named_filters = {name: parse_filter(name) for name in asked.filters}
    named_attacks = {name: parse_attack(name, asked.seed) for name in asked.attacks}
    opened = open_classifier(str(order.classifier), device=device.resolve())
    if not opened.differentiable:
        usual = asked.attacks == StressPlan().attacks and attacks is None
        named_attacks = choose_decision_attacks(named_attacks, opened, asked.seed, usual=usual)
        asked = asked.model_copy(update={"attacks": tuple(named_attacks)})
    source = open_images(str(order.images), channels=opened.channels, bands=opened.bands)
    watched = load_explainer(Path(order.explainer)).to(opened.device) if order.explainer else None
    other = open_classifier(order.surrogate, device=device.resolve()) if order.surrogate else None
    about: dict[str, Any] = {
        "classifier": opened.spec,
        "fingerprint": opened.fingerprint,
        "images": source.name,
        "targets": "labels" if source.labelled else "top",
        "plan": asked.model_dump(mode="json"),
        "command": shlex.join(["apercu", *read_arguments()]),
    }
    check_writable(folder)
    with on_interrupt(f"{folder} keeps what is finished; the same command does the rest"):
        bench = StressBenchmark(opened, source, asked, named_attacks, named_filters, watched, other)
        with show_progress(lines=True) as report:
            found = bench.run(folder, report)
        about["limit"] = len(bench.sample.test)
        made_on = describe_environment(asked.seed, opened.device)
        results = summarise(found, about, made_on, asked.seed)
        results.save(folder)
        write_report(results, bench, folder)
    for line in results.warnings:
        warn(line)
    say(f"report: {folder / 'report.html'}")
