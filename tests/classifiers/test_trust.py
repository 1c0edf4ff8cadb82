"""Cards, settings and run folders of strangers run no code, and stay in their folder."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import apercu
from apercu import open_classifier
from apercu.classifiers import trust as trust_module
from apercu.classifiers.card import read_card, strip_source
from apercu.classifiers.trust import check_options, check_spec_of_file, limit_network
from apercu.errors import ClassifierError, InputError, RunError, UntrustedError
from apercu.explainers.run_folder import load_explainer
from apercu.robustness.plan import read_stress_settings

GOLDEN_RUN = Path(__file__).resolve().parents[1] / "golden/runs/mask-own"
GOLDEN_CLASSIFIER = GOLDEN_RUN / "encoder/card.json"
TIMM = {"source": "timm/resnet10t", "weights": "w.safetensors"}


@pytest.fixture(autouse=True)
def _nothing_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_module, "_TYPED", set())


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists once a card of `write_card` has run code."""
    return tmp_path / "ran"


@pytest.fixture
def bad_card(tmp_path: Path, canary: Path) -> Path:
    """A card that calls `os.system`."""
    return write_json(
        tmp_path / "card.json",
        {"source": "os:system", "options": {"command": f"touch {canary}"}},
    )


@pytest.fixture
def bad_run(tmp_path: Path, bad_card: Path) -> Path:
    """A run folder, of an older version, whose encoder is such a card."""
    run = tmp_path / "run"
    shutil.copytree(GOLDEN_RUN, run)
    shutil.copy(bad_card, run / "encoder/card.json")
    return run


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def _main(*words: object) -> int:
    from apercu.cli import main

    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_a_card_does_not_call_functions(bad_card: Path, canary: Path) -> None:
    with pytest.raises(
        UntrustedError, match=r"card\.json: refused, because it would call os:system"
    ):
        open_classifier(bad_card)
    assert not canary.exists()


def test_a_run_does_not_call_functions(bad_run: Path, canary: Path) -> None:
    with pytest.raises(UntrustedError, match=r"encoder/card\.json: refused.*--trust"):
        load_explainer(bad_run)
    assert not canary.exists()


PYTHON: dict[str, Callable[..., object]] = {
    "compare": lambda run, out, **trust: apercu.compare(
        GOLDEN_CLASSIFIER, "planted:images=4,size=32", [run], out, **trust
    ),
    "find_backdoors": lambda run, out, **trust: apercu.robustness.find_backdoors(
        GOLDEN_CLASSIFIER, "planted:images=4,size=32", out, "evidence", explainer=run, **trust
    ),
    "open_detection": lambda run, out, **trust: apercu.robustness.open_detection(
        GOLDEN_CLASSIFIER, "planted:images=4,size=32", explainer=run, **trust
    ),
    "run_stress_test": lambda run, out, **trust: apercu.run_stress_test(
        GOLDEN_CLASSIFIER, "planted:images=4,size=32", out, explainer=run, **trust
    ),
    "fit_guard": lambda run, out, **trust: apercu.fit_guard(
        GOLDEN_CLASSIFIER, "planted:images=4,size=32", out, explainer=run, **trust
    ),
    "explain_dataset": lambda run, out, **trust: apercu.explain_dataset(run, run, out, **trust),
    "export": lambda run, out, **trust: apercu.export(run, out, **trust),
}


@pytest.mark.parametrize("name", PYTHON)
def test_a_function_passes_trust_to_the_run(
    name: str, bad_run: Path, canary: Path, tmp_path: Path
) -> None:
    with pytest.raises(UntrustedError, match=r"refused.*--trust"):
        PYTHON[name](bad_run, tmp_path / "out")
    assert not canary.exists()
    with pytest.raises(RunError, match=r"expected an nn\.Module"):  # of the card, once it has run
        PYTHON[name](bad_run, tmp_path / "out", trust=True)
    assert canary.exists()


def test_a_trusted_card_calls_them(bad_card: Path, canary: Path) -> None:
    with pytest.raises(ClassifierError, match=r"expected an nn\.Module"):
        open_classifier(bad_card, trust=True)
    assert canary.exists()


VERBS: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "explain run": lambda run, card, out: ["explain", run, "planted", "--out", out],
    "explain card": lambda run, card, out: [
        *("explain", GOLDEN_RUN, "planted", "--classifier", card, "--out", out)
    ],
    "compare card": lambda run, card, out: [
        *("compare", "--classifier", card, "--images", "planted:images=4", "--out", out)
    ],
    "export": lambda run, card, out: ["export", run, "--out", out],
    "batch": lambda run, card, out: ["batch", run, GOLDEN_RUN, "--out", out],
    "train": lambda run, card, out: [
        *("train", "mask", "--classifier", card, "--images", "planted:images=9", "--out", out)
    ],
    "train encoder": lambda run, card, out: [
        *("train", "mask", "--classifier", GOLDEN_RUN / "encoder/card.json"),
        *("--encoder", card, "--images", "planted:images=9,size=32", "--out", out),
    ],
    "stress": lambda run, card, out: [
        *("stress", "--classifier", card, "--images", "planted:images=4", "--out", out)
    ],
    "stress train": lambda run, card, out: [
        *("stress", "train", "--classifier", card, "--images", "planted:images=9", "--out", out)
    ],
    "evaluate-features": lambda run, card, out: [
        *("evaluate-features", "--network", f"a={card}", "--images", "planted:images=9"),
        *("--test", "planted:images=9", "--out", out),
    ],
    "pretrain": lambda run, card, out: [
        *("pretrain", "contrastive", "--images", "planted:images=9", "--backbone", card),
        *("--out", out),
    ],
}


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_runs_the_code_of_a_file(
    verb: str,
    bad_run: Path,
    bad_card: Path,
    canary: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = _main(*VERBS[verb](bad_run, bad_card, tmp_path / "out"))
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and not canary.exists()
    assert "refused, because it would call os:system" in lines[-1]
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize("way", ["engine", "worker of a server", "video", "batch", "student"])
def test_no_function_runs_the_code_of_a_run(
    way: str, bad_run: Path, bad_card: Path, canary: Path, tmp_path: Path
) -> None:
    from apercu.deploy.batch.request import ExplainerRef
    from apercu.deploy.inference import open_engine
    from apercu.deploy.serving.worker import WorkerSetup, open_explainer
    from apercu.explainers.mask.explainer import MaskExplainer

    calls: dict[str, Callable[[bool], object]] = {
        "engine": lambda trust: open_engine(bad_run, trust=trust),
        "worker of a server": lambda trust: open_explainer(
            WorkerSetup(GOLDEN_RUN, str(bad_card), trust=trust)
        ),
        "video": lambda trust: open_engine(GOLDEN_RUN, bad_card, trust=trust),
        "batch": lambda trust: ExplainerRef(bad_run, trust=trust).open(),
        "student": lambda trust: MaskExplainer.from_pretrained(bad_run, trust=trust),
    }
    with pytest.raises(UntrustedError, match="refused, because it would call os:system"):
        calls[way](False)
    assert not canary.exists()
    with pytest.raises(InputError, match=r"expected an nn\.Module"):
        calls[way](True)
    assert canary.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "encoder"])
def test_links_of_a_run_stay_in_it(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(GOLDEN_RUN, run)
    (run / name).rename(tmp_path / name)
    (run / name).symlink_to(tmp_path / name)
    with pytest.raises(UntrustedError, match=rf"{name}.*: leads out of the run folder"):
        load_explainer(run)
    assert load_explainer(run, trust=True).kind == "mask"


def test_the_option_trust_ends_with_its_command(
    bad_card: Path, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("compare", "--classifier", bad_card, "--images", "planted:images=4", "--out")
    assert _main(*words, tmp_path / "a", "--trust") == 2
    assert canary.exists() and "expected an nn.Module" in capsys.readouterr().err
    canary.unlink()
    assert _main(*words, tmp_path / "b") == 2
    assert not canary.exists()


def test_a_typed_factory_runs_and_cards_may_name_it_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mynet_of_trust.py").write_text(
        "from torch import nn\n\n"
        "def make(classes=3):\n"
        "    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))\n"
        "    module.input = {'size': [8, 8]}\n"
        "    return module\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = "mynet_of_trust:make"
    plain = write_json(tmp_path / "plain.json", {"source": spec})
    other = write_json(tmp_path / "other.json", {"source": spec, "options": {"classes": 4}})
    with pytest.raises(UntrustedError, match="type it yourself"):
        open_classifier(plain)
    assert len(open_classifier(spec).classes) == 3
    assert len(open_classifier(plain).classes) == 3
    with pytest.raises(UntrustedError, match="--trust"):  # the options are not those that ran
        open_classifier(other)
    assert len(open_classifier(other, trust=True).classes) == 4


def test_the_factories_of_this_package_may_be_named(tiny_card: Path) -> None:
    assert open_classifier(tiny_card).spec == str(tiny_card)
    assert load_explainer(GOLDEN_RUN).kind == "mask"


def test_a_file_of_settings_does_not_call_functions(
    tiny_card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, plan = tmp_path / "mask.yaml", tmp_path / "plan.yaml"
    config.write_text("encoder: os:getcwd\n")
    words = ("train", "mask", "--classifier", tiny_card, "--images", "planted:images=9,size=32")
    assert _main(*words, "--config", config, "--out", tmp_path / "a") == 2
    assert f"{config}: encoder: refused, because it would call os:getcwd" in capsys.readouterr().err
    plan.write_text("classifier: os:getcwd\nimages: planted\n")
    assert _main("stress", "--plan", plan, "--out", tmp_path / "b") == 2
    assert f"{plan}: classifier: refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spec",
    [
        *("os:getcwd", "net.py:make", "./net (1).py:make", "sub/a+b.py:make", "a,b.py:make"),
        *("/abs/néť@2.py:make", "~/net.py:make", "a\nb.py:make", "..\\net.py:make"),
    ],
)
def test_no_factory_in_a_file_of_settings_is_called(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = write_json(tmp_path / "plan.yaml", {"classifier": spec, "images": "planted"})
    with pytest.raises(UntrustedError, match=r"plan\.yaml: classifier: refused"):
        read_stress_settings(plan, {})
    with pytest.raises(UntrustedError, match="setting: refused"):
        check_spec_of_file(spec, "setting")
    card = write_json(tmp_path / "card.json", {"source": spec})
    with pytest.raises(UntrustedError, match=r"card\.json: refused"):
        open_classifier(card)


@pytest.mark.parametrize(
    "options",
    [
        {"pretrained_cfg": {"url": "x"}},
        {"pretrained_cfg": "a"},
        {"pretrained_cfg_overlay": {"file": "w.pth"}},
        {"checkpoint_path": "weights"},
        {"features_only": True},
        {"cache_dir": "x"},
        {"a": "/etc/passwd"},
        {"a": ["https://example.com/x"]},
        {"a": {"b": "../x"}},
        {"a": {"checkpoint_path": "x"}},
    ],
)
def test_options_name_no_files_and_no_addresses(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"options\.\w+ is refused.*`weights`"):
        open_classifier(write_json(tmp_path / "card.json", {**TIMM, "options": options}))


@pytest.mark.parametrize(
    "options", [{"backbone": "hf-hub:a/b"}, {"backbone": "resnet10t", "checkpoint_path": "w.pth"}]
)
def test_options_of_our_own_factories_neither(options: dict[str, Any], tmp_path: Path) -> None:
    card = {"source": "apercu.classifiers.colour:Coloured", "options": options}
    with pytest.raises(ClassifierError, match=r"options\.\w+ is refused"):
        open_classifier(write_json(tmp_path / "card.json", card))


def test_plain_options_pass() -> None:
    check_options("timm/x", {"act_layer": "relu", "drop_rate": 0.1, "depths": [2, 2], "a": None})


@pytest.mark.parametrize("key", ["weights", "classes", "source", "guard"])
@pytest.mark.parametrize("way", ["above", "absolute", "link"])
def test_paths_stay_in_the_folder_of_the_card(key: str, way: str, tmp_path: Path) -> None:
    name = "net.onnx" if key == "source" else "file.txt"
    outside = tmp_path / name
    outside.write_text("secret")
    folder = tmp_path / "card"
    folder.mkdir()
    (folder / "link").mkdir()
    (folder / "link" / name).symlink_to(outside)
    path = {"above": f"../{name}", "absolute": str(outside), "link": f"link/{name}"}[way]
    content = {**TIMM, key: path}
    if key == "source":
        del content["weights"]
    card = write_json(folder / "card.json", content)
    with pytest.raises(UntrustedError, match=rf"{key} .*leads out of the folder of the card"):
        open_classifier(card)
    with pytest.raises(ClassifierError) as trusted:
        open_classifier(card, trust=True)
    assert "leads out" not in str(trusted.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("~/secret", {}), ("src/../../outside", {}), ("in_working_folder", {}), ("..", {})),
        *(("models/m", {}), ("ok?/../../outside", {}), ("link", {})),
        *(("~/secret", {"config": None}), ("../outside", {"config": None})),
    ],
)
@pytest.mark.parametrize("kind", ["hf", "clip"])
def test_models_of_a_card_are_in_its_folder(
    kind: str,
    name: str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("transformers")
    folder, work = tmp_path / "a/card", tmp_path / "work"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in ("home/secret", "outside", "a/outside", "work/in_working_folder", "work/models/m"):
        write_json(tmp_path / path / "config.json", {"secret": True})
    for inner in ("src", "ok?", "a"):
        (folder / inner).mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "outside")
    monkeypatch.chdir(work)
    read: list[str] = []
    names = ("apercu.classifiers.sources.hf", "apercu.classifiers.sources.clip")
    for module in [importlib.import_module(source) for source in names]:
        monkeypatch.setattr(module, "check_config_of_model", lambda *args: read.append(name))
        monkeypatch.setattr(module, "load_model", lambda *args: read.append(name))
    save_file({"a": torch.zeros(4)}, folder / "w.safetensors")
    content = {"source": f"{kind}/{name}", "options": options, "classes": ["a", "b"]}
    if options:
        content["weights"] = "w.safetensors"
    with pytest.raises(ClassifierError, match=r"leads out|no such folder|after the question mark"):
        open_classifier(write_json(folder / "card.json", content))
    assert not read


@pytest.mark.parametrize("name", ["m", "sub/m", "./m", "sub/../m", "deep/er/m", "m?"])
def test_models_beside_a_card_are_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home/sub").mkdir(parents=True)
    (tmp_path / "home" / name).mkdir(parents=True)
    card = read_card(write_json(tmp_path / "home/card.json", {"source": f"hf/{name}"}))
    assert Path(strip_source(card.source)).samefile(tmp_path / "home" / name)


@pytest.mark.parametrize("name", ["google/vit-base-patch16-224", "resnet"])
def test_names_of_the_hub_stay_names(name: str, tmp_path: Path) -> None:
    for source in (f"hf/{name}", f"clip/{name}?texts=a,b/c"):
        assert read_card(write_json(tmp_path / "card.json", {"source": source})).source == source


@pytest.mark.parametrize(
    "changes",
    [
        {"size": [1000000, 1000000]},
        {"size": [8, 1000000]},
        {"size": [8000, 8000]},
        {"size": [8, 8], "resize": 1000000},
        {"size": [8, 8], "mean": [float("nan")] * 3, "std": [1, 1, 1]},
        {"channels": 10**9, "size": [8, 8]},
    ],
)
def test_an_input_of_impossible_size_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"card\.json: input"):
        open_classifier(write_json(tmp_path / "card.json", {**TIMM, "input": changes}))


def test_a_network_larger_than_its_weights_is_not_built(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "w.safetensors")
    options = {"channels": 3, "classes": 3, "size": [32, 32], "width": 2000}
    card = {"source": "apercu.classifiers.small_resnet:SmallResNet", "options": options}
    card |= {"weights": "w.safetensors", "input": {"size": [32, 32]}}
    with pytest.raises(ClassifierError, match="more numbers than its file of weights can hold"):
        open_classifier(write_json(tmp_path / "card.json", card))


def test_a_network_of_a_million_layers_is_not_built() -> None:
    with pytest.raises(ClassifierError, match="more layers"), limit_network("net", 10):
        nn.Sequential(*(nn.Sequential(nn.ReLU()) for _ in range(20_000)))
    nn.Sequential(*(nn.ReLU() for _ in range(40_000)))  # the limit ends with its block


def test_layers_of_an_open_network_do_not_count_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace of a network holds the weights that it uses by name once more."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(values, self.layer.weight)

    monkeypatch.setattr("apercu.classifiers.trust.SPARE_NUMBERS", 0)
    network = Functional()
    with limit_network("net", 10, network):
        torch.fx.symbolic_trace(network)
    with pytest.raises(ClassifierError, match="more numbers"), limit_network("net", 10):
        torch.fx.symbolic_trace(network)


def test_a_run_of_impossible_settings_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "sha256.json").unlink()
    config = json.loads((run / "config.json").read_text())
    for change in ({"blocks": 1_000_000}, {"width": 4096, "blocks": 64}):
        write_json(run / "config.json", {**config, "decoder": {**config["decoder"], **change}})
        with pytest.raises(RunError, match="damaged"):
            load_explainer(run)


@pytest.mark.parametrize("word", ["a" * 5000, "a\0b", "a/" * 3000 + "b"])
@pytest.mark.parametrize(
    "form",
    ["{}", "{}.pt2", "{}.onnx", "{}.py:make", "{}.json", "hf/{}", "hf/./{}", "clip/{}?texts=a,b"],
)
def test_names_that_no_file_can_have(form: str, word: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    spec = form.format(word)
    with pytest.raises(ClassifierError, match=r"^classifier[ :]|expected a classifier card"):
        open_classifier(spec)
    with pytest.raises(ClassifierError, match=r"^classifier[ :]"):
        open_classifier(write_json(tmp_path / "card.json", {"source": spec}), trust=True)


@pytest.mark.parametrize("key", ["weights", "classes", "guard"])
@pytest.mark.parametrize("word", ["a" * 5000, "a\0b"])
def test_files_of_a_card_that_no_file_can_be(key: str, word: str, tmp_path: Path) -> None:
    card = write_json(tmp_path / "card.json", {**TIMM, key: word})
    for trust in (False, True):
        with pytest.raises(ClassifierError, match=r"no such file|too long|null byte|leads out of"):
            open_classifier(card, trust=trust)
