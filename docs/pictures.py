"""Draws the pictures of the manual that come from generated images.

python docs/pictures.py
"""

from __future__ import annotations

from pathlib import Path

from apercu import render
from apercu.images import Planted

FOLDER = Path(__file__).parent / "pictures"
SIZE, SEED = 128, 7


def planted() -> Path:
    """One image of each class of the planted set, at three difficulties, with its true box."""
    sets = [Planted(size=SIZE, seed=SEED, difficulty=value) for value in (0.0, 0.5, 1.0)]
    rows = []
    for source in sets:
        items = [source[index] for index in range(source.classes)]
        rows.append(
            [
                render.Tile(
                    render.draw_boxes(render.picture_image(item.picture), item.boxes),
                    f"{item.label}, difficulty {source.difficulty:g}",
                )
                for item in items
                if item.boxes is not None
            ]
        )
    return render.save_picture(FOLDER / "planted.png", render.contact_sheet(rows, SIZE))


if __name__ == "__main__":
    planted()
