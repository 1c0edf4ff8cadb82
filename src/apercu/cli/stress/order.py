"""What is asked of `apercu stress`, in a file and in options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apercu.cli.options import Context
from apercu.cli.stress.budgets import parse_epsilons

if TYPE_CHECKING:
    from apercu.robustness.plan import StressSettings


def check_no_options(context: Context) -> None:
    """Raises ConfigError for options before a command of its own, which they do not reach."""
    from apercu.errors import ConfigError

    for name in context.params:
        source = context.get_parameter_source(name)
        if name != "debug" and source is not None and source.name == "COMMANDLINE":
            command = context.invoked_subcommand
            raise ConfigError(
                f"--{name} stands before {command} and does not reach it; "
                f"write apercu stress {command} … --{name}"
            )


def read_settings(path: Path | None, typed: Mapping[str, Any]) -> StressSettings:
    """The plan of a file, with what was typed over it.

    Raises:
        ConfigError: the file or an option says what cannot be; all mistakes are listed.
    """
    from apercu.option_strings import split_names
    from apercu.robustness.plan import StressSettings
    from apercu.training.config import ConfigPresets

    family = ConfigPresets(StressSettings, {"standard": StressSettings()})
    known = {name: typed.get(name) for name in StressSettings.model_fields}
    changes = {name: value for name, value in known.items() if value is not None}
    for name in ("attacks", "filters", "knowledge"):
        if name in changes:
            changes[name] = split_names(changes[name], name, ())
    if "epsilons" in changes:
        changes["epsilons"] = parse_epsilons(changes["epsilons"])
    if "explainer" in changes:
        changes["explainer"] = str(changes["explainer"])
    begun = family.read(path).model_dump()
    return family.parse({**begun, **changes}, "stress")
