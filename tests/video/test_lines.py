"""Threads joined by short lines: nothing is lost, nothing piles up, nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from av import VideoFrame

from apercu.deploy.video.queues import (
    BoundedQueue,
    make_live_queue,
    pace_items,
    run_consumer,
    run_producer,
)
from apercu.deploy.video.source import AudioPacket, VideoPicture

BLANK = VideoFrame(16, 16, "yuv420p")


def test_items_come_in_order_and_the_maker_never_runs_far_ahead() -> None:
    created = []

    def make() -> Iterator[int]:
        for number in range(50):
            created.append(number)
            yield number

    with run_producer(make(), BoundedQueue[int](3)) as items:
        received = []
        for item in items:
            time.sleep(0.001)
            assert len(created) <= len(received) + 1 + 3 + 1  # taken, waiting, in the maker's hand
            received.append(item)
    assert received == list(range(50))


def test_what_the_maker_raises_comes_after_what_it_made() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    received = []
    with (
        pytest.raises(ValueError, match="broken"),
        run_producer(make(), BoundedQueue[int](3)) as items,
    ):
        received.extend(items)
    with run_producer(make(), BoundedQueue[int](3)) as items:
        assert next(items) == 1


def test_the_maker_stops_when_nobody_takes_any_more() -> None:
    before = threading.active_count()
    with run_producer(iter(range(10**9)), BoundedQueue[int](3)) as items:
        assert next(items) == 0
    assert threading.active_count() == before


def test_all_that_was_left_is_done_at_the_end_also_after_ctrl_c() -> None:
    done = []

    def work(item: int) -> None:
        time.sleep(0.002)
        done.append(item)

    with pytest.raises(KeyboardInterrupt), run_consumer(work, BoundedQueue[int](20)) as leave:
        for item in range(20):
            leave(item)
        raise KeyboardInterrupt
    assert done == list(range(20))


def test_what_the_worker_raises_is_raised_where_items_are_left() -> None:
    def work(item: int) -> None:
        raise ValueError(f"no room for {item}")

    with (
        pytest.raises(ValueError, match="no room for 0"),
        run_consumer(work, BoundedQueue[int](1)) as leave,
    ):
        for item in range(100):
            leave(item)
    with (
        pytest.raises(ValueError, match="no room for 7"),
        run_consumer(work, BoundedQueue[int](1)) as leave,
    ):
        leave(7)


def test_the_newest_frame_replaces_one_that_waits_and_sounds_stay() -> None:
    line = make_live_queue()
    frames = [VideoPicture(BLANK, second) for second in (0.0, 1.0, 2.0)]
    sounds = [AudioPacket(None, second) for second in (0.0, 1.0)]
    for item in (frames[0], sounds[0], frames[1], sounds[1], frames[2]):
        assert line.put(item)
    line.finish()
    assert list(line) == [*sounds, frames[2]]
    assert line.dropped == 2


def test_a_file_plays_at_its_own_pace() -> None:
    now, waits = [100.0], []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    def items() -> Iterator[VideoPicture | AudioPacket]:
        for second in (5.0, 5.5, 6.5, 6.75):
            yield AudioPacket(None, second)
            yield VideoPicture(BLANK, second)
            now[0] += 0.375  # the work of each step

    displayed = [
        (now[0], one.seconds)
        for one in pace_items(items(), lambda: now[0], sleep)
        if isinstance(one, VideoPicture)
    ]
    assert displayed == [(100.0, 5.0), (100.5, 5.5), (101.5, 6.5), (101.875, 6.75)]  # late, no wait
    assert waits == [0.125, 0.625]
