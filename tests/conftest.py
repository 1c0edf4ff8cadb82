"""Shapes and types are checked at run time here, and real data is found or skipped."""

from __future__ import annotations

import builtins
import functools
import inspect
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import jaxtyping
import pytest
import torch
from filelock import FileLock
from jaxtyping import config, install_import_hook

C = TypeVar("C", bound=Callable[..., Any])

_check_shapes = jaxtyping.jaxtyped
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


def _is_plain(name: str, names: dict[str, Any]) -> bool:
    """Whether a name of an annotation says nothing of shapes; False where it is not known yet."""
    value = names.get(name, getattr(builtins, name, None))
    if isinstance(value, ModuleType):
        return value is not jaxtyping
    if getattr(value, "__module__", None) == "typing" and not hasattr(value, "__args__"):
        return not isinstance(value, TypeVar)
    shaped = type(value).__module__.startswith("jaxtyping")
    return name == "None" or (isinstance(value, type) and not shaped)


def _has_plain_types(function: FunctionType) -> bool:
    """Whether all annotations of a function are known, and none of them has a shape."""
    said = " ".join(map(str, function.__annotations__.values()))
    names = _NAME.findall(_QUOTED.sub("", said))
    return all(_is_plain(name, function.__globals__) for name in names)


def _check_types(function: Any, *, typechecker: Callable[[C], C]) -> Any:
    """Check a function without shapes as jaxtyping does, without its work for shapes.

    That is a third of the time of calls that do little, and half of that of an import.
    """
    wanted = isinstance(function, FunctionType) and not (
        inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function)
    )
    if not wanted or not _has_plain_types(function):
        return _check_shapes(function, typechecker=typechecker)
    checked = typechecker(function)

    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return (function if config.jaxtyping_disable else checked)(*args, **kwargs)

    return check


def _check_annotated(*, typechecker: Callable[[C], C]) -> Callable[[C], C]:
    """The decorator that the import hook writes in front of every function and class."""
    return functools.partial(_check_types, typechecker=typechecker)


jaxtyping.jaxtyped = _check_annotated
install_import_hook("apercu", "beartype.beartype")

ROOT = Path(__file__).resolve().parent.parent
PLANTED = "planted:size=32,images=24,classes=3,difficulty=0"


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their length: files that hold a time would change the name of the test."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and len(val) > 8 else None


@pytest.fixture(scope="session")
def apercu_data() -> Path:
    """The folder that holds `data/` and `models/`, from APERCU_DATA or beside the repository."""
    folder = Path(os.environ.get("APERCU_DATA", ROOT.parent / "shared"))
    if not (folder / "data").is_dir() or not (folder / "models").is_dir():
        pytest.skip(f"real data: no data/ and models/ in {folder}; set APERCU_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def build_registry_once() -> Iterator[None]:
    """The exporter of torch looks up the same ONNX functions for every graph: 10 % of its time."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(once))
        yield


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """For tests that hand in wrong shapes, to see what a user would see."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder once for all processes of the session; a test that writes to it copies it."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    shared.mkdir(exist_ok=True)

    def make(name: str, write: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a failure left
                folder.mkdir()
                write(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_card(make_once: Callable[..., Path]) -> Path:
    """An untrained classifier of three planted classes at 32 pixels, as a card."""
    from apercu.classifiers import (
        ClassifierCard,
        InputSpec,
        SmallResNet,
        save_classifier,
        wrap_module,
    )

    options = {"channels": 3, "classes": 3, "size": [32, 32], "width": 4}
    card = ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options=options,
        input=InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3),
        classes=("stripes, bands", "dots", "rings"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallResNet(**options)
    folder = make_once("card", lambda out: save_classifier(wrap_module(network, card), out))
    return folder / "card.json"


@pytest.fixture(scope="session")
def tiny_run(tiny_card: Path, make_once: Callable[..., Path]) -> Path:
    """A mask explainer of `tiny_card`, trained for two steps."""
    from apercu import open_classifier, open_images
    from apercu.explainers.mask.settings import MASK_PRESETS
    from apercu.explainers.train import train_explainer
    from apercu.training.trainer import Hardware, Trainer

    settings = MASK_PRESETS.parse(
        {
            "preset": "small",
            "decoder": {"width": 16},
            "embedding": {"steps": 2, "batch": 4},
            "schedule": {"steps": 2, "batch": 4},
        }
    )

    def train(run: Path) -> None:
        classifier, images = open_classifier(tiny_card), open_images(PLANTED)
        trainer = Trainer(classifier, images, run, Hardware("cpu"), say=lambda line: None)
        train_explainer(settings, trainer, classifier)

    return make_once("tiny", train)


@pytest.fixture(scope="session")
def tiny_export(tiny_run: Path, tiny_card: Path, make_once: Callable[..., Path]) -> Path:
    """`tiny_run` with the prediction of `tiny_card`, exported."""
    from apercu import MaskExplainer, open_classifier
    from apercu.deploy.export import ExportSettings, write_export
    from apercu.deploy.export.settings import ExportInputs

    def export(out: Path) -> None:
        inputs = ExportInputs(open_classifier(tiny_card))
        write_export(
            MaskExplainer.from_pretrained(tiny_run), out, ExportSettings(combined=True), inputs
        )

    return make_once("exported", export)


@pytest.fixture(scope="session")
def honest_images() -> str:
    """Images of the kind of `tiny_card`, enough for a guard."""
    return "planted:size=32,images=75,classes=3,seed=5"


@pytest.fixture(scope="session")
def tiny_guard(
    tiny_card: Path, tiny_run: Path, honest_images: str, make_once: Callable[..., Path]
) -> Path:
    """A guard of `tiny_card` that observes `tiny_run`."""
    from apercu import fit_guard

    def fit(out: Path) -> None:
        fit_guard(tiny_card, honest_images, out, explainer=tiny_run, false_alarms=0.1)

    return make_once("guard", fit)


@pytest.fixture(scope="session")
def guarded_card(tiny_card: Path, honest_images: str, make_once: Callable[..., Path]) -> Path:
    """A copy of `tiny_card` that names a guard without an explainer."""
    from apercu import fit_guard

    def fit(out: Path) -> None:
        shutil.copytree(tiny_card.parent, out, dirs_exist_ok=True)
        card = out / tiny_card.name
        fit_guard(card, honest_images, out / "guard", false_alarms=0.1, attach=True)

    return make_once("guarded", fit) / tiny_card.name


@pytest.fixture(scope="session")
def damage_images() -> Callable[..., Any]:
    """Returns a source of images again, of which some indices cannot be read."""
    from apercu.errors import ImageError
    from apercu.images import ImageSource, Item

    class DamagedImages(ImageSource):
        def __init__(self, source: ImageSource, damaged: Collection[int]) -> None:
            self.source, self.damaged = source, damaged

        name = property(lambda self: self.source.name)
        class_names = property(lambda self: self.source.class_names)
        labelled = property(lambda self: self.source.labelled)
        names = property(lambda self: self.source.names)

        def __len__(self) -> int:
            return len(self.source)

        def __getitem__(self, index: int) -> Item:
            if index in self.damaged:
                raise ImageError(f"{self.names[index]}: damaged or cut short")
            return self.source[index]

        def label(self, index: int) -> str | int | None:
            return self.source.label(index)

    return DamagedImages


@pytest.fixture
def lose_white_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained explainers and their classifiers predict NaN for images that are white."""
    from apercu.explainers.encoder import Predictor

    predict = Predictor.__call__

    def predict_or_lose(self: Any, images: torch.Tensor) -> Any:
        logits, features = predict(self, images)
        is_white = images.flatten(1).mean(1) > 0.99
        return logits.masked_fill(is_white[:, None].to(logits.device), torch.nan), features

    monkeypatch.setattr(Predictor, "__call__", predict_or_lose)


@pytest.fixture
def white_folder(tmp_path: Path) -> Path:
    """A grey image, a white one, and a black one."""
    from PIL import Image

    folder = tmp_path / "white"
    folder.mkdir()
    for name, value in (("a-grey", 128), ("b-white", 255), ("c-black", 0)):
        Image.new("RGB", (32, 32), (value,) * 3).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def copy_graphs() -> Callable[[Path], AbstractContextManager[None]]:
    """Within `with`, an export copies the graphs that another one has instead of tracing them.

    Each graph is still compared with PyTorch, so that one of another network is refused.
    """
    from apercu.deploy.export.export_run import write_onnx

    @contextmanager
    def copy_from(exported: Path) -> Iterator[None]:
        def copy(traceable: Any, path: Path) -> Path:
            graph = exported / f"{path.name}.onnx"
            return shutil.copy(graph, path) if graph.exists() else write_onnx(traceable, path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("apercu.deploy.export.export_run.write_onnx", copy)
            yield

    return copy_from


@pytest.fixture(scope="session")
def export_alone() -> Callable[..., None]:
    """Exports the combined graph alone, or those of other roles, for tests that look at no more."""
    from apercu.deploy.export import ExportInputs, ExportSettings
    from apercu.deploy.export.export_run import ExportRun

    def export(
        explainer: Any,
        out: Path,
        classifier: Any = None,
        *,
        roles: tuple[str, ...] = ("combined",),
    ) -> None:
        inputs = ExportInputs(classifier)
        run = ExportRun(explainer, ExportSettings(combined=True), inputs, lambda line: None)
        run.graphs = {role: run.graphs[role] for role in roles}
        for folder in (out, out / "exact"):
            folder.mkdir(parents=True, exist_ok=True)
        run.write(out, out / "exact")

    return export
