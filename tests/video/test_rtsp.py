"""A camera on the network, played by a few lines that speak as much RTSP as a client asks for."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest

from apercu.deploy.video import VideoSettings, open_video, write_video

FRAMES, RATE, CLOCK = 40, 25, 90_000
MTU = 1200
DESCRIPTION = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track\r\n"
)


def units() -> list[list[bytes]]:
    """The NAL units of each frame of a clip that becomes brighter."""
    coder = av.CodecContext.create("libx264", "w")
    coder.width, coder.height, coder.pix_fmt = 64, 48, "yuv420p"
    coder.time_base, coder.framerate = Fraction(1, RATE), Fraction(RATE)
    coder.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}
    results = []
    for number in range(FRAMES):
        grey = np.full((48, 64, 3), 6 * number, np.uint8)
        packets = coder.encode(av.VideoFrame.from_ndarray(grey, "rgb24"))
        data = b"".join(map(bytes, packets)).replace(b"\0\0\0\1", b"\0\0\1")
        results.append([unit for unit in data.split(b"\0\0\1") if unit])
    return results


def answer(request: bytes) -> bytes:
    """What a camera says to one request."""
    lines = request.decode().split("\r\n")
    method = lines[0].split()[0]
    number = next(line for line in lines if line.lower().startswith("cseq"))
    head = ["RTSP/1.0 200 OK", number, "Session: 1"]
    body = ""
    if method == "OPTIONS":
        head.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
    elif method == "DESCRIBE":
        body = DESCRIPTION
        head += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
    elif method == "SETUP":
        head.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


def play(taken: socket.socket) -> None:
    """Sends every frame at its time, one RTP packet for each unit."""
    sequence, start = 0, time.monotonic()
    for number, frame in enumerate(units()):
        time.sleep(max(0.0, start + number / RATE - time.monotonic()))
        for index, unit in enumerate(frame):
            assert len(unit) < MTU
            last = 0x80 if index == len(frame) - 1 else 0
            stamp = number * CLOCK // RATE
            packet = struct.pack(">BBHII", 0x80, last | 96, sequence, stamp, 1) + unit
            taken.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
            sequence += 1


@pytest.fixture
def camera() -> Iterator[str]:
    """The address of a camera that serves one caller."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            while request := connection.recv(4096):
                connection.sendall(answer(request))
                if request.startswith(b"PLAY"):
                    play(connection)
                    return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/stream"
    thread.join(5)
    server.close()


def test_a_camera_on_the_network_is_live(camera, player, engine, tmp_path) -> None:
    source, out = open_video(camera), tmp_path / "out.mp4"
    assert source.live
    done = write_video(engine, source, out, VideoSettings(target="day"))
    assert 1 <= done.frames <= FRAMES - done.dropped
    times = player.times(out)
    assert len(times) == done.frames
    assert times[0] >= 0
    brightness = [frame[4, 60].mean() for frame in player.pictures(out)]
    assert np.all(np.diff(brightness) > 0)
