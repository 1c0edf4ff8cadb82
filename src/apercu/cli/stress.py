"""`apercu stress`: how fast a classifier breaks, and whether a filter in front of it helps."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apercu.cli.options import (
    BatchOption,
    ClassifierOption,
    DebugOption,
    Device,
    DeviceOption,
    ImagesOption,
    ResumeOption,
    RunOption,
    SeedOption,
    StepsOption,
)
from apercu.cli.outcome import arguments, keeping
from apercu.cli.terminal import is_terminal, progress, say, warn

if TYPE_CHECKING:
    from apercu.classifiers import Classifier
    from apercu.robustness.attacks import Attack
    from apercu.robustness.plan import StressPlan

app = typer.Typer(
    help="Attack a classifier, with and without a filter in front of it.",
    invoke_without_command=True,
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.callback()
def stress(
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
            "map_pgd moves the map, eot_pgd expects over noise.",
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
        Path | None, typer.Option(metavar="FILE", help="All of these in YAML; options override.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the images, drawn at random.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images attacked together.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Attack a classifier: each attack at each budget, bare and behind each filter.

    A naive attacker knows the classifier alone; an adaptive one attacks through the filter.
    Writes results.json and report.html. What is there of the same test is not done again.

    Example: apercu stress --classifier timm/resnet50 --images val/ --filters none,jpeg --out stress
    """
    words = {"attacks": attacks, "filters": filters, "epsilons": epsilons, "knowledge": knowledge}
    needed = {"classifier": classifier, "images": images, "out": out}
    if not any([*needed.values(), *words.values(), explainer, surrogate, plan, limit, batch]):
        return  # a command of its own follows
    from apercu.classifiers import open_classifier
    from apercu.compare.cost import environment
    from apercu.errors import ConfigError
    from apercu.explainers.run import open_run
    from apercu.images import open_images
    from apercu.robustness.flow import Bench
    from apercu.robustness.named import attack_named, filter_named
    from apercu.robustness.report import write_report
    from apercu.robustness.results import summarised

    for name, value in needed.items():
        if value is None:
            raise ConfigError(f"--{name} is missing; see apercu stress --help")
    asked = _plan(plan, {**words, "limit": limit, "batch": batch, "seed": seed})
    named_filters = {name: filter_named(name) for name in asked.filters}
    named_attacks = {name: attack_named(name, seed) for name in asked.attacks}
    opened = open_classifier(str(classifier), device=device.resolve())
    if not opened.differentiable:
        named_attacks = _decisions(named_attacks, opened, typed=attacks is not None)
    source = open_images(str(images), channels=opened.channels, bands=opened.bands)
    watched = None if explainer is None else open_run(explainer).to(opened.device)
    other = None if surrogate is None else open_classifier(surrogate, device=device.resolve())
    folder = Path(str(out))
    about: dict[str, Any] = {
        "classifier": opened.spec,
        "fingerprint": opened.fingerprint,
        "images": source.name,
        "targets": "labels" if source.labelled else "top",
        "plan": asked.model_dump(mode="json"),
        "command": shlex.join(["apercu", *arguments()]),
    }
    with keeping(f"{folder} keeps what is finished; the same command does the rest"):
        bench = Bench(opened, source, asked, named_attacks, named_filters, watched, other)
        with progress(lines=True) as report:
            found = bench.run(folder, report)
        about["limit"] = len(bench.sample.test)
        results = summarised(found, about, environment(seed, opened.device), seed)
        results.save(folder)
        write_report(results, bench, folder)
    for line in results.warnings:
        warn(line)
    say(f"report: {folder / 'report.html'}")


@app.command("train")
def train(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: RunOption,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|PRESET",
            help="Settings in YAML, or hybrid, standard, adversarial, halftone_adversarial, "
            "sinkhorn.",
        ),
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Train a classifier further, against attacks: with halftones, with attacked images, or both.

    Leaves card.json in the run folder, which is the SPEC of the defended classifier.

    Example: apercu stress train --classifier timm/resnet50 --images photos/ --out runs/hybrid
    """
    from apercu.classifiers import open_classifier
    from apercu.classifiers.anew import trainable
    from apercu.explainers.order import Order, changed, settings_for
    from apercu.images import open_images
    from apercu.robustness.defences.settings import DEFENCES
    from apercu.robustness.defences.train import train_defended
    from apercu.training.fit import Fit, Machine

    settings = changed(settings_for(out, config, DEFENCES), steps=steps, batch=batch)
    opened = open_classifier(classifier)
    source = open_images(images, channels=opened.channels, bands=opened.bands)
    trainable(opened)
    Order(classifier=opened.fingerprint, images=source.name, count=len(source), seed=seed).begin(
        out, resume=resume
    )
    machine = Machine(device.resolve(), progress=is_terminal())
    with keeping(f"{out} keeps what was done; go on with the same command and --resume"):
        _, facts = train_defended(settings, Fit(opened, source, out, machine, seed, say))
    say(f"trained in {facts['training_seconds'] / 60:.1f} min, {facts['steps']:.0f} steps: {out}")
    for name, told in (("honest", "honest images"), ("hard", "what the defence is for")):
        say(f"answered as wanted, {told}: {facts[f'{name}_before']:.1%}, now {facts[name]:.1%}")
    say(f"next: apercu stress --classifier {out / 'card.json'} --images … --out stress")


@app.command("detect")
def detect(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results go.")],
    explainer: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A trained explainer, for map and stability.")
    ] = None,
    looks: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="map, stability, deep, or a method such as cam."),
    ] = None,
    detectors: Annotated[
        str, typer.Option(metavar="A,B:KEY=VALUE,…", help="Fitted to honest images alone.")
    ] = "autoencoder,one_class_svm,mahalanobis",
    attacks: Annotated[
        str, typer.Option(metavar="A,B:KEY=VALUE,…", help="As for apercu stress.")
    ] = "fgsm,pgd",
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
    from apercu.cli.detection import detectors_named, looks_named
    from apercu.compare.cost import environment
    from apercu.explainers.run import open_run
    from apercu.images import open_images
    from apercu.output import check_writable, write_json
    from apercu.robustness.detection import Watch
    from apercu.robustness.plan import budgeted

    made = detectors_named(detectors, seed)
    cases = budgeted(_attacks(attacks, seed), _budgets(epsilons))
    opened = open_classifier(classifier, device=device.resolve())
    watched = None if explainer is None else open_run(explainer).to(opened.device)
    seen = looks_named(looks, opened, watched)
    source = open_images(images, channels=opened.channels, bands=opened.bands)
    check_writable(out)
    with keeping(f"{out} keeps what is finished; the same command does the rest"):
        watch = Watch(opened, source, seen, made, cases, limit, seed)
        with progress(lines=True) as report:
            rows = watch.run(out, report)
    content = {
        "classifier": opened.spec,
        "fingerprint": opened.fingerprint,
        "images": source.name,
        "learnt_from": len(watch.sample.tune),
        "command": shlex.join(["apercu", *arguments()]),
        "rows": [row._asdict() for row in rows],
        "environment": environment(seed, opened.device),
    }
    path = write_json(out / "detection.json", content)
    for name, epsilon in cases.keys() - {(row.attack, row.epsilon) for row in rows}:
        warn(f"{name} fools the classifier with none of the images" + _at(epsilon))
    for row in rows:
        if row.metric == "auroc":
            low, high = row.ci95
            say(
                f"{row.attack}{_at(row.epsilon)}, {row.look}, {row.detector}: "
                f"AUROC {row.value:.3f} ({low:.3f} to {high:.3f})"
            )
    say(f"rows: {path}")


@app.command("filter")
def filter(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as floyd_steinberg:bits=2.")],
    image: Annotated[Path, typer.Argument(metavar="IN", help="A picture.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where it goes, as PNG.")],
    debug: DebugOption = False,
) -> None:
    """Show one input filter on a picture.

    Example: apercu stress filter atkinson cat.jpg cat.png
    """
    from apercu import render
    from apercu.errors import ConfigError
    from apercu.images import read_picture
    from apercu.robustness.named import filter_named

    made = filter_named(name)
    if made is None:
        raise ConfigError("filters: none changes nothing; name a filter")
    picture = read_picture(image)
    render.save_picture(out, render.picture_image(made(picture[None])[0]))
    say(f"{made}: {out}")


def _plan(path: Path | None, typed: Mapping[str, Any]) -> StressPlan:
    """The plan of a file, with what was typed over it."""
    from apercu.robustness.plan import StressPlan
    from apercu.training.settings import Family
    from apercu.typed import split_names

    family = Family(StressPlan, {"standard": StressPlan()})
    changes = {name: value for name, value in typed.items() if value is not None}
    for name in ("attacks", "filters", "knowledge", "epsilons"):
        if name in changes:
            changes[name] = split_names(changes[name], name, ())
    if "epsilons" in changes:
        changes["epsilons"] = _budgets(typed["epsilons"])
    begun = family.read(path).model_dump()
    return family.parse({**begun, **changes}, "stress")


def _at(epsilon: float | None) -> str:
    return "" if epsilon is None else f" at {255 * epsilon:g}/255"


def _attacks(text: str, seed: int) -> dict[str, Attack]:
    from apercu.errors import ConfigError
    from apercu.robustness.named import aim_of, attack_named
    from apercu.typed import split_names

    names = split_names(text, "attacks", ())
    if other := next((name for name in names if aim_of(name) != "class"), None):
        raise ConfigError(f"attacks: {other} is for apercu stress; expected attacks on the class")
    return {name: attack_named(name, seed) for name in names}


def _budgets(text: str) -> list[float]:
    from apercu.typed import read, split_names

    return [_budget(read, word) for word in split_names(text, "epsilons", ())]


def _budget(read: Any, word: str) -> float:
    from apercu.errors import ConfigError

    try:
        found = float(read(float, word))
    except ValueError:
        raise ConfigError(f"epsilons: expected a number such as 8/255, got {word!r}") from None
    if not 0 < found <= 1:
        raise ConfigError(
            f"epsilons: expected numbers above 0 and up to 1 (8/255 is 0.0314), got {word}"
        )
    return found


def _decisions(
    attacks: dict[str, Attack], classifier: Classifier, *, typed: bool
) -> dict[str, Attack]:
    """The attacks that a classifier without gradients allows, or the one there is."""
    from apercu.errors import ClassifierError
    from apercu.robustness.attacks import SparseEvo

    allowed = {name: one for name, one in attacks.items() if one.needs == "decisions"}
    if left := [name for name in attacks if name not in allowed]:
        if typed:
            raise ClassifierError(
                f"attacks: {', '.join(left)} need gradients, and {classifier.spec} has none; "
                "use sparse_evo"
            )
        warn(f"{classifier.spec} has no gradients, so it is attacked by its decisions alone")
    return allowed or {"sparse_evo": SparseEvo()}
