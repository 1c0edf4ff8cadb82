from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apercu import render
from apercu.errors import OutputError


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))


def test_heat_grows_lighter_all_the_way() -> None:
    ramp = render.heat_colours(torch.linspace(0, 1, 101)[None])
    light = torch.tensor([0.2126, 0.7152, 0.0722]) @ ramp[:, 0].pow(2.2)
    assert (light.diff() > 0).all()


def test_heat_ends_are_the_first_and_last_colour() -> None:
    ends = (render.heat_colours(torch.tensor([[0.0, 1.0]])) * 255).round().int()[:, 0].T
    named = [
        [int(c[i : i + 2], 16) for i in (1, 3, 5)]
        for c in (render.HEAT_COLOURS[0], render.HEAT_COLOURS[-1])
    ]
    assert ends.tolist() == named


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 12])
def test_any_number_of_channels_becomes_a_picture(channels: int) -> None:
    image = render.to_image(torch.full((channels, 4, 6), 0.5))
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert (pixels(image) == 128).all()


def test_overlay_is_the_grey_picture_where_the_map_is_cold(picture: torch.Tensor) -> None:
    cold = render.draw_overlay(picture, torch.zeros(5, 6))
    grey = render.to_image(picture).convert("L").convert("RGB")
    assert np.abs(pixels(cold) - pixels(grey)).max() <= 1


def test_overlay_shows_evidence_where_it_is(picture: torch.Tensor) -> None:
    map = torch.zeros(20, 30)
    map[5:10, 20:25] = 1
    changed = np.abs(
        pixels(render.draw_overlay(picture, map)) - pixels(render.draw_overlay(picture, map * 0))
    )
    assert (changed.max(axis=2) > 8).nonzero()[0].min() == 5
    assert set((changed.max(axis=2) > 8).nonzero()[1]) == set(range(20, 25))


def test_draw_masked_keeps_colour_inside_and_darkens_outside(picture: torch.Tensor) -> None:
    mask = torch.zeros(20, 30)
    mask[:, :15] = 1
    masked, whole = pixels(render.draw_masked(picture, mask)), pixels(render.to_image(picture))
    assert np.abs(masked[:, :15] - whole[:, :15]).max() <= 1
    outside = masked[:, 15:]
    assert (outside.max(axis=2) == outside.min(axis=2)).all(), "grey"
    assert outside.mean() < 0.4 * whole[:, 15:].mean()


def test_mask_and_its_inverse_show_complementary_halves(picture: torch.Tensor) -> None:
    mask = (torch.rand(20, 30, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    kept, removed = render.draw_masked(picture, mask), render.draw_masked(picture, 1 - mask)
    inside = mask.bool().numpy()
    assert (pixels(kept)[inside] >= pixels(removed)[inside]).all(axis=1).mean() > 0.7


def test_boxes_are_drawn_on_their_pixels_and_on_a_copy() -> None:
    blank = Image.new("RGB", (40, 30), "#808080")
    drawn = render.draw_boxes(blank, torch.tensor([[5.0, 6, 20, 16], [0, 0, 0, 0]]), "#ff0000")
    red = (pixels(drawn) == [255, 0, 0]).all(axis=2)
    assert red.any(axis=0).nonzero()[0].tolist() == list(range(5, 20))
    assert red.any(axis=1).nonzero()[0].tolist() == list(range(6, 16))
    assert (pixels(drawn)[0, 0] == 128).all(), "an empty box is not drawn"
    assert (pixels(blank) == 128).all()


def test_contact_sheet_has_each_tile_and_its_caption() -> None:
    tile = render.Tile(Image.new("RGB", (64, 32), "#ff0000"), "a caption")
    blank = render.Tile(Image.new("RGB", (64, 32), "#ff0000"), "")
    sheet = render.draw_contact_sheet([[tile, tile], [tile]])
    bare = render.draw_contact_sheet([[blank, blank], [blank]])
    assert sheet.size == bare.size == (2 * 230 + 6, 2 * (112 + 17 + 12) + 6)
    red = (pixels(sheet) == [255, 0, 0]).all(axis=2).sum()
    assert red == 3 * 224 * 112
    assert (pixels(sheet) != pixels(bare)).any(), "captions are drawn"


def test_a_long_caption_stays_below_its_own_tile() -> None:
    long = render.Tile(Image.new("RGB", (32, 32)), "hippopotamus amphibius " * 5)
    sheet = pixels(render.draw_contact_sheet([[long, render.Tile(long.image, "")]], side=64))
    below = sheet[6 + 64 :, 6 + 64 : 6 + 64 + 6]
    assert (below == 255).all(), "nothing in the gap between two captions"


def test_no_rows_is_an_empty_sheet() -> None:
    assert render.draw_contact_sheet([]).size[0] > 0


@pytest.mark.parametrize(("name", "format"), [("a.png", "PNG"), ("a.jpg", "JPEG")])
def test_saved_pictures_open_again(tmp_path: Path, name: str, format: str) -> None:
    image = Image.new("RGB", (8, 6), "#336699")
    opened = Image.open(render.save_image(tmp_path / name, image))
    assert (opened.format, opened.size) == (format, (8, 6))
    assert np.abs(pixels(opened) - pixels(image)).max() <= 3


def test_an_unknown_suffix_is_refused_with_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.png or \.jpg"):
        render.save_image(tmp_path / "a.docx", Image.new("RGB", (8, 6)))


def test_encoded_bytes_are_a_file() -> None:
    data = render.encode_image(Image.new("RGB", (8, 6)), "JPEG")
    assert Image.open(io.BytesIO(data)).format == "JPEG"


def test_raw_counts_are_stretched_and_pictures_are_unchanged() -> None:
    picture = torch.rand(3, 8, 8)
    assert torch.equal(render.stretch_to_visible(picture), picture)
    counts = 500 + 4 * torch.randn(1, 30, 30, generator=torch.Generator().manual_seed(0))
    counts[0, 10, 10], counts[0, 20, 20] = 40_000, 900
    counts[0, 0, :5] = torch.nan
    visible = render.stretch_to_visible(counts)[0]
    assert visible[10, 10] == 1
    assert visible.median() < visible[20, 20] < 1
    assert 0 < visible[0, 0] == visible[0, 4] < visible[20, 20]
    assert visible.min() >= 0
    assert render.to_image(counts).getpixel((10, 10)) == (255, 255, 255)


def test_a_box_below_a_pixel_is_drawn(picture: torch.Tensor) -> None:
    image = render.to_image(picture)
    for box in ([5.2, 6.3, 5.7, 9.0], [5.0, 6.0, 5.1, 6.1]):
        drawn = render.draw_boxes(image, torch.tensor([box]))
        assert drawn.size == image.size and (pixels(drawn) != pixels(image)).any()


def test_a_change_that_nobody_sees_is_not_drawn_and_the_caption_says_so() -> None:
    difference = torch.zeros(3, 8, 8)
    difference[:, 2, 3] = 0.0002
    assert (pixels(render.draw_difference(difference)) == 128).all()
    assert render.describe_change(difference) == "no visible change (< 1/255)"
    one_level = difference * (1 / 255 / 0.0002)
    assert (pixels(render.draw_difference(one_level))[2, 3] == [255, 176, 46]).all()
    assert render.describe_change(one_level) == "largest change 0.0039"


def test_the_scale_of_a_difference_is_its_largest_change() -> None:
    difference = torch.zeros(3, 8, 8)
    difference[:, 0, 0], difference[:, 1, 1] = 0.2, -0.4
    image = pixels(render.draw_difference(difference))
    assert image[1, 1].tolist() == [79, 179, 255], "full blue: darker by most"
    assert np.abs(image[0, 0] - [191, 152, 87]).max() <= 1, "half of orange"
    assert (image[4:] == 128).all()
    assert render.describe_change(difference) == "largest change 0.4"


def test_a_change_of_colour_alone_is_drawn() -> None:
    difference = torch.zeros(3, 8, 8)
    difference[0, 3, 3], difference[2, 3, 3] = 0.3, -0.3
    assert (pixels(render.draw_difference(difference))[3, 3] != 128).any()
    assert render.describe_change(difference) == "largest change 0.2"
