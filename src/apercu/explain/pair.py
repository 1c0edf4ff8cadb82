"""One counterpart explanation, and the files that show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apercu import render
from apercu.explain.answer import class_slug
from apercu.explain.dicom_capture import build_secondary_capture
from apercu.images.formats.dicom import DicomReference
from apercu.io import write_file, write_map
from apercu.types import Picture

CAPTURED_PAIR_VIEW = "adversarial"
"""The picture that goes back into an archive of DICOM images."""


@dataclass(frozen=True, eq=False)
class CounterpartExplanation:
    """How one picture would have to change to be seen as another class.

    Args:
        image: as the explainer takes it.
        names: the class it is seen as, and the class that is wanted.
        wanted: index of the latter.
        strip: pictures from the stable counterpart to the adversarial one.
        shares: the wanted class's probability in each of them; empty where nobody was asked.
        source: how to refer to a picture that is DICOM.
    """

    image: Picture
    names: tuple[str, str]
    target: int
    strip: Float[Tensor, "steps channels height width"]
    probabilities: tuple[float, ...] = ()
    reference: DicomReference | None = None

    @property
    def difference(self) -> Picture:
        """What the adversarial picture has more, or less, than the stable one."""
        return self.strip[-1] - self.strip[0]

    @property
    def slug(self) -> str:
        """Index and name of the wanted class, as part of a file name."""
        return class_slug(self.target, self.names[1])

    def draw_views(self) -> dict[str, Image.Image]:
        """Input, both counterparts, what was added and taken away, the strip between them."""
        return {
            "input": render.to_image(self.image),
            "similar": render.to_image(self.strip[0]),
            "adversarial": render.to_image(self.strip[-1]),
            "difference": render.draw_difference(self.difference),
            "strip": render.draw_contact_sheet([self._make_step_tiles()]),
        }

    def save(self, folder: Path, stem: str) -> dict[str, Any]:
        """Writes every file, and returns what `explain.json` says about them.

        Raises:
            OutputError: the folder cannot be written.
        """
        files = {"map": f"{stem}.map.npy"}
        write_map(folder / files["map"], self.difference.abs().mean(0))
        for kind, image in self.draw_views().items():
            files[kind] = f"{stem}.{kind}.png"
            render.save_image(folder / files[kind], image)
            if kind == CAPTURED_PAIR_VIEW and self.reference is not None:
                files["capture"] = f"{stem}.{kind}.dcm"
                about = f"apercu: generated, NOT ACQUIRED; changed to be seen as {self.names[1]}"
                write_file(
                    folder / files["capture"], build_secondary_capture(image, self.reference, about)
                )
        about_pair = {
            "seen": self.names[0],
            "target": self.target,
            "class": self.names[1],
            "change": round(float(self.difference.abs().mean()), 6),
            "files": files,
        }
        if self.probabilities:
            about_pair["probabilities"] = [round(share, 6) for share in self.probabilities]
        return about_pair

    def make_tiles(self, name: str) -> list[render.Tile]:
        """Picture, both counterparts and their difference, for a contact sheet."""
        first, last = (
            f" {self.probabilities[end]:.2f}" if self.probabilities else "" for end in (0, -1)
        )
        short = self.names[1].partition(",")[0]
        return [
            render.Tile(render.to_image(self.image), name),
            render.Tile(render.to_image(self.strip[0]), f"similar: {short}{first}"),
            render.Tile(render.to_image(self.strip[-1]), f"adversarial: {short}{last}"),
            render.Tile(
                render.draw_difference(self.difference),
                f"at most {float(self.difference.abs().max()):.2f}",
            ),
        ]

    def _make_step_tiles(self) -> list[render.Tile]:
        shares = [f"{share:.2f}" for share in self.probabilities]
        last = len(self.strip) - 1
        captions = shares or [f"{number} of {last}" for number in range(len(self.strip))]
        return [
            render.Tile(render.to_image(picture), caption)
            for picture, caption in zip(self.strip, captions, strict=True)
        ]
