from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from apercu.errors import OutputError
from apercu.io import check_writable, write_file, write_map


def test_text_and_bytes_are_written_with_their_folders(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b.txt", "é")
    write_file(tmp_path / "a" / "c.bin", b"\x00\xff")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\xc3\xa9"
    assert (tmp_path / "a" / "c.bin").read_bytes() == b"\x00\xff"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["b.txt", "c.bin"]


def test_a_full_disk_keeps_the_old_file_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file(tmp_path / "results.json", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"results\.json: cannot be written \(No space left"):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_file_instead_of_a_folder_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_file(tmp_path / "out" / "results.json", "{}")
    assert "\n" not in str(caught.value)


def test_a_file_instead_of_the_folder_is_refused_before_long_work(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    for folder in (tmp_path / "out", tmp_path / "out" / "deeper"):
        words = f"{folder}: expected a folder, but {tmp_path / 'out'} is a file; choose another"
        with pytest.raises(OutputError) as caught:
            check_writable(folder)
        assert str(caught.value) == words
    check_writable(tmp_path / "new" / "deeper")
    assert not list((tmp_path / "new" / "deeper").iterdir())


def test_a_map_comes_back_as_it_was(tmp_path: Path) -> None:
    given = torch.rand(3, 5)
    write_map(tmp_path / "map.npy", given.requires_grad_())
    assert np.array_equal(np.load(tmp_path / "map.npy"), given.detach().numpy())
