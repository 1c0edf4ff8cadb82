"""docs/howto/serve.md and docs/reference/server.md name what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from apercu.cli import main

DOCS = Path(__file__).parents[2] / "docs"
MANUAL = (DOCS / "howto" / "serve.md").read_text(encoding="utf-8")
REFERENCE = (DOCS / "reference" / "server.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", MANUAL, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [shlex.split(line) for line in LINES]


def test_the_options_exist(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["serve", "--help"])
    output = capsys.readouterr().out
    docker = r"^docker (?:.*\\\n)*.*$|`--build-arg .*?`"  # options of another program
    own = re.sub(docker, "", MANUAL + REFERENCE, flags=re.MULTILINE)
    named = set(re.findall(r"--[a-z][a-z-]+", own))
    assert len(named) >= 9
    for option in named:
        assert option in output


@pytest.mark.parametrize("command", [one for one in COMMANDS if one[0] == "curl"], ids=" ".join)
def test_the_requests_are_answered(call, png, command) -> None:
    pairs = [word.partition("=") for word in command if "=" in word]
    names = {"tabby": "dots", "lynx": "rings"}
    fields: dict[str, list[str]] = {}
    for key, _, value in pairs:
        if key != "image":
            fields.setdefault(key, []).append(names.get(value, value))
    answered = call.explain(png, **fields)
    assert answered.status_code == 200
    assert len(answered.json()["answers"]) == max(1, len(fields.get("target", ())))


def test_the_fields_and_counters_exist(call) -> None:
    document = call("GET", "/openapi.json").json()
    content = document["paths"]["/v1/explain"]["post"]["requestBody"]["content"]
    fields = content["multipart/form-data"]["schema"]["properties"]
    section = REFERENCE.split("## `POST /v1/explain`", 1)[1].split("\n## ", 1)[0]
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert set(names) == {*fields, "cases"}  # where a server has cases, see test_labelling.py
    counted = call("GET", "/metrics").text
    for name in re.findall(r"`(apercu_\w+)`", MANUAL):
        assert name.removesuffix("_total") in counted
