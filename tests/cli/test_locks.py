"""No verb writes into a folder or a file in which another one works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from apercu.errors import RunError
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
