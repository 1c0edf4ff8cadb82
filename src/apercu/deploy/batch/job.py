"""What a result was begun with, so that it can only be gone on with in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from apercu.deploy.batch.settings import BatchSettings
from apercu.deploy.inference import ExplainerInfo
from apercu.errors import ConfigError, RunError
from apercu.io import write_file

RECORD_FILE = "job.json"
VERSION: Final = 1


class BatchRecord(BaseModel):
    """Everything that the rows depend on.

    Attributes:
        version: of the result's layout.
        images: the data set as it was typed; only what it holds must stay the same.
        count: of its images.
        sha256: over the names and sizes of its files, or over how it is generated.
        explainer: who explains.
        settings: what is asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = VERSION
    images: str
    count: int
    sha256: str
    explainer: ExplainerInfo
    settings: BatchSettings

    def begin(self, out: Path) -> None:
        """Notes down what is begun in a folder, or checks that it is the same.

        Raises:
            RunError: other maps were begun here.
            OutputError: the folder cannot be written.
        """
        path = out / RECORD_FILE
        if not path.is_file():
            write_file(path, self.model_dump_json(indent=1) + "\n")
            return
        try:
            before = BatchRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError, ConfigError) as error:
            raise RunError(f"{path}: cannot be read; choose another --out") from error
        for name, now in self._list_facts().items():
            if now != (then := before._list_facts()[name]):
                raise RunError(
                    f"{out}: the maps begun here had {name} {then}, now {now}; use the same, or "
                    "choose another --out"
                )

    def _list_facts(self) -> dict[str, object]:
        """What must stay the same, in words; the largest causes first."""
        content = self.model_dump()
        explainer, settings = content["explainer"], content["settings"]
        return {
            **settings,
            **{f"explainer {name}": value for name, value in explainer.items()},
            "count": self.count,
            "images": self.sha256[:12],
        }
