"""A video in, a video with overlays out."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import pytest
import torch

import apercu
from apercu import render
from apercu.classifiers.names import TOP_INDEX
from apercu.cli import main
from apercu.deploy.inference import ExplainedBatch, InferenceEngine
from apercu.deploy.video import VideoSettings, open_video, write_video
from apercu.errors import OutputError, TargetError
from apercu.verdicts import SignalWords, Trust, VerdictFormat


def levels(*values: int) -> list[np.ndarray]:
    """Pictures of one grey each."""
    return [np.full((48, 64, 3), value, np.uint8) for value in values]


def test_every_frame_is_there_at_its_time_with_its_heat(clip, player, engine, tmp_path) -> None:
    source = clip(levels(*[30] * 5, *[230] * 5), times=[0, 1, 2, 5, 6, 10, 11, 12, 20, 21])
    out = tmp_path / "out.mp4"
    done = write_video(engine, open_video(str(source)), out, VideoSettings())
    assert player.times(out) == player.times(source)
    assert (done.frames, done.explained, done.dropped, done.stopped) == (10, 10, 0, False)
    assert done.seconds == pytest.approx(21 / 25)
    for index, level in ((0, 30), (9, 230)):
        heat = render.heat_colours(render.torch.tensor([[level / 255]]))[:, 0, 0].numpy()
        cover = render.HEAT_OPACITY * (level / 255) ** 0.5
        expected = (level / 255 * (1 - cover) + heat * cover) * 255
        np.testing.assert_allclose(player.pictures(out)[index][4, 32], expected, atol=6)


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm"])
@pytest.mark.parametrize("rotation", [0, 90])
def test_the_last_frame_stays_as_long_as_it_did(
    clip, player, engine, tmp_path, ending: str, rotation: int
) -> None:
    source = clip(levels(30, 90, 150), times=[0, 1, 5], rotation=rotation, lasts=125)
    assert player.length(source) == pytest.approx(5.2)
    out = tmp_path / f"out.{ending}"
    write_video(engine, open_video(str(source)), out, VideoSettings())
    assert player.length(out) == pytest.approx(5.2, abs=0.01)


def test_sound_is_copied_bit_by_bit(clip, player, engine, tmp_path) -> None:
    source = clip(levels(*[90] * 25), sound="aac")
    done = write_video(engine, open_video(str(source)), tmp_path / "out.mp4", VideoSettings())
    assert player.sounds(tmp_path / "out.mp4") == player.sounds(source)
    assert done.audio == ("aac copied",)


def test_sound_that_the_container_refuses_is_encoded_again(clip, player, engine, tmp_path) -> None:
    source = clip(levels(*[90] * 25), sound="aac")
    out = tmp_path / "out.webm"
    done = write_video(engine, open_video(str(source)), out, VideoSettings())
    codec, packets = player.sounds(out)
    assert done.audio == ("aac encoded as opus",)
    assert codec == "opus"
    assert len(packets) * 0.02 == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("ending", "left"), [("webm", 3), ("mp4", 0)])
def test_damaged_sound_is_passed_over_and_counted(
    clip, player, engine, tmp_path, ending: str, left: int
) -> None:
    source = clip(levels(*[90] * 25), "in.mkv", sound="aac")
    whole = source.read_bytes()
    for packet in player.sounds(source)[1][20:23]:
        assert whole.count(packet) == 1
        whole = whole.replace(packet, b"\xff" * len(packet))
    source.write_bytes(whole)
    out = tmp_path / f"out.{ending}"
    done = write_video(engine, open_video(str(source)), out, VideoSettings())
    assert (done.frames, done.damaged_audio) == (25, left)
    assert len(player.sounds(out)[1]) > 40


def test_sound_of_an_unknown_codec_is_left_out(clip, player, engine, tmp_path) -> None:
    path = clip(levels(*[90] * 25), "in.mkv", sound="aac")
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    source = open_video(str(path))
    assert (source.audio_streams, source.unknown_audio) == ((), 1)
    done = write_video(engine, source, tmp_path / "out.mp4", VideoSettings())
    assert (done.frames, done.audio) == (25, ())


def test_one_frame_of_so_many_is_explained(clip, player, engine, tmp_path) -> None:
    source = clip(levels(*range(40, 240, 20)))
    settings = VideoSettings(every=4, target="day")
    done = write_video(engine, open_video(str(source)), tmp_path / "out.mp4", settings)
    assert (done.frames, done.explained, engine.asked) == (10, 3, [1, 1, 1])
    pictures = player.pictures(tmp_path / "out.mp4")
    warmth = [picture[4, 32].astype(int) @ (1, 0, -1) for picture in pictures]
    np.testing.assert_allclose(warmth[0:4], warmth[0], atol=8)  # the heat of the map before
    assert abs(warmth[4] - warmth[3]) > 8


def test_the_end_may_come_early(clip, player, engine, tmp_path) -> None:
    source = open_video(str(clip(levels(*[90] * 50), sound="aac")))
    out = tmp_path / "out.mp4"
    assert write_video(engine, source, out, VideoSettings(seconds=1.0)).frames == 25
    assert player.times(out)[-1] == pytest.approx(24 / 25)
    assert len(player.sounds(out)[1]) < 49


def test_progress_is_told(clip, engine, tmp_path) -> None:
    lines = []
    source = open_video(str(clip(levels(*[90] * 3))))
    write_video(
        engine, source, tmp_path / "out.mp4", VideoSettings(), lambda *far: lines.append(far)
    )
    assert lines == [(1, 3), (2, 3), (3, 3)]


def test_ctrl_c_leaves_a_file_that_plays(clip, player, engine, tmp_path) -> None:
    source = open_video(str(clip(levels(*[90] * 200), sound="aac")))

    def press(done: int, total: int) -> None:
        if done == 5:
            signal.raise_signal(signal.SIGINT)  # reaches the main thread, as Ctrl-C does

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells may ignore it
    try:
        done = write_video(engine, source, tmp_path / "out.mp4", VideoSettings(), press)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.stopped
    assert 5 <= done.frames < 200
    assert len(player.pictures(tmp_path / "out.mp4")) == done.frames
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "out.mp4"}


def test_ctrl_c_before_the_first_frame_leaves_nothing(clip, engine, tmp_path, monkeypatch) -> None:
    source = open_video(str(clip(levels(90, 90))))

    def press(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(engine), "__call__", press)
    done = write_video(engine, source, tmp_path / "out.mp4", VideoSettings())
    assert (done.stopped, done.frames) == (True, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_nothing_is_left_after_an_error(clip, engine, tmp_path, monkeypatch) -> None:
    source = open_video(str(clip(levels(*[90] * 25))))

    def fail(*given: object) -> None:
        raise RuntimeError("the engine broke")

    monkeypatch.setattr(type(engine), "__call__", fail)
    with pytest.raises(RuntimeError, match="the engine broke"):
        write_video(engine, source, tmp_path / "out.mp4", VideoSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_full_disk_is_told(clip, engine, tmp_path, monkeypatch) -> None:
    from apercu.deploy.video.writer import VideoWriter

    source = open_video(str(clip(levels(*[90] * 25))))

    class FullDisk(VideoWriter):  # type: ignore[misc]
        def write_frame(self, picture: object) -> None:
            raise OutputError("out.mp4: cannot be written (No space left on device)")

    monkeypatch.setattr("apercu.deploy.video.pipeline.VideoWriter", FullDisk)
    with pytest.raises(OutputError, match="No space left"):
        write_video(engine, source, tmp_path / "out.mp4", VideoSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_an_unknown_class_is_told_before_anything_is_written(clip, engine, tmp_path) -> None:
    source = open_video(str(clip(levels(90, 90))))
    with pytest.raises(TargetError, match="no class is called 'dax'; did you mean day"):
        write_video(engine, source, tmp_path / "out.mp4", VideoSettings(target="dax"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_live_drops_what_comes_while_a_frame_is_in_work(clip, player, engine, tmp_path) -> None:
    source = open_video(str(clip(levels(*[90] * 25), sound="aac")), live=True)
    out = tmp_path / "out.mp4"
    done = write_video(replace(engine, pause=0.2), source, out, VideoSettings())
    assert done.frames + done.dropped == 25
    assert 3 <= done.frames <= 14
    assert 0.9 <= done.wall_seconds < 4  # its own pace; every frame would take five seconds
    assert len(player.times(out)) == done.frames
    assert player.times(out)[-1] > 0.5
    assert player.sounds(out)[1] == player.sounds(Path(source.name))[1]


@final
@dataclass(frozen=True, eq=False)
class GuardedEngine(InferenceEngine):
    """An engine with a guard that cannot judge what is dark, and finds tampered what is bright."""

    engine: InferenceEngine

    def predict_logits(self, images, targets=None):
        return self.engine.predict_logits(images, targets)

    def compute_masks(self, features, targets):
        return self.engine.compute_masks(features, targets)

    def judge(self, images, logits, features, masks=None) -> list[Trust]:
        bright = float(images.mean())
        row = [0.99 if bright > 0.7 else 0.1, 0.1, 0.5, float("nan") if bright < 0.3 else 1.0]
        signal = SignalWords(name="noise", question="tampered", phrase="its noise is odd")
        return [VerdictFormat(signals=(signal,), false_alarms=0.05, calibrated=False).read(row)]

    def __call__(self, images, target=TOP_INDEX) -> ExplainedBatch:
        trust = self.judge(images, torch.empty(0), [])
        return replace(self.engine(images, target), trust=trust)


def test_alarms_of_a_guard_are_counted(clip, engine, tmp_path) -> None:
    info = engine.info.model_copy(update={"guard": "digest"})
    guarded = GuardedEngine(info, engine.input, engine.names, engine.output, engine)
    source = clip(levels(20, 120, 230, 120, 230, 120, 120, 230))
    for every, alarms in ((1, 4), (2, 3), (3, 1)):
        out, settings = tmp_path / f"{every}.mp4", VideoSettings(every=every)
        assert write_video(guarded, open_video(str(source)), out, settings).alarms == alarms
    summary = write_video(engine, open_video(str(source)), tmp_path / "o.mp4", VideoSettings())
    assert summary.alarms is None


def test_a_guard_that_is_named_judges_the_frames(
    clip, tiny_run, guarded_card, tiny_card, tiny_guard, tmp_path, capsys
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    source = clip([*noise])
    uses = ((guarded_card, None), (tiny_card, tiny_guard), (guarded_card, "none"))
    for number, (card, guard) in enumerate(uses):
        words = ["video", tiny_run, source, tmp_path / f"{number}.mp4", "--classifier", card]
        words += [] if guard is None else ["--guard", guard]
        with pytest.raises(SystemExit, match="0"):
            main([str(word) for word in words])
        count = "guard: 3 of 3 explained frames raise an alarm or cannot be judged"
        said = capsys.readouterr().out
        assert (count in said, "guard: " in said) == (guard != "none", guard != "none")


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("opened", [False, True])
def test_the_python_call_takes_paths_and_explainers(clip, tiny_run, tmp_path, opened) -> None:
    explainer = apercu.MaskExplainer.from_pretrained(tiny_run) if opened else str(tiny_run)
    source, out = clip(levels(90, 90, 90)), tmp_path / "out.mp4"
    with pytest.raises(TargetError, match=r"expected a class name or index, got \[1\]"):
        apercu.explain_video(explainer, source, str(out), target=[1])
    with pytest.raises(TargetError, match="expected a class index from 0 to 2, got 9"):
        apercu.explain_video(explainer, source, str(out), target=torch.tensor(9))
    summary = apercu.explain_video(
        explainer, source, str(out), every=2, smoothing=0.2, target=np.int64(1)
    )
    assert (summary.frames, summary.explained, summary.warnings) == (3, 2, ())
    assert out.is_file()
