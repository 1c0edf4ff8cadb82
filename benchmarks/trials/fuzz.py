"""Many bodies that nobody should send: none may be a 500, a crash or a hang."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error

from trials.hostile import make_hostile, make_seeds
from trials.load_generator import Connection
from trials.pictures import save_untrained_run
from trials.server_process import HOST, run_server
from trials.trial import TrialResult, TrialSetup

FINE = {200, 400, 404, 405, 413, 415, 422, 429, 503}
SHARE, CALLERS, SIZE = 0.05, 16, 64
"""Of the bodies that are drawn from the OpenAPI document; callers; pixels of a small network."""
GREETING = 1
"""Lines that a server writes when it is ready; it has nothing else to say."""
MODEL = "run"
"""Its name, which callers would not guess as often."""
KEPT = Path("fuzz-failures")
"""Where requests that went wrong are left."""


def send_fuzzed(setup: TrialSetup) -> TrialResult:
    """Send a hundred bodies per second of the trial; expect no 500, crash or hang."""
    bodies = round(setup.seconds * 100)
    described = round(bodies * SHARE)
    with tempfile.TemporaryDirectory() as folder:
        run = save_untrained_run(Path(folder) / MODEL, setup.seed, SIZE)
        with run_server(run, "--max-pixels", "1", "--max-body", "4") as server:
            worker, started = server.find_worker(), time.monotonic()
            sent = (server.port, bodies - described, setup.seed)
            statuses = setup.callers.apply(send_hostile, sent)
            statuses += send_described(server.port, described, setup.seed)
            elapsed = time.monotonic() - started
            same = server.is_ready() and server.find_worker() == worker
            result = len(server.read_log().splitlines()) - GREETING
    figures = {
        "bodies": sum(statuses.values()),
        "minutes": f"{elapsed / 60:.0f}",
        "responses": ", ".join(f"{n} × {code or 'none'}" for code, n in sorted(statuses.items())),
        "workers that ended": 0 if same else 1,
        "lines in the log": result,
    }
    kept = set(statuses) <= FINE and same and not result
    promise = (
        "damaged files, forms and JSON, and what the OpenAPI document allows: no 500, crash or hang"
    )
    return TrialResult(promise, figures, kept)


def send_hostile(port: int, bodies: int, seed: int) -> Counter[int]:
    """Send damaged requests; count the statuses of the answers."""
    files, counts = make_seeds(seed), Counter[int]()
    left = iter(range(bodies))

    async def send_bodies(number: int) -> None:
        line, draw = Connection(port), random.Random(seed * CALLERS + number)
        for _ in left:
            sent = make_hostile(files, draw)
            status, _, _ = await line.send(sent)
            counts[status] += 1
            if status not in FINE:
                KEPT.mkdir(exist_ok=True)
                (KEPT / f"{status}-{seed}-{number}-{counts[status]}").write_bytes(sent)
        line.close()

    async def run_all() -> None:
        await asyncio.gather(*map(send_bodies, range(CALLERS)))

    asyncio.run(run_all())
    return counts


def send_described(port: int, bodies: int, start: int) -> Counter[int]:
    """Send what the OpenAPI document allows and what it does not; count the statuses."""
    counts = Counter[int]()
    document = schemathesis.openapi.from_url(f"http://{HOST}:{port}/openapi.json")
    operations = [one.ok() for one in document.get_all_operations()]
    modes = list(schemathesis.GenerationMode)
    share = max(1, bodies // (len(operations) * len(modes)))
    quiet = settings(
        max_examples=share, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    for operation in operations:
        for mode in modes:

            @seed(start)
            @quiet
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: schemathesis.Case) -> None:
                if "name" in case.path_parameters and counts.total() % 4:
                    case.path_parameters["name"] = MODEL
                answered = case.call(timeout=60)
                counts[answered.status_code] += 1
                case.validate_response(answered, checks=[not_a_server_error])

            with suppress(Unsatisfiable):  # an address without parameters, which none can break
                check()
    return counts
