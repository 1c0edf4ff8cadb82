"""Images that people label on the page: what comes next, the labels, and what is taken back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, TypeVar, final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apercu.deploy.serving.errors import ConflictError, NotFoundError, TooLargeError
from apercu.deploy.serving.requests import parse_json_body
from apercu.deploy.serving.served_explainer import Record
from apercu.errors import ConfigError, ImagesError
from apercu.images.folder import FolderImages
from apercu.images.label_tables import LabelTable
from apercu.learning.active import LabelChoice, LabelChooser

T = TypeVar("T")
BATCH = 20
"""Images that are chosen at a time; then the labels of these are taken into account."""
MAX_BODY = 10_000
"""Bytes of a request with a label."""
MAX_PAGE = 64
"""Letters of the name of an open page."""
HOLD_SECONDS = 120.0
"""Seconds for which an image that one page shows is not given to another."""
FIELDS = ("number", "class", "session")


@dataclass(frozen=True)
class GivenLabel:
    """A label that was given or passed over, so that it can be taken back.

    Attributes:
        page: name of the page that gave it.
        row: row of the image in the index.
        label: the label; None where the image was passed over.
        before: the label that the image had before; None for none.
    """

    page: str
    row: int
    label: str | None
    before: str | None = None


@dataclass(frozen=True)
class HeldImage:
    """An image that a page shows.

    Attributes:
        row: row of the image in the index.
        since: when it was sent, in seconds of a clock that never goes back.
    """

    row: int
    since: float


@final
class LabellingQueue:
    """The images of a folder without label, the most useful first.

    Labels are written to the table at once. Images that were passed over come again when the server
    is started anew. Several pages may be open: each gets an image that no other one shows, and
    takes back its own labels only.

    Args:
        chooser: chooses images.
        table: the table of the labels, beside which the files of the images lie.

    Raises:
        ImagesError: the images are not files of a folder, a file holds several of them, or the
            table cannot be read.
        ConfigError: the network knows no classes.
    """

    def __init__(self, chooser: LabelChooser, table: LabelTable) -> None:
        source = chooser.index.source
        if not isinstance(source, FolderImages):
            raise ImagesError(f"{source.name}: expected a folder of files, as labels name files")
        several = next((each.file for each in source.locations if each.frames > 1), None)
        if several is not None:
            raise ImagesError(
                f"{source.name}: {several} holds several images, and a label stands for a file; "
                "store each image as a file"
            )
        if chooser.probabilities is None:
            raise ConfigError("label: the network knows no classes; serve a classifier's explainer")
        if chooser.decision.is_multiple:
            raise ConfigError(
                "label: an image may have several classes here, and the page gives it one; list "
                "the images with `apercu label`, and write their classes into a table"
            )
        self.chooser = chooser
        self.table = table
        self.source = source
        self.files = [source.locations[index].file for index in chooser.index.positions]
        self.session = secrets.token_hex(8)
        self._given: list[GivenLabel] = []
        self._held: dict[str, HeldImage] = {}
        self._skipped: set[int] = set()
        self._waiting: list[LabelChoice] = []
        table.read()

    @property
    def classes(self) -> tuple[str, ...]:
        """Short names of the classes, in the order of their indices."""
        return self.chooser.classes

    def describe(self, page: str = "") -> Record:
        """Return the next image and how many are labelled, as a page shows them.

        Args:
            page: name of the page; the image is not given to others for a while.

        Returns:
            The record, as JSON can hold it.
        """
        labels = self.table.read()
        labelled = {row for row, file in enumerate(self.files) if file in labels}
        choice = self._find_next(labelled, page)
        return {
            "session": self.session,
            "classes": list(self.classes),
            "table": self.table.path.name,
            "total": len(self.files),
            "labelled": len(labelled),
            "skipped": len(self._skipped - labelled),
            "can_undo": any(each.page == page for each in self._given),
            "next": None
            if choice is None
            else {"number": choice.row, "file": choice.name, "reason": choice.reason},
        }

    def label(
        self, row: int, class_index: int | None, *, page: str = "", session: str | None = None
    ) -> None:
        """Write the label of an image, or pass it over.

        Args:
            row: number of the image.
            class_index: index of its class; None passes it over.
            page: name of the page that gives it.
            session: what `describe` said when the image was shown as one without label; None
                where it was not shown, so that a label that it has is replaced.

        Raises:
            NotFoundError: there is no such image.
            ConfigError: there is no such class.
            ConflictError: the server was started anew since the image was shown, so that numbers
                may stand for others, or the image has a label by now.
            OutputError: the table cannot be written.
        """
        if session not in (None, self.session):
            raise ConflictError(
                "label: not written, as the server was started anew since this image was shown; "
                "look at the next one"
            )
        file = self._get_file(row)
        if class_index is None:
            self._skipped.add(row)
            self._given.append(GivenLabel(page, row, None))
            return
        if not 0 <= class_index < len(self.classes):
            raise ConfigError(f"class: expected an index below {len(self.classes)}")
        before = self.table.read().get(file)
        if before is not None and session is not None:
            raise ConflictError(
                f"label: {file} was labelled {before} by somebody else meanwhile, which is kept"
            )
        label = self.classes[class_index]
        self.table.write(file, label)
        self._given.append(GivenLabel(page, row, label, before))

    def undo(self, page: str = "") -> None:
        """Take the last label of a page back, or what it passed over last; its image comes next.

        Raises:
            ConfigError: nothing is left to be taken back.
            ConflictError: somebody else changed the label since; it is kept.
            OutputError: the table cannot be written.
        """
        last = next((each for each in reversed(self._given) if each.page == page), None)
        if last is None:
            raise ConfigError("undo: nothing was labelled since the server was started")
        if last.label is None:
            self._skipped.discard(last.row)
        else:
            file = self.files[last.row]
            if (now := self.table.read().get(file)) != last.label.strip():
                self._given.remove(last)
                raise ConflictError(
                    f"undo: the label of {file} was changed by somebody else meanwhile, from "
                    f"{last.label} to {now or 'none'}, which is kept"
                )
            self.table.write(file, last.before)
        self._given.remove(last)
        choices = [each for each in self._waiting if each.row != last.row]
        self._waiting = [self.chooser.describe(last.row), *choices]

    def read_file(self, row: int) -> bytes:
        """Return the bytes of the file of an image.

        Raises:
            NotFoundError: there is no such image, or its file is gone.
        """
        path = Path(self.source.path) / self._get_file(row)
        try:
            return path.read_bytes()
        except OSError as error:
            raise NotFoundError(f"image: {path.name} cannot be read ({error.strerror})") from error

    def _get_file(self, row: int) -> str:
        if not 0 <= row < len(self.files):
            raise NotFoundError(f"image: there are {len(self.files)}, from 0 on")
        return self.files[row]

    def _find_next(self, labelled: set[int], page: str) -> LabelChoice | None:
        """Return the next image for a page; choose further ones when no other is left.

        An image that another page shows comes only where there is no other one.
        """
        now = time.monotonic()
        self._held = {
            other: held
            for other, held in self._held.items()
            if other != page and now - held.since < HOLD_SECONDS
        }
        shown = {held.row for held in self._held.values()}
        done = labelled | self._skipped
        self._waiting = [each for each in self._waiting if each.row not in done]
        free = [each for each in self._waiting if each.row not in shown]
        if not free and len(done | shown) < len(self.files):
            free = self.chooser.choose(labelled, batch=BATCH, skipped=self._skipped | shown)
            self._waiting += free
        choice = next(iter(free or self._waiting), None)
        if page and choice is not None:
            self._held[page] = HeldImage(choice.row, now)
        return choice


@final
class LabellingEndpoints:
    """The addresses of the labelling view. They are no part of the OpenAPI document.

    `?page=NAME` tells open pages apart.

    Args:
        queue: the images.
    """

    def __init__(self, queue: LabellingQueue) -> None:
        self.queue = queue
        self._turn = asyncio.Lock()

    def list_routes(self) -> list[Route]:
        """Return the routes of the labelling view."""
        return [
            Route("/label", self.send_state),
            Route("/label", self.take_label, methods=["POST"]),
            Route("/label/undo", self.take_back, methods=["POST"]),
            Route("/label/{number}", self.send_image),
        ]

    async def send_state(self, request: Request) -> Response:
        """Send the next image and how many are labelled."""
        return await self._answer(request, lambda page: None)

    async def take_label(self, request: Request) -> Response:
        """Write the label of an image: `{"number": 3, "class": 1}`, or null to pass it over.

        With `session`, as it was sent with the image, a label is written only to this image, and
        only where it has none by now.
        """
        content = await _read_json(request)
        if unknown := [name for name in content if name not in FIELDS]:
            raise ConfigError(f"{unknown[0]}: no such field; known: {', '.join(FIELDS)}")
        row, class_index = content.get("number"), content.get("class", ...)
        if not _is_index(row) or not (class_index is None or _is_index(class_index)):
            raise ConfigError(
                "label: expected the number of an image, and as class the index of a class, or "
                "null to pass the image over"
            )
        session = content.get("session")
        if not isinstance(session, str | None):
            raise ConfigError("session: expected the text that was sent with the image")
        return await self._answer(
            request,
            lambda page: self.queue.label(row, class_index, page=page, session=session),
        )

    async def take_back(self, request: Request) -> Response:
        """Take the last label back."""
        await _read_json(request)
        return await self._answer(request, self.queue.undo)

    async def send_image(self, request: Request) -> Response:
        """Send the file of an image as it is stored."""
        number = request.path_params["number"]
        if not (number.isascii() and number.isdecimal()) or len(number) > 9:
            raise NotFoundError("image: expected its number")
        content = await asyncio.to_thread(self.queue.read_file, int(number))
        return Response(content, media_type="application/octet-stream")

    async def _answer(self, request: Request, change: Callable[[str], T]) -> Response:
        """Make a change for a page and send the new state; one request at a time."""
        page = request.query_params.get("page", "")
        if len(page) > MAX_PAGE:
            raise ConfigError(f"page: expected a name of at most {MAX_PAGE} letters")

        def work() -> Record:
            change(page)
            return self.queue.describe(page)

        async with self._turn:
            return JSONResponse(await asyncio.to_thread(work))


async def _read_json(request: Request) -> dict[str, Any]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise TooLargeError(f"body: expected at most {MAX_BODY} bytes")
    return parse_json_body(request.headers.get("content-type", ""), body)


def _is_index(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
