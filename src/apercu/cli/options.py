"""Options that every verb takes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from apercu.option_strings import MAX_SEED

if TYPE_CHECKING:
    Context: TypeAlias = typer.Context
else:
    Context = typer.Context.__base__  # typer passes this class, and names its own in annotations


class Device(StrEnum):
    """Where tensors live; `auto` takes a GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def resolve(self) -> str:
        """Return `cpu`, `cuda` or `mps`.

        Raises:
            ConfigError: torch sees no such device.
        """
        from apercu.devices import choose_device

        return choose_device(self.value)

    def resolve_for(self, run: Path) -> str:
        """Return the device of a run, or of an export, which computes on the CPU by default.

        Raises:
            ConfigError: torch sees no such device.
        """
        from apercu.deploy.inference import choose_engine_device

        return choose_engine_device(run, self.value)


def resolve_run(run: Path | None) -> Path | None:
    """Return the folder of a run; raises an error where a ready-made one is not installed."""
    if run is None:
        return None
    from apercu.explainers.ready import resolve_run

    return resolve_run(run)


def find_run(run: Path | None, verb: str) -> Path:
    """Return the folder of a run, or of the ready-made explainer where none is named.

    Raises:
        MissingExtraError: no run is named, and no ready-made explainer is installed.
    """
    if run is not None:
        return run
    from apercu.explainers.ready import find_default_run

    return find_default_run(verb)


def check_out(out: Path | None) -> Path | None:
    """Check that a folder can be written, before the work begins; raises OutputError."""
    if out is not None:
        from apercu.io import check_writable

        check_writable(out)
    return out


def _trust_files(context: Context, trust: bool) -> bool:
    """Trust the files that are opened until the command ends."""
    if trust:
        from apercu.classifiers.trust import trust_files

        context.with_resource(trust_files())
    return trust


def name_trust(card: Path, spec: str | None = None) -> str:
    """Return the option without which the next command would refuse a card that was written.

    Args:
        card: the card; where there is none, nothing is refused.
        spec: the classifier that the next command may name again.

    Returns:
        A space and `--trust`, or `--classifier` with the function of the card; else nothing.
    """
    from apercu.classifiers.trust import FACTORY, OWN_FACTORIES, is_trusting
    from apercu.io import parse_json

    if not card.is_file():
        return ""
    content = parse_json(card.read_bytes())
    source = str(content.get("source"))
    if not is_trusting() and (source in OWN_FACTORIES or not FACTORY.fullmatch(source)):
        return ""
    can_type = source == spec and not content.get("options")
    return f" --classifier {source}" if can_type and not is_trusting() else " --trust"


SeedOption: TypeAlias = Annotated[
    int, typer.Option("--seed", min=0, max=MAX_SEED, help="Seed of every random draw.")
]
DeviceOption: TypeAlias = Annotated[Device, typer.Option("--device", help="Where to compute.")]
DebugOption: TypeAlias = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.")
]
TrustOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--trust",
        callback=_trust_files,
        help="Trust the files: cards and runs may name functions that are called, and files "
        "outside their folder; a .pt2 file may hold anything.",
    ),
]
OutOption: TypeAlias = Annotated[
    Path,
    typer.Option("--out", callback=check_out, help="Folder for everything that is written."),
]
ClassifierOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--classifier",
        metavar="SPEC",
        help="timm/NAME, torchvision/NAME, hf/NAME_OR_FOLDER, clip/NAME?texts=…, ready:NAME, "
        "FILE.pt2, FILE.onnx, module:factory, CARD.json or its folder.",
    ),
]
ImagesOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--images",
        metavar="SPEC",
        help="A folder, an image, a Parquet file, a stack (.npz), or planted[:OPTIONS], OPTIONS "
        "being KEY=VALUE,….",
    ),
]
RunOption: TypeAlias = Annotated[
    Path, typer.Option("--out", metavar="RUN", callback=check_out, help="The run folder.")
]
StepsOption: TypeAlias = Annotated[
    int | None, typer.Option("--steps", min=1, help="Steps of the training itself.")
]
BatchOption: TypeAlias = Annotated[
    int | None, typer.Option("--batch", min=1, help="Images per step and device.")
]
ResumeOption: TypeAlias = Annotated[
    bool, typer.Option("--resume", help="Continue a training that was begun.")
]
ExplainedOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="SPEC", help="The explained classifier, for a RUN without it."),
]
GuardOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--guard",
        metavar="DIR|none",
        help="Guard that says of each prediction whether it may be believed (apercu guard fit); "
        "the one that the classifier's card names if left out, none for none.",
    ),
]
IndexOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where the features are kept; the folder index of --out if left out."
    ),
]


def is_typed(context: Context, name: str) -> bool:
    """Whether an option stands in the command line; else it has its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
