from __future__ import annotations

import signal
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Path:
    """A second of a picture that moves to the left."""
    path = tmp_path_factory.mktemp("walk") / "walk.mkv"
    world = np.random.default_rng(0).integers(0, 256, (6, 20, 3), np.uint8)
    wide = np.kron(world, np.ones((16, 16, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for step in range(25):
            pixels = np.ascontiguousarray(wide[:, 2 * step : 2 * step + 128])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_video_is_explained_and_its_figures_are_told(apercu, quiet_run, walk, tmp_path) -> None:
    out = tmp_path / "new" / "seen.mp4"
    result = apercu("video", quiet_run, walk, out, "--target", "dots", "--smoothing", "0.2")
    assert (result.code, result.err) == (0, "")
    first, flicker, last = result.out.splitlines()
    assert first.startswith("25 frames, 1.0 s, at ")
    assert flicker.startswith("flicker: 0.")
    assert " as the maps come, 0." in flicker
    assert " as shown; maps lag by 0." in flicker
    assert last == f"written: {out}"
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in container.decode(video=0)) == 25
    assert [path.name for path in out.parent.iterdir()] == ["seen.mp4"]


def test_live_tells_what_was_dropped(apercu, quiet_run, walk, tmp_path) -> None:
    result = apercu("video", quiet_run, walk, tmp_path / "seen.mkv", "--live", "--seconds", "0.5")
    assert (result.code, result.err) == (0, "")
    assert "frames that came while another was in work" in result.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["walk", "seen.gif"], "expected a name that ends in .mp4, .mov, .mkv or .webm"),
        (["walk", "taken.mp4"], "taken.mp4: exists already; remove it, or choose another name"),
        (["walk", "file/seen.mp4"], "expected a folder, but "),
        (["none.mp4", "seen.mp4"], "none.mp4: no such file, camera or address"),
        (["words.txt", "seen.mp4"], "words.txt: expected a video, got text"),
        (["walk", "seen.mp4", "--target", "dotz"], "no class is called 'dotz'; did you mean dots?"),
        (["walk", "seen.mp4", "--seconds", "0"], "seconds: expected more than 0, got 0.0"),
        (["walk", "seen.mp4", "--every", "0"], "--every"),
        (["walk", "seen.mp4", "--smoothing", "-1"], "--smoothing"),
    ],
)
def test_what_is_wrong_is_one_line(
    apercu, quiet_run, walk, tmp_path, monkeypatch, words: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken.mp4").touch()
    Path("file").touch()
    Path("words.txt").write_text("no video " * 99)
    given = [str(walk) if word == "walk" else word for word in words]
    result = apercu("video", quiet_run, *given)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert line in result.err
    assert not Path("seen.mp4").exists()


def test_without_pyav_the_extra_is_named(apercu, quiet_run, walk, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("apercu.extras.find_spec", lambda name: None)
    result = apercu("video", quiet_run, walk, tmp_path / "seen.mp4")
    assert (result.code, result.out) == (2, "")
    assert result.err == ("error: video: av is not installed; pip install 'apercu[video]'\n")


def test_a_camera_that_is_not_there_is_told(apercu, quiet_run, tmp_path) -> None:
    result = apercu("video", quiet_run, "/dev/video99", tmp_path / "seen.mp4")
    assert result.code == 2
    assert "/dev/video99: no such file, camera or address" in result.err


def test_ctrl_c_says_what_is_kept(apercu, quiet_run, walk, tmp_path, monkeypatch) -> None:
    from apercu.deploy.video.frame_explainer import FrameExplainer

    explain, count = FrameExplainer.__call__, iter(range(99))

    def press(self: FrameExplainer, frame: object) -> object:
        if next(count) == 12:
            raise KeyboardInterrupt
        return explain(self, frame)

    monkeypatch.setattr(FrameExplainer, "__call__", press)
    result = apercu("video", quiet_run, walk, tmp_path / "seen.mp4")
    assert result.code == 130
    assert result.err == (
        f"error: interrupted; {tmp_path / 'seen.mp4'} holds the first 0.4 s and can be played\n"
    )
    with av.open(str(tmp_path / "seen.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_disturb_the_end(
    apercu, quiet_run, walk, tmp_path, monkeypatch, first: int, second: int
) -> None:
    from apercu.deploy.video.frame_explainer import FrameExplainer
    from apercu.deploy.video.writer import VideoWriter

    explain, leave, count = FrameExplainer.__call__, VideoWriter.__exit__, iter(range(99))

    def press(self: FrameExplainer, frame: object) -> object:
        if next(count) == 12:
            signal.raise_signal(first)
        return explain(self, frame)

    def again(self: VideoWriter, *given: object) -> None:
        signal.raise_signal(second)
        leave(self, *given)
        signal.raise_signal(second)

    def killed(*given: object) -> None:
        raise AssertionError("SIGTERM would have killed the process")

    monkeypatch.setattr(FrameExplainer, "__call__", press)
    monkeypatch.setattr(VideoWriter, "__exit__", again)
    before = signal.signal(signal.SIGTERM, killed)
    try:
        result = apercu("video", quiet_run, walk, tmp_path / "seen.mp4")
        assert signal.getsignal(signal.SIGTERM) is killed
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (result.code, result.err.partition(" holds the first 0.4 s")[0]) == (
        130,
        f"error: interrupted; {tmp_path / 'seen.mp4'}",
    )
    with av.open(str(tmp_path / "seen.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["seen.mp4"]


def test_the_class_shown_is_the_one_seen_most(apercu, quiet_run, walk, tmp_path) -> None:
    """The maps of `--target top` are those of the class that the explainer names."""
    from apercu import MaskExplainer
    from apercu.deploy.video import open_video
    from apercu.deploy.video.frames import prepare_image

    frame = next(open_video(str(walk)).read_items())
    explainer = MaskExplainer.from_pretrained(quiet_run)
    images = torch.from_numpy(prepare_image(frame.picture, (32, 32), 3))[None]
    name = explainer.classifier_info.classes[int(explainer.predict(images))].partition(",")[0]
    for target in ("top", name):
        result = apercu(
            *("video", quiet_run, walk, tmp_path / f"{target}.mp4", "--target", target),
            *("--seconds", "0.04"),
        )
        assert result.code == 0, result.err
    first, second = (tmp_path / f"{target}.mp4" for target in ("top", name))
    assert _pixels(first) == _pixels(second)


def _pixels(path: Path) -> bytes:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray().tobytes()
