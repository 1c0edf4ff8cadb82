"""Folders in every layout, their tables, boxes and masks, and all that can be wrong with them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apercu.errors import ApercuError, ImageError, ImagesError
from apercu.images import open_images, read_picture


def draw(
    path: Path, size: tuple[int, int] = (20, 10), value: int = 51, orientation: int = 1
) -> None:
    """A picture of one tone, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (value, value, value)).save(path, exif=exif)


def table(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_one_folder_per_class(tmp_path: Path) -> None:
    draw(tmp_path / "dog" / "b.png", value=102)
    draw(tmp_path / "dog" / "a.JPEG")
    draw(tmp_path / "cat" / "z.png")
    draw(tmp_path / "cat" / ".hidden.png")
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "bird").mkdir()
    source = open_images(tmp_path)
    assert [(item.name, item.label) for item in source] == [
        ("cat/z.png", "cat"),
        ("dog/a.JPEG", "dog"),
        ("dog/b.png", "dog"),
    ]
    assert (source.class_names, source.labelled, len(source)) == (("cat", "dog"), True, 3)
    torch.testing.assert_close(source[2].picture, torch.full((3, 10, 20), 0.4))
    assert source[2].boxes is None and source[2].region is None


def test_plain_images_have_no_labels(tmp_path: Path) -> None:
    draw(tmp_path / "b.png")
    draw(tmp_path / "a.webp")
    source = open_images(str(tmp_path), channels=1)
    assert [item.name for item in source] == ["a.webp", "b.png"]
    assert (source.class_names, source.labelled, source[-1].label) == (None, False, None)
    assert source[0].picture.shape == (1, 10, 20)
    with pytest.raises(IndexError, match="image 2 of a source of 2"):
        source[2]


def test_one_file(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    source = open_images(tmp_path / "a.png")
    assert [item.name for item in source] == ["a.png"]
    assert source.name == str(tmp_path / "a.png")
    assert open_images(tmp_path).name == str(tmp_path)


@pytest.mark.parametrize(
    ("header", "row", "label"),
    [
        ("file,class_index,name", "x/a.png,7,dog", 7),
        ("name,wnid,file", "dog,n01,x/a.png", "dog"),
        ("WNID , File", "n01, x/a.png", "n01"),
        ("split,class,file", "train,dog,x/a.png", "dog"),
        ("file,finding", '"x/a.png","a, b"', "a, b"),
    ],
)
def test_labels_in_any_order(tmp_path: Path, header: str, row: str, label: str | int) -> None:
    draw(tmp_path / "x" / "a.png")
    table(tmp_path / "labels.csv", header, row)
    source = open_images(tmp_path)
    assert [(item.name, item.label) for item in source] == [("x/a.png", label)]
    assert source.class_names == (None if label == 7 else (label,))


def test_labels_of_a_spreadsheet_with_a_byte_order_mark(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes("\ufefffile,class\r\na.png,chien\r\n".encode())
    assert open_images(tmp_path)[0].label == "chien"


def test_boxes_of_the_label_are_clipped_to_the_picture(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    table(tmp_path / "labels.csv", "file,class_index", "a.png,3", "b.png,4")
    table(
        tmp_path / "boxes.csv",
        "file,class_index,xmin,ymin,xmax,ymax",
        "a.png,3,1.5,2,8,9",
        "a.png,4,0,0,2,2",
        "a.png,3,15,-1,25,4",
    )
    source = open_images(tmp_path)
    assert source[0].boxes is not None and source[1].boxes is None
    assert source[0].boxes.tolist() == [[1.5, 2, 8, 9], [15, 0, 20, 4]]


def test_all_boxes_are_used_without_a_common_column(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    table(tmp_path / "labels.csv", "file,finding", "a.png,ill")
    table(tmp_path / "boxes.csv", "file,label,xmin,ymin,xmax,ymax", "a.png,opacity,1,2,3,4")
    boxes = open_images(tmp_path)[0].boxes
    assert boxes is not None and boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_and_masks_are_turned_with_the_picture(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((10, 20, 3), np.uint8)
    stored[2:5, 3:9] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    (tmp_path / "masks").mkdir()
    Image.fromarray(stored[..., 0]).convert("1").save(tmp_path / "masks" / "a.png")
    table(tmp_path / "boxes.csv", "file,xmin,ymin,xmax,ymax", "a.png,3,2,9,5")
    item = open_images(tmp_path)[0]
    assert item.region is not None and item.boxes is not None
    assert torch.equal(item.region, item.picture[0] > 0.5)
    xmin, ymin, xmax, ymax = (int(edge) for edge in item.boxes[0])
    inside = torch.zeros_like(item.region)
    inside[ymin:ymax, xmin:xmax] = True
    assert torch.equal(item.region, inside)


def test_masks_by_path_or_stem(tmp_path: Path) -> None:
    for name in ("x/a.png", "x/b.jpg", "x/c.png"):
        draw(tmp_path / name)
    for name in ("masks/x/a.png", "masks/b.png"):
        draw(tmp_path / name, value=1)
    regions = [item.region for item in open_images(tmp_path)]
    assert [region is None for region in regions] == [False, False, True]
    assert regions[0] is not None and bool(regions[0].all())


def test_a_mask_of_another_size(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "masks" / "a.png", (10, 20))
    message = r"masks/a.png: expected 20 × 10 pixels \(width × height\) like a.png, got 10 × 20"
    with pytest.raises(ImagesError, match=message):
        open_images(tmp_path)[0]


def test_one_bad_image_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    source = open_images(tmp_path)
    assert source[0].name == "a.png"
    with pytest.raises(ImageError, match=r"b\.png: damaged or cut short"):
        source[1]


def test_a_source_can_be_pickled(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    source = pickle.loads(pickle.dumps(open_images(tmp_path)))
    assert source[0].picture.shape == (3, 10, 20)


BOX = "file,xmin,ymin,xmax,ymax"


@pytest.mark.parametrize(
    ("labels", "boxes", "message"),
    [
        (["file,class", "a.png,x", "b.png,y", "c.png,y"], [], "exist, 2 in all, first b.png"),
        (["file,clas", "a.png,x"], [], "expected a column of labels .*did you mean class?"),
        (
            ["files,class", "a.png,x"],
            [],
            "names of the images, got files, class; did you mean",
        ),
        ([], [BOX.replace("xmin", "left"), "a.png,0,0,1,1"], "expected a column xmin, got file"),
        ([""], [], "labels.csv: expected a column file with the names of the images, got"),
        (["image,class", "a.png,x"], [], "got image, class; rename the column that holds them"),
        (["file,class", "a.png,"], [], "labels.csv line 2: expected a class, got nothing"),
        (["file,class", "a.png"], [], "labels.csv line 2: expected a class, got nothing"),
        (
            ["file,class_index", "a.png,-1"],
            [],
            "line 2: expected a class_index from 0 upwards, got -1",
        ),
        (["file,class", "a.png,x", "a.png,x"], [], "line 3: a.png is listed twice"),
        (["file,class"], [], "no images, expected files that end in"),
        ([], [BOX, "a.png,5,1,4,2"], "boxes.csv line 2: expected xmin < xmax .* got 5, 1, 4, 2"),
        ([], [BOX, "a.png,1,2,4,2"], "boxes.csv line 2: expected xmin < xmax"),
        ([], [BOX, "a.png,1,2,4,nan"], "boxes.csv line 2: expected a number for ymax, got nan"),
        ([], [BOX, "a.png,1,2,4,x"], "boxes.csv line 2: expected a number for ymax, got x"),
        ([], [BOX, "a.png,1,2,3,4", "q.png,1,2,3,4"], "boxes.csv: names files .* first q.png"),
        (
            [],
            [BOX, "a.png,1,2,3,4", "a.png,20,2,30,4"],
            "boxes.csv line 3: expected a box inside a.png",
        ),
    ],
)
def test_bad_tables(tmp_path: Path, labels: list[str], boxes: list[str], message: str) -> None:
    draw(tmp_path / "a.png")
    for name, lines in (("labels.csv", labels), ("boxes.csv", boxes)):
        if lines:
            table(tmp_path / name, *lines)
    with pytest.raises(ImagesError, match=message) as caught:
        open_images(tmp_path)[0]
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00file")
    with pytest.raises(ImagesError, match="cannot be read as a CSV table in UTF-8"):
        open_images(tmp_path)


def test_unclear_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="no images, expected files that end in"):
        open_images(tmp_path)
    draw(tmp_path / "train" / "cat" / "a.png")
    assert [(item.name, item.label) for item in open_images(tmp_path)] == [
        ("train/cat/a.png", "cat")
    ]
    draw(tmp_path / "test" / "cat" / "a.png")
    with pytest.raises(ImagesError, match=r"parts of a data set; open a folder inside, .*test"):
        open_images(tmp_path)
    assert len(open_images(f"{tmp_path}/**")) == 2
    draw(tmp_path / "train" / "b.png")
    with pytest.raises(ImagesError, match=r"got both \(1 images, first b.png, and 1 folders"):
        open_images(tmp_path / "train")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "x.parquet").write_bytes(b"")
    with pytest.raises(ImagesError, match=r"open one of them, such as .*x.parquet"):
        open_images(tmp_path / "rows")


@pytest.mark.parametrize("name", ["photos.zip", "photos.TAR.GZ", "photos.7z"])
def test_an_archive_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"packed")
    with pytest.raises(ImagesError, match=rf"{name}: not an image, but an archive; unpack it, and"):
        open_images(tmp_path / name)


def test_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="nowhere: no such file or folder of images") as caught:
        open_images(tmp_path / "nowhere")
    assert isinstance(caught.value, ApercuError) and caught.value.exit_code == 2


def test_classes_take_their_pictures_at_any_depth(tmp_path: Path) -> None:
    draw(tmp_path / "dots" / "night" / "deep" / "1.png")
    draw(tmp_path / "dots" / "2.jfif.jpg")
    draw(tmp_path / "stripes" / "0.png")
    source = open_images(tmp_path)
    assert [(item.name, item.label) for item in source] == [
        ("dots/2.jfif.jpg", "dots"),
        ("dots/night/deep/1.png", "dots"),
        ("stripes/0.png", "stripes"),
    ]
    everything = open_images(f"{tmp_path}/**")
    assert everything.names == source.names and not everything.labelled


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((suffix, "JPEG") for suffix in (".jfif", ".jpe", ".JFIF", ".jif", ".jfi")),
        (".avif", "AVIF"),
        (".apng", "PNG"),
    ],
)
def test_less_usual_suffixes_are_read(tmp_path: Path, suffix: str, kind: str) -> None:
    picture = Image.new("RGB", (20, 10), (51, 51, 51))
    picture.save(tmp_path / f"a{suffix}", kind)
    source = open_images(tmp_path)
    assert len(source) == 1
    torch.testing.assert_close(source[0].picture, torch.full((3, 10, 20), 0.2), atol=0.02, rtol=0)


def test_pictures_of_other_kinds_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path / "a.png")
    for name in ("b.jxl", "c.JP2", "d.nii.gz"):
        (tmp_path / name).write_bytes(b"x")
    for name, kind in (("e", "PNG"), ("f", "TIFF"), ("g", "WEBP"), ("h.svs", "TIFF")):
        Image.new("RGB", (4, 4)).save(tmp_path / name, kind)
    (tmp_path / "notes.txt").write_text("nothing of a picture")
    (tmp_path / "LICENSE").write_text("nothing of a picture")
    assert len(open_images(tmp_path)) == 1
    for suffix in (".jxl", ".jp2", ".nii.gz", ".svs"):
        assert f"left out 1 that end in {suffix}, which is not read" in caplog.text
    assert "left out 3 that are pictures without a suffix; add that of their" in caplog.text
    assert "txt" not in caplog.text


def test_only_plain_files_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(tmp_path / "x" / "a.png")
    os.mkfifo(tmp_path / "x" / "pipe.png")
    (tmp_path / "x" / "self.png").symlink_to("self.png")
    (tmp_path / "x" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "x" / "up").symlink_to("..")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "b.png").symlink_to(tmp_path / "x" / "a.png")
    source = open_images(tmp_path)
    assert source.names == ("x/a.png", "y/b.png")
    assert "left out x/device.png (no plain file), x/pipe.png (no plain file)" in caplog.text
    assert "and 1 more" in caplog.text
    with pytest.raises(ImagesError, match="no plain file, expected a file or folder of images"):
        open_images(tmp_path / "x" / "pipe.png")


def test_masks_by_transparency(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", (4, 4))
    alpha = np.zeros((4, 4), np.uint8)
    alpha[1:3, 1:3] = 255
    for colour in (0, 255):
        layers = np.full((4, 4, 4), colour, np.uint8)
        layers[..., 3] = alpha
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(layers, "RGBA").save(tmp_path / "masks" / "a.png")
        region = open_images(tmp_path)[0].region
        assert region is not None and torch.equal(region, torch.from_numpy(alpha > 0))
    opaque = np.full((4, 4, 4), 255, np.uint8)
    opaque[..., :3] = alpha[..., None]
    Image.fromarray(opaque, "RGBA").save(tmp_path / "masks" / "a.png")
    region = open_images(tmp_path)[0].region
    assert region is not None and torch.equal(region, torch.from_numpy(alpha > 0))


def test_pages_of_a_tiff_are_pictures(tmp_path: Path) -> None:
    pages = [Image.new("L", (20, 10), value) for value in (0, 51, 102)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    source = open_images(tmp_path, channels=1)
    assert source.names == ("scan.tif#1", "scan.tif#2", "scan.tif#3")
    assert [round(item.picture.mean().item(), 2) for item in source] == [0, 0.2, 0.4]
    with pytest.raises(ImageError, match="there is no page 4, the file has 3"):
        read_picture(tmp_path / "scan.tif", frame=3)


def test_one_image_of_a_file_is_named_by_its_id(tmp_path: Path) -> None:
    pages = [Image.new("L", (20, 10), value) for value in (0, 51, 102)]
    scan, stack = tmp_path / "scan.tif", tmp_path / "stack.npz"
    pages[0].save(scan, save_all=True, append_images=pages[1:])
    np.savez(stack, pixels=np.arange(2 * 9 * 9, dtype=np.float32).reshape(2, 9, 9), id=[41, 40])
    draw(tmp_path / "a.png")
    draw(tmp_path / "b#1.png")
    for spec, name, index in ((f"{scan}#2", "scan.tif#2", 1), (f"{stack}#40", "40", 1)):
        (item,) = open_images(spec, channels=1)
        assert item.name == name
        whole = open_images(spec.partition("#")[0], channels=1)
        assert torch.equal(item.picture, whole[index].picture)
    with pytest.raises(ImagesError, match=r"no image '4', it holds scan\.tif#1 to scan\.tif#3"):
        open_images(f"{scan}#4", channels=1)
    with pytest.raises(ImagesError, match=r"no image '1', it holds a\.png alone"):
        open_images(tmp_path / "a.png#1")
    assert open_images(tmp_path / "b#1.png").names == ("b#1.png",)
    with pytest.raises(ImagesError, match=r"missing\.tif#2: no such file"):
        open_images(tmp_path / "missing.tif#2")


@pytest.mark.parametrize(("encoding", "delimiter"), [("utf-16", ","), ("utf-8-sig", ";")])
def test_tables_of_spreadsheets(tmp_path: Path, encoding: str, delimiter: str) -> None:
    draw(tmp_path / "é.png")
    lines = ("file,label", "é.png,café")
    content = "\n".join(line.replace(",", delimiter) for line in lines)
    (tmp_path / "labels.csv").write_text(content, encoding=encoding)
    assert [item.label for item in open_images(tmp_path)] == ["café"]
