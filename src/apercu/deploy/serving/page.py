"""The page: plain files of this package, which ask no other address for anything."""

from __future__ import annotations

from pathlib import Path
from typing import final

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from apercu.deploy.serving.about import About
from apercu.deploy.serving.errors import UnknownError

FOLDER = Path(__file__).parent / "web"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@final
class Page:
    """Its files, held in memory, and the example images.

    Args:
        about: the explainer that is shown.
    """

    def __init__(self, about: About) -> None:
        self.about = about
        self.files = {
            path.name: (path.read_bytes(), KINDS[path.suffix])
            for path in FOLDER.iterdir()
            if path.suffix in KINDS
        }

    def add_to(self, app: FastAPI) -> None:
        """Registers its addresses, which are no part of the OpenAPI document."""
        for address, endpoint in (
            ("/", self.index),
            ("/favicon.svg", self.icon),
            ("/page/{name}", self.file),
            ("/page.json", self.served),
            ("/examples/{number}.png", self.example),
        ):
            app.add_api_route(address, endpoint, methods=["GET"], include_in_schema=False)

    async def index(self) -> Response:
        return self._found("index.html")

    async def icon(self) -> Response:
        return self._found("favicon.svg")

    async def file(self, name: str) -> Response:
        return self._found(name)

    async def served(self) -> Response:
        return JSONResponse(self.about.record())

    async def example(self, number: str) -> Response:
        if not number.isdecimal() or int(number[:4]) >= len(self.about.examples):
            raise UnknownError(f"example: there are {len(self.about.examples)}, from 0 on")
        return Response(self.about.examples[int(number)], media_type="image/png")

    def _found(self, name: str) -> Response:
        if name not in self.files:
            raise UnknownError("address: there is nothing here; see /openapi.json")
        content, kind = self.files[name]
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})
