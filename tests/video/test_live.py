"""A source on the network that sends at its own pace, whether or not anybody can follow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import av
import numpy as np
import pytest

from apercu.deploy.video import VideoSettings, open_video, write_video

FRAMES, RATE = 60, 25


@pytest.fixture
def station() -> Iterator[str]:
    """The address of an MPEG transport stream of so many frames, sent once."""
    server = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        connection, _ = server.accept()
        with (
            connection,
            connection.makefile("wb") as file,
            av.open(file, "w", format="mpegts") as container,
        ):
            options = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}
            stream = container.add_stream("libx264", rate=RATE, options=options)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            start = time.monotonic()
            for number in range(FRAMES):
                grey = np.full((48, 64, 3), 4 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
                file.flush()
                time.sleep(max(0.0, start + number / RATE - time.monotonic()))
            container.mux(stream.encode(None))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    thread.join(5)
    server.close()


def test_frames_are_dropped_rather_than_delayed(station, player, engine, tmp_path) -> None:
    source, out = open_video(station, live=True), tmp_path / "out.mp4"
    assert source.live
    assert not source.is_file
    slow = replace(engine, pause=0.15)
    done = write_video(slow, source, out, VideoSettings(target="day"))
    assert done.frames + done.dropped == FRAMES
    assert 1 <= done.frames <= 25
    assert len(player.times(out)) == done.frames
    steps = np.diff(player.times(out))
    assert steps.max() > 2 / RATE  # those that are left keep their times
    brightness = [frame[4, 60].mean() for frame in player.pictures(out)]
    assert np.all(np.diff(brightness) > 0)


def test_a_network_source_may_also_be_waited_for(station, player, engine, tmp_path) -> None:
    done = write_video(engine, open_video(station), tmp_path / "out.mp4", VideoSettings())
    assert (done.frames, done.dropped) == (FRAMES, 0)
    steps = np.diff(player.times(tmp_path / "out.mp4"))
    np.testing.assert_allclose(steps, 1 / RATE, atol=1e-3)
