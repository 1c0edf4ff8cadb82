"""Contact sheets, a page at a time, so that a folder of any size fits in memory."""

from __future__ import annotations

from pathlib import Path

from apercu import render

SHEET_SIZE, SHEET_COLUMNS, TILE_SIDE = 50, 2, 176
"""Explanations per sheet and per row; pixels of a picture's longer side."""


class ContactSheets:
    """Collects tiles and writes `sheet.png`, or `sheet-001.png` … where one does not hold all.

    Args:
        folder: where sheets go.
        expected: how many explanations will come.
    """

    def __init__(self, folder: Path, expected: int) -> None:
        self.folder = folder
        self.paged = expected > SHEET_SIZE
        self.enabled = expected > 1
        self.waiting: list[list[render.Tile]] = []
        self.files: list[str] = []

    def add(self, tiles: list[render.Tile]) -> None:
        """Takes one explanation; a full page is written at once."""
        if not self.enabled:
            return
        small = [
            render.Tile(render.fit_to_side(tile.image, TILE_SIDE), tile.caption) for tile in tiles
        ]
        self.waiting.append(small)
        if len(self.waiting) == SHEET_SIZE:
            self.flush()

    def flush(self) -> None:
        """Writes what is waiting.

        Raises:
            OutputError: the folder cannot be written.
        """
        if not self.waiting:
            return
        rows = [
            [tile for tiles in self.waiting[start : start + SHEET_COLUMNS] for tile in tiles]
            for start in range(0, len(self.waiting), SHEET_COLUMNS)
        ]
        name = f"sheet-{len(self.files) + 1:03d}.png" if self.paged else "sheet.png"
        render.save_image(self.folder / name, render.draw_contact_sheet(rows, TILE_SIDE))
        self.files.append(name)
        self.waiting = []
