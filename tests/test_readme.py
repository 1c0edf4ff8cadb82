"""Every block of code of the README and of the manual runs, and what the pages name exists."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from apercu.cli import main
from apercu.cli.root import app
from apercu.errors import ApercuError

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
GENERATED = ("docs/reference/commands.md", "docs/reference/settings.md", "docs/reference/python.md")
"""Pages that `docs/reference_pages.py` writes while the site is built."""
OTHER_PROGRAMS = {
    "cd": "a shell's own",
    "curl": "its requests are sent by tests/serving/test_manual.py",
    "docker": "no daemon is at hand; tests/test_package.py compares options and Dockerfile",
    "git": "the address of the repository is not known",
}
"""Programs of `sh` blocks that are not looked at here, and why."""
NOT_RUN: dict[tuple[str, int], str] = {
    ("docs/howto/add-a-method.md", 1): "a file of the package itself; block 0 is the same method",
}
"""Blocks of Python that are not run, by page and number from 0, and why."""


@dataclass(frozen=True)
class Block:
    """One block of code of a page: its language, which is empty for output, and its text."""

    page: str
    number: int
    language: str
    text: str


def read_blocks(page: str, text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page; those in lists are indented. Numbers are per language."""
    counts: dict[str, int] = {}
    fences = r"^([ ]*)```([\w-]*)\n(.*?)^\1```[ ]*$"
    for _, language, body in re.findall(fences, text, re.MULTILINE | re.DOTALL):
        yield Block(page, counts.setdefault(language, 0), language, dedent(body))
        counts[language] += 1


BLOCKS = [block for page, text in PAGES.items() for block in read_blocks(page, text)]


def find_blocks(page: str, language: str) -> list[str]:
    return [one.text for one in BLOCKS if (one.page, one.language) == (page, language)]


def read_lines(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command of a block, without comments, pipes and redirections."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for separator in ("&&", "|", ">", "&", "2>", "||"):
            while separator in words:
                end = words.index(separator)
                if words[:end]:
                    yield words[:end]
                words = words[end + 1 :] if separator in ("&&", "|", "||", "&") else []
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


COMMANDS = [
    (one.page, words) for one in BLOCKS if one.language == "sh" for words in read_lines(one)
]


def find_commands(program: str) -> list[list[str]]:
    """Return the commands of a program in the blocks of all pages, each once."""
    found = [tuple(words) for _, words in COMMANDS if words[0].rpartition("/")[2] == program]
    return [list(words) for words in dict.fromkeys(found)]


INLINE = sorted(
    {
        code
        for text in PAGES.values()
        for code in re.findall(r"`(apercu [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    }
)
"""Commands inside sentences, of which parts may be left out."""


# --- commands ------------------------------------------------------------------------------------


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command of the app that words call, and the words after its name."""
    command, rest = typer.main.get_command(app), words[1:]
    while getattr(command, "commands", None) and rest and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


@pytest.mark.parametrize("words", find_commands("apercu"), ids=" ".join)
def test_the_commands_are_understood(words: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, rest = find_command(words)
    if rest in (["--version"], ["--help"]) or "--install-completion" in rest:
        return
    assert command.name not in (None, "apercu"), f"no such verb: {words[1]}"
    command.make_context(command.name, list(rest), resilient_parsing=False)


def test_a_command_with_a_mistake_is_not_understood(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in (
        "apercu explain cat.jpg --opacity 3",
        "apercu compare --images val --out table",
        "apercu train mask --classifier a --images b --out c --steps many",
    ):
        command, rest = find_command(shlex.split(text))
        with pytest.raises(
            (Exception, SystemExit), match=r"(?i)no such option|missing|valid integer"
        ):
            command.make_context(command.name, rest)


@pytest.mark.parametrize("code", INLINE)
def test_commands_in_sentences_exist(code: str) -> None:
    words = shlex.split(re.sub(r"[…\[\]]", " ", code).replace("'", ""))
    if words[1:2] and re.fullmatch(r"VERB|-.*", words[1]):
        return
    command, rest = find_command(words)
    assert command.name not in (None, "apercu"), f"no such verb: {code}"
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    named = {word.partition("=")[0] for word in rest if re.match(r"--[a-z]", word)}
    assert named <= {*options, "--help"}


def test_every_program_is_looked_at() -> None:
    programs = {words[0].rpartition("/")[2] for _, words in COMMANDS}
    assert programs - {"apercu", "make", "pip", "python", "sh"} == set(OTHER_PROGRAMS) & programs
    assert set(OTHER_PROGRAMS) <= programs


def test_the_scripts_exist_and_have_the_options() -> None:
    called = find_commands("python") + find_commands("sh")
    assert called
    for _, first, *rest in called:
        if first == "-m":
            assert importlib.util.find_spec(rest[0].split(".")[0]), rest
            continue
        source = (ROOT / first).read_text(encoding="utf-8")
        for option in (word for word in rest if word.startswith("--")):
            assert option.partition("=")[0] in source, f"{first} {option}"


def test_the_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = "\n".join(PAGES.values())
    named = re.findall(r"pip install (?:-e )?'?(?:\.|apercu)\[([\w,]+)\]", texts)
    assert named
    extras = {extra for names in named for extra in names.split(",")}
    assert extras <= project["optional-dependencies"].keys()


def find_extras(page: str) -> set[str]:
    """Return the extras that a page tells its reader to install."""
    named = re.findall(r"pip install (?:-e )?'?(?:\.|apercu)\[([\w,]+)\]", PAGES[page])
    return {extra for names in named for extra in names.split(",")}


def list_needed_extras(words: list[str]) -> Iterator[str]:
    """Yield the extras without which a command of a page ends with an error."""
    verb, rest = words[1], words[2:]
    if verb in ("serve", "export", "video"):
        yield verb
    if verb == "serve" and (not rest or rest[0].startswith("--")):
        yield "ready"
    for word in rest:
        if word.startswith("ready:"):
            yield "ready"
        if word.strip("/") == "exported" and verb != "export":
            yield "export"
        if word in ("zarr", "--cluster"):
            yield {"zarr": "zarr", "--cluster": "scale"}[word]


@pytest.mark.parametrize("page", sorted({page for page, words in COMMANDS if words[0] == "apercu"}))
def test_a_page_names_the_extras_of_its_commands(page: str) -> None:
    commands = [words for one, words in COMMANDS if one == page and words[0] == "apercu"]
    needed = {extra for words in commands for extra in list_needed_extras(words)}
    assert needed <= find_extras(page)


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    sentences = [
        code.split() for text in PAGES.values() for code in re.findall(r"`(make [a-z -]+)`", text)
    ]
    used = {word for words in find_commands("make") + sentences for word in words[1:]}
    assert used
    assert used <= targets


# --- Python --------------------------------------------------------------------------------------

STAND_INS = (
    "timm/mobilenetv2_100",
    "hf/models/birds",
    "clip/models/clip?texts=cat,dog&template=a photo of a {}",
    "net.onnx",
)
"""Classifiers of the pages in whose place a tiny one is opened."""


@pytest.fixture
def folder(tiny_run: Path, tiny_card: Path, tmp_path: Path, monkeypatch) -> Path:
    """A working directory as the pages imagine it, with small things in the places of big ones."""
    shutil.copytree(tiny_run, tmp_path / "runs" / "mobilenet")
    shutil.copytree(tiny_card.parent, tmp_path / "models" / "pets")
    shutil.copytree(ROOT / "tests" / "golden" / "exported", tmp_path / "exported")
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for name in ("cat", *(f"photo-{number}" for number in range(23))):
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.jpg")
    shutil.copy(tmp_path / "photos" / "cat.jpg", tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_package(tiny_card: Path, monkeypatch) -> None:
    """The package with a tiny classifier in place of big ones, and tiny settings."""
    import apercu
    from apercu.explainers.mask.settings import MASK_PRESETS

    small = {
        "preset": "small",
        "decoder": {"width": 16},
        "embedding": {"steps": 2, "batch": 4},
        "schedule": {"steps": 2, "batch": 4},
    }
    opened, open_really = apercu.open_classifier(tiny_card), apercu.open_classifier

    def open_small(spec: Any, **options: Any) -> Any:
        return opened if spec in STAND_INS else open_really(spec, **options)

    monkeypatch.setitem(vars(apercu), "open_classifier", open_small)

    def read_small(presets: Any, name: Any) -> Any:
        if "small" in presets.presets:
            return presets.parse(small)
        return next(iter(presets.presets.values())).with_schedule(steps=2, batch=4)

    monkeypatch.setattr(type(MASK_PRESETS), "read", read_small)


def make_batch(folder: Path) -> None:
    """What `apercu batch` writes, in the folder `maps`."""
    main_or_fail("batch", "runs/mobilenet", "photos/", "--out", "maps", "--limit", "4")


def main_or_fail(*words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code in (0, None)


def make_backbone(folder: Path) -> None:
    """What `apercu pretrain` writes: weights of a backbone."""
    import timm
    from safetensors.torch import save_file

    (folder / "runs" / "stamps").mkdir()
    network = timm.create_model("resnet10t", in_chans=3, num_classes=0)
    save_file(network.state_dict(), folder / "runs" / "stamps" / "weights.safetensors")


def make_films(folder: Path) -> None:
    """Films of two classes from ten patients, a table of them, and a pretrained network."""
    from apercu.classifiers import InputSpec, save_classifier
    from apercu.pretraining.backbone import open_backbone

    (folder / "films").mkdir()
    rows = ["file,label,patient"]
    generator = np.random.default_rng(0)
    for number in range(20):
        pixels = generator.integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "films" / f"{number}.png")
        rows.append(f"{number}.png,{('ill', 'well')[number % 2]},patient {number // 2}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    spec = InputSpec(channels=1, size=(32, 32), mean=(0.5,), std=(0.25,))
    save_classifier(open_backbone("timm/test_resnet", spec, seed=0), folder / "runs" / "films")


def make_sky(folder: Path) -> None:
    """Stamps with bands and positions, a stack of them, and a catalogue of both."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from astropy.io import fits

    (folder / "stamps").mkdir()
    numbers = range(4)
    for number in numbers:
        cards = fits.Header({"RA": 10.0 + number, "DEC": 5.0})
        bands = [
            fits.ImageHDU(np.full((8, 8), number, np.float32), name=name)
            for name in ("SCIENCE", "DIFFERENCE")
        ]
        stamp = folder / "stamps" / f"{number}.fits"
        fits.HDUList([fits.PrimaryHDU(header=cards), *bands]).writeto(stamp)
    columns = {
        "candid": [100 + number for number in numbers],
        "ra": [10.0 + number for number in numbers],
        "dec": [5.0] * 4,
        "is_asteroid": [True, False, True, False],
        "magpsf": [18.5, None, 19.0, -999.0],
    }
    pq.write_table(pa.table(columns), folder / "alerts.parquet")
    stack = np.zeros((4, 3, 8, 8), np.float32)
    np.savez(folder / "alerts.npz", x=stack, candid=np.array(columns["candid"]))
    sky = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 51, "CRPIX2": 51})
    sky.update({"CRVAL1": 10.0, "CRVAL2": 5.0, "CDELT1": -0.001, "CDELT2": 0.001})
    fits.PrimaryHDU(np.ones((100, 100), np.float32), sky).writeto(folder / "frame.fits")
    rows = ("candid,ra,dec,kind,field", "7,10,5,star,A", "8,10.01,5,galaxy,B", "9,50,5,star,A")
    (folder / "objects.csv").write_text("\n".join(rows))


def make_unlabelled(folder: Path) -> None:
    """Pictures whose names begin with their class, and a pretrained network for them."""
    from apercu.classifiers import InputSpec, save_classifier
    from apercu.images import open_images
    from apercu.pretraining.backbone import open_backbone
    from apercu.render import save_image, to_image

    (folder / "stamps").mkdir()
    for number, item in enumerate(open_images("planted:size=32,images=48,classes=3,difficulty=0")):
        save_image(folder / "stamps" / f"{item.label}-{number}.png", to_image(item.picture))
    spec = InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    save_classifier(open_backbone("timm/test_resnet", spec, 0), folder / "runs" / "stamps")


def make_clean(folder: Path) -> None:
    """Pictures that nobody has changed, as many as a guard needs."""
    from apercu.images import open_images
    from apercu.render import save_image, to_image

    for number, item in enumerate(open_images("planted:size=32,images=60,classes=3,difficulty=0")):
        save_image(folder / "clean" / f"{number}.png", to_image(item.picture))
    others = "planted:size=32,images=16,classes=3,difficulty=0,seed=1"
    for number, item in enumerate(open_images(others)):
        for name in ("new", "others", "films"):
            save_image(folder / name / f"{number}.png", to_image(item.picture))


PREPARED: dict[str, Callable[[Path], None]] = {
    "docs/howto/batch.md": make_batch,
    "docs/howto/believe-an-answer.md": make_clean,
    "docs/howto/few-labels.md": make_backbone,
    "docs/howto/label-images.md": make_unlabelled,
    "docs/howto/sky-surveys.md": make_sky,
    "docs/howto/train-a-classifier.md": make_films,
}
"""What has to exist before the blocks of a page run, beyond the common folder."""
WITH_PYTHON = [page for page in PAGES if find_blocks(page, "python")]


def run_blocks(page: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the Python of a page from its first block to its last, in one module."""
    module = ModuleType("page_of_the_manual")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for number, block in enumerate(find_blocks(page, "python")):
        code = compile(block.replace('"tabby"', '"dots"'), f"{page}, block {number}", "exec")
        if (page, number) not in NOT_RUN:
            exec(code, vars(module))
    return vars(module)


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_runs(page: str, folder: Path, small_package: None, monkeypatch) -> None:
    PREPARED.get(page, lambda folder: None)(folder)
    names = run_blocks(page, monkeypatch)
    CHECKS.get(page, lambda names, folder: None)(names, folder)


def check_the_readme(names: dict[str, Any], folder: Path) -> None:
    assert (folder / "runs" / "mine" / "weights.safetensors").is_file()
    assert list((folder / "maps").glob("*overlay*"))


def check_the_guard(names: dict[str, Any], folder: Path) -> None:
    assert names["explanation"].trust == names["trust"]
    assert json.loads((folder / "models/pets/card.json").read_text())["guard"] == "guard"
    assert {row.images for row in names["rows"]} >= {"honest", "noise", "films"}


def check_explanations(names: dict[str, Any], folder: Path) -> None:
    assert names["maps"].shape == names["region"].shape == (1, 32, 32)
    assert names["predicted"].shape == (1,)
    assert (folder / "overlay.png").is_file()


def check_the_comparison(names: dict[str, Any], folder: Path) -> None:
    assert names["maps"].shape == (1, 32, 32)
    assert "grad_cam" in str(names["result"])


def check_the_training(names: dict[str, Any], folder: Path) -> None:
    assert (folder / "runs" / "mobilenet-2" / "weights.safetensors").is_file()


def check_the_classifier(names: dict[str, Any], folder: Path) -> None:
    assert names["result"].figures.images == {"training": 12, "calibration": 4, "test": 4}
    assert (folder / "runs" / "chest-2" / "card.json").is_file()


def check_the_catalogue(names: dict[str, Any], folder: Path) -> None:
    assert len(names["labelled"]) == 4
    assert names["matched"].rows.tolist() == [0, 1, 2, 3]
    assert np.isnan(names["magnitudes"]).tolist() == [False, True, False, True]
    assert str(names["summary"]) == "2 stamps, 1 skipped (1 outside), labelled"
    table = (folder / "cut" / "labels.csv").read_text().splitlines()
    assert table == ["file,class,field", "7.fits,star,A", "8.fits,galaxy,B"]


def check_the_rounds(names: dict[str, Any], folder: Path) -> None:
    rows = (folder / "stamps" / "labels.csv").read_text().splitlines()
    assert rows[0] == "file,name"
    assert len(rows) == len(set(rows)) == 1 + 2 * 12
    assert all(row.split("-")[0] == row.rpartition(",")[2] for row in rows[1:])
    assert [names["number"], names["by"], len(names["chosen"])] == [2, "combined", 12]
    assert (folder / "runs" / "round-2" / "card.json").is_file()


CHECKS = {
    "README.md": check_the_readme,
    "docs/howto/believe-an-answer.md": check_the_guard,
    "docs/howto/explain-images.md": check_explanations,
    "docs/howto/compare-methods.md": check_the_comparison,
    "docs/howto/train-a-classifier.md": check_the_classifier,
    "docs/howto/train-an-explainer.md": check_the_training,
    "docs/howto/sky-surveys.md": check_the_catalogue,
    "docs/howto/label-images.md": check_the_rounds,
}
"""What has to be true after the blocks of a page have run."""


def test_the_method_and_the_metric_of_the_pages_give_scores(monkeypatch) -> None:
    import torch

    images = torch.full((2, 3, 4, 4), 0.25)
    names = run_blocks("docs/howto/add-a-method.md", monkeypatch)
    assert (names["Negative"](power=2).compute_maps(None, images, None) == 0.75**2).all()
    names = run_blocks("docs/howto/add-a-metric.md", monkeypatch)
    assert names["above_half"].function(torch.tensor([[[0.2, 0.9]]])).tolist() == [0.5]


def test_no_block_is_left_out_without_a_reason() -> None:
    known = {"python", "sh", "json", "yaml", "text", ""}
    assert {block.language for block in BLOCKS} <= known
    blocks = {(one.page, one.number) for one in BLOCKS if one.language == "python"}
    assert set(NOT_RUN) <= blocks
    assert len(NOT_RUN) <= 2
    assert {*PREPARED, *CHECKS} <= set(WITH_PYTHON)
    outputs = [one for one in BLOCKS if one.language in ("", "text")]
    for block in outputs:
        first = block.text.split()[:1]
        assert first not in (["apercu"], ["python"], ["pip"], ["make"], ["import"]), block


@pytest.mark.parametrize(
    "block",
    [one for one in BLOCKS if one.language in ("json", "yaml")],
    ids=lambda one: f"{one.page}-{one.language}-{one.number}",
)
def test_data_can_be_read(block: Block) -> None:
    content = json.loads(block.text) if block.language == "json" else yaml.safe_load(block.text)
    assert content


def test_the_settings_of_the_pages_are_settings() -> None:
    from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
    from apercu.explainers.latent.settings import LATENT_PRESETS
    from apercu.explainers.mask.settings import MASK_PRESETS
    from apercu.learning.settings import LEARNING
    from apercu.pretraining.settings import PRETEXTS
    from apercu.robustness.defences.settings import DEFENCES
    from apercu.robustness.plan import StressSettings
    from apercu.training.config import ConfigPresets

    stress = ConfigPresets(StressSettings, {"standard": StressSettings()})
    kinds: list[ConfigPresets[Any]] = [
        MASK_PRESETS,
        COUNTERPART_PRESETS,
        LATENT_PRESETS,
        PRETEXTS,
        LEARNING,
        DEFENCES,
        stress,
    ]
    for block in (one for one in BLOCKS if one.language == "yaml"):
        mistakes = []
        for presets in kinds:
            try:
                presets.parse(yaml.safe_load(block.text))
            except ApercuError as error:
                mistakes.append(str(error))
        assert len(mistakes) < len(kinds), f"{block.page}: {mistakes}"


# --- the pages themselves ------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].split()) <= 600


def test_the_readme_names_the_main_commands() -> None:
    verbs = {words[1] for page, words in COMMANDS if page == "README.md" and words[0] == "apercu"}
    assert {"train", "explain"} <= verbs


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", PAGES[page], flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        name = target.relative_to(ROOT).as_posix()
        if name in GENERATED:
            continue
        assert target.exists(), link
        if anchor and name in PAGES:
            assert anchor in find_anchors(PAGES[name]), link


def find_anchors(text: str) -> set[str]:
    """Return the anchors that the headings of a page have on the site."""
    from markdown.extensions.toc import slugify

    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    names = [slugify(re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading), "-") for heading in headings]
    explicit = set(re.findall(r'(?:id|name)="([^"]+)"|\{#([\w-]+)\}', text))
    return {*names, *(name for pair in explicit for name in pair if name)}
