"""The page: plain files of this package, which load nothing from other addresses."""

from __future__ import annotations

from typing import final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from apercu.deploy.export.page import PAGE_FOLDER
from apercu.deploy.serving.errors import NotFoundError
from apercu.deploy.serving.served_explainer import ServedExplainer

FOLDER = PAGE_FOLDER
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@final
class Page:
    """The files of the page, held in memory, and the example images.

    Args:
        served: the explainer that the page shows.
        labels: whether images are labelled on the page.
    """

    def __init__(self, served: ServedExplainer, *, labels: bool = False) -> None:
        self.served = served
        self.labels = labels
        self.files = {
            path.name: (path.read_bytes(), MEDIA_TYPES[path.suffix])
            for path in FOLDER.iterdir()
            if path.suffix in MEDIA_TYPES
        }

    def list_routes(self) -> list[Route]:
        """Return the addresses of the page, which are no part of the OpenAPI document."""
        return [
            Route("/", self.send_index),
            Route("/favicon.svg", self.send_icon),
            Route("/page/{name}", self.send_file),
            Route("/page.json", self.send_description),
            Route("/examples/{number}.png", self.send_example),
        ]

    async def send_index(self, request: Request) -> Response:
        """Send the page itself."""
        return self._send("index.html")

    async def send_icon(self, request: Request) -> Response:
        """Send the icon of the page."""
        return self._send("favicon.svg")

    async def send_file(self, request: Request) -> Response:
        """Send a script or style sheet."""
        return self._send(request.path_params["name"])

    async def send_description(self, request: Request) -> Response:
        """Send what the page needs to know of the explainer."""
        labelling = {"labelling": True} if self.labels else {}
        return JSONResponse(self.served.describe() | labelling)

    async def send_example(self, request: Request) -> Response:
        """Send one of the example images."""
        number, examples = request.path_params["number"], self.served.examples
        if (
            not (number.isascii() and number.isdecimal())
            or len(number) > 4
            or int(number) >= len(examples)
        ):
            raise NotFoundError(f"example: there are {len(examples)}, from 0 on")
        return Response(examples[int(number)], media_type="image/png")

    def _send(self, name: str) -> Response:
        if name not in self.files:
            raise NotFoundError("address: there is nothing here; see /openapi.json")
        content, media_type = self.files[name]
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})
