"""No verb writes into a folder in which another one works, or leaves a folder without a result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from apercu import render
from apercu.errors import RunError
from apercu.io import create_folder, write_file
from apercu.run_record import LOCK, lock_folder, lock_output

PLANTED = "planted:size=32,images=24,classes=3"
COMMANDS = {
    "train": f"train mask --classifier CARD --images {PLANTED} --out out --steps 2 --batch 4",
    "compare": f"compare --classifier CARD --images {PLANTED} --methods centre_blob --out out",
    "stress": f"stress --classifier CARD --images {PLANTED} --attacks fgsm --out out",
    "detect": "stress detect --classifier CARD --images planted:size=32,images=60,classes=3 "
    "--attacks fgsm --detectors autoencoder --looks gradient --out out",
    "defend": f"stress train --classifier CARD --images {PLANTED} --out out --steps 2 --batch 4",
    "pretrain": f"pretrain transformation --images {PLANTED} --backbone timm/resnet10t --size 32 "
    "--steps 2 --batch 4 --out out",
    "features": f"evaluate-features --network a=CARD --images {PLANTED} --test {PLANTED} --out out",
    "batch": f"batch RUN {PLANTED} --out out",
    "export": "export RUN --out out",
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_folder_in_work_is_left_alone(
    apercu, verb: str, tiny_run, tiny_card, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    command = COMMANDS[verb].replace("RUN", str(tiny_run)).replace("CARD", str(tiny_card))
    with lock_folder(Path("out")):
        result = apercu(*command.split())
    assert result.code == 2, result.err
    assert "out: another apercu process works here; wait for it" in result.err
    assert [path.name for path in Path("out").iterdir() if path.name != LOCK] == []


LATE_MISTAKES = {
    "train": f"train mask --classifier CARD --images {PLANTED} --out a/out --encoder timm/none",
    "training images": "train mask --classifier CARD --images DAMAGED --out a/out --steps 2",
    "compare": f"compare --classifier CARD --images {PLANTED} --methods nothing --out a/out",
    "metric": "compare --classifier CARD --images UNLABELLED --metrics pointing_game --out a/out",
    "stress": "stress --classifier CARD --images DAMAGED --attacks fgsm --out a/out",
    "detect": "stress detect --classifier CARD --images DAMAGED --attacks fgsm --out a/out",
    "defend": "stress train --classifier CARD --images DAMAGED --out a/out --steps 2",
    "pretrain": "pretrain transformation --images DAMAGED --backbone timm/resnet10t --out a/out",
    "features": "evaluate-features --network a=CARD --images DAMAGED --test DAMAGED --out a/out",
    "batch": "batch RUN nowhere --out a/out",
    "export": "export RUN --precision fp16 --out a/out",
    "exported images": "export RUN --images DAMAGED --out a/out",
    "explain": "explain RUN nowhere --out a/out",
    "explained image": "explain RUN DAMAGED --out a/out",
    "video": "video RUN nowhere.mp4 --out a/out.mp4",
    "damaged video": "video RUN DAMAGED/one.png --out a/out.mp4",
    "cutouts": "cutouts DAMAGED/one.png --catalogue nowhere.csv --out a/out",
    "frames": "cutouts DAMAGED/one.png --catalogue objects.csv --id id --out a/out",
    "card": "card timm/none --out a/card.json",
    "filter": "stress filter floyd_steinberg DAMAGED/one.png a/out.png",
}


@pytest.mark.parametrize("verb", LATE_MISTAKES)
def test_a_refused_command_leaves_no_folder(
    apercu, verb: str, tiny_run, tiny_card, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two", "three"):
        write_file(Path("damaged", f"{name}.png"), b"damaged")
        render.save_image(Path("unlabelled", f"{name}.png"), Image.new("RGB", (32, 32)))
    write_file(Path("objects.csv"), "id,ra,dec\n1,10,10\n")
    command = LATE_MISTAKES[verb].replace("RUN", str(tiny_run)).replace("CARD", str(tiny_card))
    command = command.replace("DAMAGED", "damaged").replace("UNLABELLED", "unlabelled")
    result = apercu(*command.split())
    assert result.code == 2, result.err
    assert not Path("a").exists()


def test_a_folder_stays_only_where_something_was_written(tmp_path: Path) -> None:
    for lock in (lock_folder, create_folder):
        with pytest.raises(ZeroDivisionError), lock(tmp_path / "a" / "b"):
            raise ZeroDivisionError
        assert not (tmp_path / "a").exists()
    with pytest.raises(ZeroDivisionError), lock_folder(tmp_path / "a" / "b"):
        write_file(tmp_path / "a" / "b" / "result", b"")
        raise ZeroDivisionError
    assert (tmp_path / "a" / "b" / "result").is_file()
    (tmp_path / "old").mkdir()
    with create_folder(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir()


def test_a_file_in_work_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "film.mp4"
    with lock_output(out):
        with pytest.raises(RunError, match=r"film\.mp4: another apercu process works here"):
            lock_output(out).__enter__()
        with lock_output(tmp_path / "other.mp4"):
            pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), lock_output(tmp_path):
        assert (tmp_path / LOCK).is_file()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys
from pathlib import Path
from apercu.run_record import lock_output
with lock_output(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_a_lock_that_was_removed_is_taken_by_one_process_only(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "film.mp4")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match="another apercu process"):
            lock_output(tmp_path / "film.mp4").__enter__()
        holder.stdin.close()
        holder.wait()
        with lock_output(tmp_path / "film.mp4"):
            assert [path.name for path in tmp_path.iterdir()] == [f".film.mp4{LOCK}"]
        holder.stdout.close()
    assert list(tmp_path.iterdir()) == []
