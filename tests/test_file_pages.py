"""The pages of docs/reference/files name every key of the files that they describe."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

import apercu
from apercu.cli import main
from apercu.deploy.batch.settings import BatchSettings
from apercu.deploy.batch.shard_writer import TRUST_COLUMNS
from apercu.deploy.batch.work_folder import ShardRecord
from apercu.deploy.export.manifest import GraphFile, InputFormat, Manifest, PrecisionLoss, ScorePair
from apercu.deploy.inference import ExplainerInfo
from apercu.evaluation.results import ComparisonKey, ComparisonResults, Cost, MetricRow
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
from apercu.explainers.latent.settings import LATENT_PRESETS
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.run_folder import _LINES
from apercu.explainers.shapley.explainer import SHAPLEY_PRESETS
from apercu.guard import GuardRecord
from apercu.guard.signals import KINDS
from apercu.images.planted import Planted
from apercu.learning.settings import LEARNING
from apercu.robustness.defences.settings import DEFENCES
from apercu.robustness.plan import StressSettings
from apercu.training.record import TrainingContext
from apercu.verdicts import SignalWords, Trust, VerdictFormat

FILES = Path(__file__).resolve().parent.parent / "docs" / "reference" / "files"


def read_keys(page: str, heading: str) -> set[str]:
    """Return what stands in code in the first column of the tables below a heading."""
    text = (FILES / f"{page}.md").read_text(encoding="utf-8")
    depth = heading.split()[0]
    section = re.split(rf"\n#{{2,{len(depth)}}} ", text.split(f"\n{heading}\n", 1)[1])[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {key for cell in cells for key in re.findall(r"`([\w.]+)`", cell)}


def test_the_keys_of_results_are_complete() -> None:
    key = ComparisonKey("net", "0", "images", 2, "labels", "0", {})
    everything = {
        *ComparisonResults(key, {}, against="a", constant={"a": 1}).to_json(),
        "own_metrics",
    }
    assert read_keys("results", "## `results.json`") >= everything
    assert read_keys("results", "## A row") >= {each.name for each in fields(MetricRow)}
    assert read_keys("results", "## A cost") >= {each.name for each in fields(Cost)}


def test_the_keys_of_a_run_folder_are_complete() -> None:
    named = read_keys("run-folder", "## `facts.json`")
    assert named - {"advantage_error"} == set(_LINES)
    assert read_keys("run-folder", "## `order.json`") == set(TrainingContext.model_fields)
    page = (FILES / "run-folder.md").read_text(encoding="utf-8")
    for key in ClassifierInfo.model_fields:
        assert f"`{key}`" in page


def test_the_keys_of_a_guard_are_complete() -> None:
    assert read_keys("guard", "## The file") == set(GuardRecord.model_fields)
    assert read_keys("guard", "## Signals") == set(KINDS)
    assert read_keys("guard", "## A verdict") == set(Trust.model_fields)
    assert read_keys("batch", "## Columns of a shard") >= set(TRUST_COLUMNS)
    page = (FILES / "export.md").read_text(encoding="utf-8")
    assert all(
        f"`{name}`" in page for model in (VerdictFormat, SignalWords) for name in model.model_fields
    )


def test_the_keys_of_a_measured_guard_are_those_that_are_written(
    guarded_card: Path, tmp_path: Path
) -> None:
    apercu.measure_guard(
        guarded_card,
        "planted:size=32,images=10,classes=3",
        tmp_path,
        unknown=["noise"],
        attacks="none",
        limit=10,
    )
    content = read(tmp_path / "guard_results.json")
    assert read_keys("guard", "## A measurement: `guard_results.json`") >= set(content)
    assert read_keys("guard", "### A row") == gather(*content["rows"])
    page = (FILES / "guard.md").read_text(encoding="utf-8")
    for each in content["rows"]:
        assert f"`{each['question']}`" in page and f"`{each['metric']}`" in page
    assert all(f"`{path.name}`" in page for path in tmp_path.iterdir() if path.name[0] != ".")


def test_the_settings_of_an_attack_and_the_presets_are_complete() -> None:
    assert read_keys("settings", "## A file for attacks") == set(StressSettings.model_fields)
    page = (FILES / "settings.md").read_text(encoding="utf-8")
    rows = {
        line.split("|")[1].strip(): re.findall(r"`(\w+)`", line.split("|")[2])
        for line in page.splitlines()
        if line.startswith("| `train") or line.startswith("| `stress")
    }
    assert rows == {
        "`train mask`": list(MASK_PRESETS.presets),
        "`train counterpart`": list(COUNTERPART_PRESETS.presets),
        "`train latent`": list(LATENT_PRESETS.presets),
        "`train shapley`": list(SHAPLEY_PRESETS.presets),
        "`train classifier`": list(LEARNING.presets),
        "`stress train`": list(DEFENCES.presets),
    }


@pytest.mark.parametrize("each", fields(Planted), ids=lambda each: each.name)
def test_the_settings_of_the_planted_set_have_their_defaults(each) -> None:
    page = (FILES / "image-folders.md").read_text(encoding="utf-8")
    if each.name != "channels":  # the classifier decides them
        assert f"| `{each.name}` | `{each.default}` |" in page


# --- real files ----------------------------------------------------------------------------------

GOLDEN = Path(__file__).resolve().parent / "golden"
SEVERAL = {"predicted", "value", "trust", *TRUST_COLUMNS}
"""Keys that only classifiers with several classes at once, with a value or with a guard have."""


def run(*words: object) -> None:
    with pytest.raises(SystemExit, match=r"0|None"):
        main([str(word) for word in words])


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def gather(*contents: Any) -> set[str]:
    """Return the keys of all dictionaries."""
    return set(chain.from_iterable(contents))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What verbs write for runs and the classifier of version 0.1.0, in folders of their own."""
    folder = tmp_path_factory.mktemp("written")
    for name in ("runs", "classifier", "pictures"):
        shutil.copytree(GOLDEN / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        named = ("--classifier", "classifier/card.json")
        pictures = ("pictures/0.jpg", "pictures/1.png")  # another one of the folder is damaged
        for kind in ("mask-own", "counterpart", "latent"):
            level = ("--level", "0.05") if kind == "mask-own" else ()  # low after two steps
            run("explain", f"runs/{kind}", *pictures, *level, "--out", f"explained-{kind}")
            look = ("--second-look", "all") if kind == "mask-own" else ()
            run("explain", f"runs/{kind}", pictures[0], *named, *look, "--out", f"named-{kind}")
        run("batch", "runs/mask-own", "pictures", "--out", "batch")
        small = ("--attacks", "fgsm", "--epsilons", "8/255", "--limit", "4", "--out", "stress")
        run("stress", *named, "--images", "planted:size=32,images=8,classes=3", *small)
    return folder


def test_the_keys_of_explanations_are_those_that_are_written(written: Path) -> None:
    contents = [read(path) for path in written.glob("*/explain.json")]
    assert len(contents) == 6
    images = [image for content in contents for image in content["images"]]
    answers = [answer for image in images for answer in image["answers"]]
    assert read_keys("explain", "## The file") == gather(*contents)
    assert read_keys("explain", "## An image") == gather(*images)
    assert read_keys("explain", "## An explained class") - SEVERAL == gather(*answers)
    files = gather(*(answer["files"] for answer in answers))
    assert read_keys("explain", "## The files of a class") - {"capture", "sufficient"} == files


def test_the_keys_of_an_export_are_those_of_its_manifest() -> None:
    for heading, model in {
        "## The manifest": Manifest,
        "## `input`": InputFormat,
        "## A file": GraphFile,
        "## `loss`": PrecisionLoss,
    }.items():
        assert read_keys("export", heading) == set(model.model_fields), heading
    page = (FILES / "export.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in ScorePair.model_fields)
    content = read(GOLDEN / "exported" / "explainer.json")
    assert read_keys("export", "## The manifest") - {"output", "guard"} == set(content)


def test_the_keys_of_a_batch_are_those_that_are_written(written: Path) -> None:
    import pyarrow.parquet as pq

    manifest, job = (read(written / "batch" / f"{name}.json") for name in ("manifest", "job"))
    assert read_keys("batch", "## `manifest.json`") == set(manifest)
    assert read_keys("batch", "## `explainer`") - {"guard"} == {*manifest["explainer"]}
    written_fields = {k for k, v in ExplainerInfo.model_fields.items() if not v.exclude}
    assert read_keys("batch", "## `explainer`") == written_fields
    assert read_keys("batch", "## `settings`") == {each.name for each in fields(BatchSettings)}
    assert read_keys("batch", "## A shard") == set(ShardRecord.model_fields)
    page = (FILES / "batch.md").read_text(encoding="utf-8")
    assert set(job) == {"version", "images", "count", "sha256", "explainer", "settings"}
    assert all(f"`{key}`" in page for key in job)
    (shard,) = (written / "batch" / "maps").iterdir()
    schema = pq.read_schema(shard)
    assert read_keys("batch", "## Columns of a shard") - SEVERAL == set(schema.names)
    header = (written / "batch" / "errors.csv").read_text().splitlines()[0]
    assert f"`{header}`" in page


def test_the_keys_of_a_stress_test_are_those_that_are_written(written: Path) -> None:
    content = read(written / "stress" / "results.json")
    assert read_keys("stress", "## Stress tests: `results.json`") >= set(content)
    assert read_keys("stress", "### A row") == gather(*content["rows"])
    assert read_keys("stress", "### A curve") == gather(*content["curves"])


def test_the_keys_of_detection_and_features_are_those_that_are_written() -> None:
    page = (FILES / "stress.md").read_text(encoding="utf-8")
    content = read(GOLDEN / "detect" / "detection.json")
    assert all(f"`{key}`" in page for key in content)
    assert read_keys("stress", "### A row of a detection") == gather(*content["rows"])
    content = read(GOLDEN / "features" / "features.json")
    named = read_keys("stress", "## Features: `features.json`")
    newer = {"joined", "left_out"}  # only where there are some
    assert named == {*content, *gather(*content["rows"])} | newer
    assert read_keys("stress", "### A point of a curve") == gather(*content["rows"])
    facts = read(GOLDEN / "defended" / "facts.json")
    named = read_keys("stress", "## A defended classifier: `facts.json`")
    newer = {"looks_trained", "measured_images"}
    assert named - newer == set(facts)


@pytest.mark.parametrize("kind", ["mask-own", "counterpart", "latent"])
def test_the_files_of_a_run_folder_are_named(kind: str) -> None:
    page = (FILES / "run-folder.md").read_text(encoding="utf-8")
    for path in (GOLDEN / "runs" / kind).iterdir():
        assert f"`{path.name}{'/' * path.is_dir()}`" in page
    for name in read(GOLDEN / "runs" / kind / "facts.json"):
        assert f"`{name}`" in page


def test_the_keys_of_similar_cases_and_lists_are_complete(tmp_path: Path) -> None:
    from apercu import find_similar, open_classifier
    from apercu.learning.active import COLUMNS
    from apercu.learning.case_index import CASES, SETTINGS, IndexSettings

    images = "planted:size=32,images=4,classes=2"
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 4, 4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(4, 2),
    )  # fmt: skip
    classifier = open_classifier(module, size=32)
    find_similar(classifier, torch.full((3, 32, 32), 0.5), images, out=tmp_path)
    record = json.loads((tmp_path / "similar.json").read_text())
    assert read_keys("similar", "## `similar.json`") == set(record)
    assert read_keys("similar", "## A case") == set(record["by_features"][0])
    assert read_keys("similar", "## `next.csv`") == set(COLUMNS)
    page = (FILES / "similar.md").read_text(encoding="utf-8")
    for name in (CASES, SETTINGS, *IndexSettings.model_fields):
        assert f"`{name}`" in page


def test_the_keys_of_a_trained_classifier_are_complete() -> None:
    from apercu.learning.measure import MEASURES, MeasuredFigure
    from apercu.learning.results import PARTS, LearningFigures
    from apercu.learning.search import SearchResult

    page, heading = "classifier-run", "## `figures.json`"
    named = read_keys(page, heading)
    of_a_figure = read_keys(page, "### A figure")
    assert set(LearningFigures.model_fields) <= named
    assert set(MeasuredFigure.model_fields) <= of_a_figure <= named
    choice = read_keys(page, "## `search/choice.json`")
    assert choice == set(SearchResult.model_fields)
    assert read_keys(page, "## `predictions.csv`") == {"file", "unit", "labels", "unknown"}
    text = (FILES / f"{page}.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*MEASURES, *PARTS))
