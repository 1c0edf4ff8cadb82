"""Similar cases and the labelling view of a server: addresses, table, who may write, the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apercu import open_classifier, open_images
from apercu.deploy.serving import labelling
from apercu.deploy.serving.cases import CaseSearch, prepare_cases
from apercu.deploy.serving.labelling import LabellingQueue
from apercu.deploy.serving.settings import AccessPolicy, CaseSettings, ServeSettings
from apercu.deploy.serving.worker import ImageWorker, WorkerSetup, open_explainer
from apercu.errors import ConfigError, ImagesError, RunError
from apercu.images.label_tables import LabelTable
from apercu.learning.active import LabelChooser
from apercu.learning.case_features import open_case_encoder
from apercu.learning.case_index import Case, CaseIndex
from apercu.log import redirect_warnings

CLASSES = ("stripes", "dots", "rings")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures of noise without labels."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(6):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def queue(folder: Path) -> LabellingQueue:
    """A queue over these pictures whose network is not at hand, as in a server."""
    generator = torch.Generator().manual_seed(0)
    source = open_images(f"{folder}/**")
    cases = tuple(Case(name, "", None) for name in source.names)
    logits = torch.randn(6, 3, generator=generator)
    features = torch.randn(6, 4, generator=generator)
    index = CaseIndex(source, tuple(range(6)), cases, logits, features)
    decision = open_classifier(lambda images: images.mean((2, 3)), size=8).decision
    chooser = LabelChooser(index, CLASSES, decision.probabilities(logits), decision)
    return LabellingQueue(chooser, LabelTable(folder / "labels.csv", CLASSES))


@pytest.fixture
def call(serving: Callable[..., Any], queue: LabellingQueue) -> Callable[..., Any]:
    return serving(labelling=queue)


def send(call: Callable[..., Any], number: int, index: int | None) -> dict[str, Any]:
    response = call("POST", "/label", json={"number": number, "class": index})
    assert response.status_code == 200, response.text
    return response.json()


def test_labels_are_written_at_once_and_taken_back(call, queue: LabellingQueue) -> None:
    state = call("GET", "/label").json()
    assert (state["total"], state["labelled"], state["can_undo"]) == (6, 0, False)
    assert state["classes"] == list(CLASSES)
    first = state["next"]
    assert "uncertain" in first["reason"]
    state = send(call, first["number"], 2)
    assert queue.table.path.read_text() == f"file,name\n{first['file']},rings\n"
    assert (state["labelled"], state["can_undo"]) == (1, True)
    assert state["next"]["number"] != first["number"]
    second = state["next"]
    state = send(call, second["number"], None)
    assert (state["labelled"], state["skipped"]) == (1, 1)
    assert state["next"]["number"] not in (first["number"], second["number"])
    state = call("POST", "/label/undo", json={}).json()
    assert (state["skipped"], state["next"]["number"]) == (0, second["number"])
    state = call("POST", "/label/undo", json={}).json()
    assert (state["labelled"], state["next"]["number"]) == (0, first["number"])
    assert queue.table.read() == {}
    response = call("POST", "/label/undo", json={})
    assert response.status_code == 422
    assert "nothing was labelled" in response.json()["detail"]


def test_undo_gives_the_label_before_back(call, queue: LabellingQueue) -> None:
    queue.table.write("3.png", "dots")
    row = queue.files.index("3.png")
    send(call, row, 0)
    assert queue.table.read()["3.png"] == "stripes"
    call("POST", "/label/undo", json={})
    assert queue.table.read()["3.png"] == "dots"


def test_a_label_taken_back_leaves_the_rest_of_its_row(call, queue: LabellingQueue) -> None:
    """A table that was written before, with each image's patient and no label."""
    before = "file,name,Patient\n" + "".join(f"{n}.png,,p{n}\n" for n in range(6))
    queue.table.path.write_text(before)
    number = call("GET", "/label").json()["next"]["number"]
    assert send(call, number, 1)["labelled"] == 1
    assert f"{queue.files[number]},dots,p" in queue.table.path.read_text()
    call("POST", "/label/undo", json={})
    assert queue.table.path.read_text() == before


def test_two_pages_do_not_get_the_same_image(call, queue: LabellingQueue, monkeypatch) -> None:
    state = {page: call("GET", f"/label?page={page}").json() for page in "ab"}
    numbers = {page: state[page]["next"]["number"] for page in "ab"}
    assert len(set(numbers.values())) == 2
    assert call("GET", "/label?page=a").json()["next"]["number"] == numbers["a"]
    content = {"number": numbers["a"], "class": 1, "session": state["a"]["session"]}
    state["a"] = call("POST", "/label?page=a", json=content).json()
    assert state["a"]["can_undo"] and state["a"]["next"]["number"] != numbers["b"]
    assert not call("GET", "/label?page=b").json()["can_undo"]
    response = call("POST", "/label/undo?page=b", json={})
    assert response.status_code == 422
    assert queue.table.read() == {queue.files[numbers["a"]]: "dots"}
    now = labelling.time.monotonic()
    monkeypatch.setattr(labelling.time, "monotonic", lambda: now + 2 * labelling.HOLD_SECONDS)
    others = {call("GET", f"/label?page={page}").json()["next"]["number"] for page in "cdefgh"}
    assert others == {*range(6)} - {numbers["a"]}  # the last page shares an image
    assert call("GET", f"/label?page={'x' * 65}").status_code == 422


def test_a_label_of_somebody_else_is_kept(call, queue: LabellingQueue) -> None:
    session = call("GET", "/label").json()["session"]
    queue.table.write("3.png", "dots")
    row = queue.files.index("3.png")
    response = call("POST", "/label", json={"number": row, "class": 0, "session": session})
    assert response.status_code == 409
    assert "3.png was labelled dots by somebody else" in response.json()["detail"]
    assert queue.table.read() == {"3.png": "dots"}
    send(call, row, 0)
    queue.table.write("3.png", "rings")
    response = call("POST", "/label/undo", json={})
    assert response.status_code == 409
    assert "from stripes to rings, which is kept" in response.json()["detail"]
    assert queue.table.read() == {"3.png": "rings"}
    assert not call("GET", "/label").json()["can_undo"]


def test_numbers_of_an_earlier_server_label_nothing(call, queue: LabellingQueue) -> None:
    """The folder may have changed between, so that they stand for other images."""
    for index in (0, None):
        content = {"number": 0, "class": index, "session": "0" * 16}
        response = call("POST", "/label", json=content)
        assert response.status_code == 409
        assert "the server was started anew" in response.json()["detail"]
    assert queue.describe()["labelled"] == queue.describe()["skipped"] == 0


def test_all_images_come_once(call, queue: LabellingQueue) -> None:
    state, numbers = call("GET", "/label").json(), []
    while state["next"]:
        numbers.append(state["next"]["number"])
        state = send(call, numbers[-1], len(numbers) % 3)
    assert sorted(numbers) == list(range(6))
    assert len(open_images(queue.source.path)) == 6
    assert open_images(queue.source.path).labelled


def test_labels_that_others_write_are_seen(call, queue: LabellingQueue) -> None:
    number = call("GET", "/label").json()["next"]["number"]
    queue.table.write(queue.files[number], "dots")
    state = call("GET", "/label").json()
    assert (state["labelled"], state["next"]["number"] != number) == (1, True)


def test_the_image_is_sent_as_it_is_stored(call, folder: Path, queue: LabellingQueue) -> None:
    response = call("GET", "/label/4")
    assert response.content == (folder / queue.files[4]).read_bytes()
    for address in ("/label/6", "/label/-1", "/label/1e1", "/label/²", "/label/..%2Fx"):
        assert call("GET", address).status_code == 404


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"number": 0, "class": 3}, 422),
        ({"number": 0, "class": -1}, 422),
        ({"number": 0, "class": True}, 422),
        ({"number": "0", "class": 1}, 422),
        ({"class": 1}, 422),
        ({"number": 0, "class": 1, "session": 3}, 422),
        ({"number": 0, "label": "dots"}, 422),  # which would pass the image over
        ({"number": 0}, 422),
        ({"number": 6, "class": 1}, 404),
        ({"number": 0, "class": 1, "more": "x" * 20_000}, 413),
        ([], 400),
    ],
)
def test_a_wrong_label_is_refused(call, queue, content: object, status: int) -> None:
    assert call("POST", "/label", json=content).status_code == status
    assert queue.table.read() == {}


def test_a_page_of_a_stranger_cannot_label(call, queue: LabellingQueue) -> None:
    content = {"number": 0, "class": 1}
    stranger = {"origin": "https://stranger.example"}
    assert call("POST", "/label", json=content, headers=stranger).status_code == 403
    plain = {"content-type": "text/plain"}
    assert call("POST", "/label", content='{"number": 0}', headers=plain).status_code == 415
    assert queue.table.read() == {}


def test_labels_need_the_token(serving, queue: LabellingQueue) -> None:
    call = serving(labelling=queue, token=b"a-secret-of-letters")
    content = {"number": 0, "class": 1}
    for method, address in (("GET", "/label"), ("GET", "/label/0"), ("POST", "/label/undo")):
        assert call(method, address).status_code == 401
    assert call("POST", "/label", json=content).status_code == 401
    token = {"authorization": "Bearer a-secret-of-letters"}
    assert call("POST", "/label", json=content, headers=token).status_code == 200


@pytest.mark.parametrize(
    "open_to",
    [
        {"host": "0.0.0.0"},
        {"access": AccessPolicy(hosts=("lab.example",))},
        {"access": AccessPolicy(origins=("https://lab.example",))},
    ],
)
def test_strangers_are_kept_out_before_the_start(open_to: dict[str, Any], tmp_path: Path) -> None:
    cases = CaseSettings(label=tmp_path)
    with pytest.raises(ConfigError, match="from this machine only, unless a token"):
        ServeSettings(tmp_path, cases=cases, **open_to)
    ServeSettings(tmp_path, cases=cases, token=b"a-secret-of-letters", **open_to)
    ServeSettings(tmp_path, cases=CaseSettings(among="photos"), **open_to)


def test_only_files_of_one_image_are_labelled(queue: LabellingQueue, tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (0, 200)]
    (tmp_path / "pages").mkdir()
    frames[0].save(tmp_path / "pages" / "a.tif", save_all=True, append_images=frames[1:])
    chooser, index = queue.chooser, queue.chooser.index
    for spec, words in (
        (tmp_path / "pages", "a.tif holds several images"),
        ("planted:size=32,images=6,classes=3", "expected a folder of files"),
    ):
        other = CaseIndex(open_images(spec), (0,), index.cases[:1], index.logits, index.features)
        changed = LabelChooser(other, CLASSES, chooser.probabilities, chooser.decision)
        with pytest.raises(ImagesError, match=words):
            LabellingQueue(changed, queue.table)


def test_without_labelling_there_are_no_such_addresses(serving) -> None:
    call = serving()
    assert call("GET", "/label").status_code == 404
    assert "labelling" not in call("GET", "/page.json").json()


# --- similar cases -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case_worker(tiny_run: Path, tiny_card: Path, tmp_path_factory: pytest.TempPathFactory):
    """A worker that finds similar cases among planted images."""
    among = "planted:size=32,images=9,classes=3,difficulty=0"
    index = tmp_path_factory.mktemp("kept")
    settings = ServeSettings(tiny_run, str(tiny_card), cases=CaseSettings(among, index=index))
    with prepare_cases(settings) as prepared:
        setup = WorkerSetup(tiny_run, str(tiny_card), cases=prepared.folders)
        return ImageWorker(open_explainer(setup), setup.max_pixels)


def test_similar_cases_come_with_the_explanation(serving, case_worker, png: bytes) -> None:
    call = serving(worker=case_worker)
    assert call("GET", "/page.json").json()["cases"] == 9
    record = call.explain(png, cases=3).json()
    cases = record["cases"]
    assert len(cases["by_features"]) == 3
    distances = [case["distance"] for case in cases["by_features"]]
    assert distances == sorted(distances)
    for case in cases["by_features"] + cases["by_region"]:
        picture = Image.open(io.BytesIO(base64.b64decode(case["picture"])))
        assert max(picture.size) <= 160
        assert case["label"] in CLASSES
    assert "cases" not in call.explain(png).json()


def test_the_openapi_document_describes_similar_cases(serving, case_worker, png: bytes) -> None:
    validate = pytest.importorskip("jsonschema").validate
    call = serving(worker=case_worker)
    paths = call("GET", "/openapi.json").json()["paths"]
    explain = paths["/v1/explain"]["post"]
    form = explain["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert "cases" in form["properties"]
    instances = paths["/v1/models/{name}:explain"]["post"]["requestBody"]["content"]
    instance = instances["application/json"]["schema"]["properties"]["instances"]["items"]
    assert "cases" in instance["properties"]
    record = explain["responses"]["200"]["content"]["application/json"]["schema"]
    response = call.explain(png, cases=2).json()
    assert response.keys() <= record["properties"].keys()
    found = record["properties"]["cases"]
    validate(response["cases"], found)
    case = found["properties"]["by_region"]["items"]["properties"]
    assert all(each.keys() == case.keys() for each in response["cases"]["by_region"])
    others = serving()("GET", "/openapi.json").json()["paths"]["/v1/explain"]["post"]
    assert "cases" not in str(others)


def test_the_cases_are_those_of_the_library(serving, case_worker, png: bytes) -> None:
    from apercu import find_similar

    cases = serving(worker=case_worker).explain(png, cases=4).json()["cases"]
    finder = case_worker.explainer.case_search.finder
    image = Image.open(io.BytesIO(png))
    among = "planted:size=32,images=9,classes=3,difficulty=0"
    classifier = finder.encoder.classifier
    whole = find_similar(classifier, image, among, count=4)
    assert [case.name for case in whole.by_features] == [c["name"] for c in cases["by_features"]]


@pytest.mark.parametrize("number", ["-1", "21", "many"])
def test_a_wrong_number_of_cases_is_refused(serving, case_worker, png, number: str) -> None:
    response = serving(worker=case_worker).explain(png, cases=number)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("cases: expected")


def test_a_server_without_cases_says_so(serving, png: bytes) -> None:
    response = serving().explain(png, cases=3)
    assert response.status_code == 422
    assert "needs --among DIR" in response.json()["detail"]


def test_an_export_has_no_cases(tiny_export: Path) -> None:
    settings = ServeSettings(tiny_export, cases=CaseSettings(among="photos"))
    with (
        pytest.raises(ConfigError, match="serve the run that it was made of"),
        prepare_cases(settings),
    ):
        pass


def test_features_are_kept_where_they_should(
    tiny_run: Path, tiny_card: Path, folder: Path, tmp_path: Path
) -> None:
    cases = CaseSettings(str(folder), folder, None, tmp_path / "kept")
    with prepare_cases(ServeSettings(tiny_run, str(tiny_card), cases=cases)) as prepared:
        assert prepared.folders is not None
        assert prepared.labelling is not None
        assert prepared.labelling.classes == CLASSES
        assert len(prepared.labelling.files) == 6
    names = {path.relative_to(tmp_path / "kept") for path in (tmp_path / "kept").rglob("*.json")}
    assert names == {Path("similar/index.json"), Path("label/index.json")}
    temporary = ServeSettings(tiny_run, str(tiny_card), cases=CaseSettings(str(folder)))
    with prepare_cases(temporary) as prepared:
        assert prepared.folders is not None
        assert prepared.folders.index.is_dir()
    assert not prepared.folders.index.exists()


def test_cases_have_the_labels_of_the_table_that_is_written(
    tiny_run: Path, tiny_card: Path, folder: Path, tmp_path: Path
) -> None:
    """The table lies beside the folder; a table of other images gives no labels, which is said."""
    table, lines = tmp_path / "labels.csv", []
    names = sorted(path.name for path in folder.glob("*.png"))

    def list_labels(label: Path | None) -> set[str | None]:
        cases = CaseSettings(str(folder), label, table)
        with (
            redirect_warnings(lines.append),
            prepare_cases(ServeSettings(tiny_run, str(tiny_card), cases=cases)) as prepared,
        ):
            assert prepared.folders is not None
            encoder = open_case_encoder(tiny_run, classifier=str(tiny_card), device="cpu")
            return set(CaseSearch.open(encoder, prepared.folders).finder.labels)

    table.write_text(f"file,name\n{names[0]},rings\n")
    assert list_labels(None) == {None, "rings"}
    table.write_text("file,name\nother.png,rings\n")
    assert list_labels(folder) == {None}
    assert len(lines) == 1 and "no label belongs to an image" in lines[0]


def test_names_without_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the table of --label or --among"):
        ServeSettings(tmp_path, cases=CaseSettings(labels=tmp_path / "labels.csv"))
    with pytest.raises(ConfigError, match="for --among or --label"):
        ServeSettings(tmp_path, cases=CaseSettings(index=tmp_path))


# --- a classifier without a trained explainer ----------------------------------------------------


@pytest.fixture(scope="module")
def card_worker(tiny_card: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageWorker:
    """A worker that serves the folder of a classifier, with similar cases."""
    among = "planted:size=32,images=9,classes=3,difficulty=0"
    index = tmp_path_factory.mktemp("kept")
    settings = ServeSettings(tiny_card.parent, cases=CaseSettings(among, index=index))
    with prepare_cases(settings) as prepared:
        setup = WorkerSetup(tiny_card.parent, cases=prepared.folders)
        return ImageWorker(open_explainer(setup), setup.max_pixels)


def test_a_classifier_is_explained_by_cam(serving, card_worker, tiny_card, png: bytes) -> None:
    from apercu import methods

    call = serving(worker=card_worker)
    about = call("GET", "/page.json").json()
    assert (about["name"], about["explainer"]) == (tiny_card.parent.name, "method")
    assert about["method"] in ("cam", "grad_cam")
    record = call.explain(png, format="array", target=["dots", "rings"], cases=2).json()
    assert record["read_by"] == "classifier"
    classifier = open_classifier(tiny_card)
    image = np.array(Image.open(io.BytesIO(png)).convert("RGB"))
    picture = torch.from_numpy(image).permute(2, 0, 1) / 255
    images = classifier.prepare(picture)[None]
    for answer in record["answers"]:
        map = methods.get(about["method"])(classifier, images, answer["class"])[0].clamp(min=0)
        expected = map / map.max() if map.max() > 0 else map
        got = torch.tensor(answer["map"]["array"])
        assert torch.allclose(got, expected, atol=1e-4)
    assert len(record["cases"]["by_features"]) == 2


def test_a_folder_that_is_no_classifier_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a run folder"):
        open_explainer(WorkerSetup(tmp_path))
    with pytest.raises(RunError, match="expected a run folder"):
        open_explainer(WorkerSetup(tmp_path / "missing"))


# --- the page ------------------------------------------------------------------------------------


ONE_LABELLED = "1 of 6 images labelled in labels.csv."


def wait_until(page: Any, is_true: Callable[[], bool]) -> None:
    """Wait until something is true of the page, whose policy forbids to wait inside of it."""
    for _ in range(400):
        if is_true():
            return
        page.wait_for_timeout(50)
    raise AssertionError("nothing happened on the page")


def has_text(page: Any, beginning: str) -> bool:
    """Whether the count of the page begins with a text."""
    return bool(page.inner_text("#counted").startswith(beginning))


def wait_for(page: Any, table: LabelTable, count: int) -> dict[str, str]:
    """Wait until the table has so many labels, and the next image can be labelled."""
    for _ in range(200):
        labels = table.read()
        is_ready = page.evaluate(
            "() => document.querySelector('#answers button') !== null"
            " || document.getElementById('skip').disabled"
        )
        if len(labels) == count and is_ready:
            return labels
        page.wait_for_timeout(50)
    raise AssertionError(f"expected {count} labels, got {table.read()}")


def test_images_are_labelled_by_keyboard(visit, listen, queue: LabellingQueue) -> None:
    page, table = visit(listen(labelling=queue)), queue.table
    page.wait_for_selector("#answers button")
    assert page.is_hidden("#choose")
    assert page.locator("#answers button").all_inner_texts() == ["1stripes", "2dots", "3rings"]
    assert page.locator("#views canvas").count() >= 1
    first = page.inner_text("#task")
    assert "Chosen because it is uncertain" in page.inner_text("#reason")
    page.keyboard.press("2")
    labels = wait_for(page, table, 1)
    assert list(labels.values()) == ["dots"]
    assert next(iter(labels)) in first
    wait_until(page, lambda: page.inner_text("#labelled") == "dots: written.")
    wait_until(page, lambda: page.inner_text("#counted") == ONE_LABELLED)
    wait_for(page, table, 1)  # keys do nothing until the next image is there
    page.keyboard.press("s")
    wait_until(page, lambda: "1 passed over" in page.inner_text("#counted"))
    wait_for(page, table, 1)
    page.keyboard.press("u")
    wait_until(page, lambda: "passed over" not in page.inner_text("#counted"))
    wait_for(page, table, 1)
    page.keyboard.press("u")
    assert wait_for(page, table, 0) == {}
    wait_until(page, lambda: page.inner_text("#task") == first)
    page.uncheck("#keys")
    page.keyboard.press("1")
    page.wait_for_timeout(200)
    assert table.read() == {}
    page.click("#answers button >> nth=2")
    assert list(wait_for(page, table, 1).values()) == ["rings"]
    for count in range(2, 7):
        labelled = f"{count - 1} of 6"
        wait_until(page, partial(has_text, page, labelled))
        page.click("#answers button >> nth=0")
        wait_for(page, table, count)
    wait_until(page, lambda: page.inner_text("#task").startswith("All images are labelled or"))
    assert page.is_hidden("#views canvas >> nth=0")


def test_no_other_picture_is_labelled_by_mistake(visit, listen, queue, bring, png, tmp_path):
    page = visit(listen(labelling=queue))
    page.wait_for_selector("#answers button")
    other = tmp_path / "other.png"
    other.write_bytes(png)
    page.set_input_files("#file", str(other))
    page.wait_for_selector("#said.wrong")
    assert page.inner_text("#said").startswith("Images of the folder are labelled here")


def test_a_file_that_cannot_be_shown_is_not_labelled(visit, listen, queue, folder: Path) -> None:
    file = queue.describe()["next"]["file"]
    (folder / file).write_bytes(b"a text and no picture")
    page = visit(listen(labelling=queue))
    page.wait_for_selector("#said.wrong")
    assert page.locator("#answers button").count() == 0
    page.keyboard.press("1")
    page.keyboard.press("s")
    page.wait_for_selector("#answers button")
    assert queue.table.read() == {}


def test_a_page_does_not_label_for_a_server_that_was_started_anew(visit, listen, queue) -> None:
    page = visit(listen(labelling=queue))
    page.wait_for_selector("#answers button")
    queue.session = "anew"
    page.keyboard.press("2")
    page.wait_for_selector("#said.wrong")
    assert "the server was started anew" in page.inner_text("#said")
    assert queue.table.read() == {}
    page.wait_for_selector("#answers button")
    page.keyboard.press("2")
    assert list(wait_for(page, queue.table, 1).values()) == ["dots"]


def test_a_typed_class_is_that_of_the_same_letters(visit, listen, queue: LabellingQueue) -> None:
    """With more classes than keys; two of them differ in capital letters only."""
    chooser, names = queue.chooser, ("Crane", *CLASSES, *"abcdefg", "crane", "a, b", "b, a")
    probabilities = torch.full((6, len(names)), 1 / len(names))
    queue.chooser = LabelChooser(chooser.index, names, probabilities, chooser.decision)
    page = visit(listen(labelling=queue))
    page.wait_for_selector("#answers button")
    for typed, words in (("CRANE", "is 2 classes"), ("heron", "no class “heron”")):
        page.fill("#othername", typed)
        page.press("#othername", "Enter")
        wait_until(page, lambda words=words: words in page.inner_text("#said"))
        assert queue.table.read() == {}
    page.fill("#othername", "crane")
    page.press("#othername", "Enter")
    assert list(wait_for(page, queue.table, 1).values()) == ["crane"]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_labelling_view_fits(visit, listen, queue, width: int) -> None:
    page = visit(listen(labelling=queue), viewport={"width": width, "height": 844})
    page.wait_for_selector("#answers button")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    low = page.evaluate(
        "() => [...document.querySelectorAll('#labelling button, #labelling label')]"
        ".filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 40).length"
    )
    assert low == 0
    box = page.locator("#views canvas").first.bounding_box()
    assert box is not None
    assert box["y"] < 844


def test_the_cases_are_shown(visit, listen, case_worker, bring, png: bytes, tmp_path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(png)
    page = visit(listen(worker=case_worker), viewport={"width": 390, "height": 844})
    bring(page, picture)
    page.wait_for_selector("#cases img")
    assert page.locator("#cases h2").all_inner_texts() == [
        "Similar cases, by the whole picture",
        "Similar cases, by the region that speaks for the class",
    ]
    assert page.locator("#cases ol").first.locator("li").count() == 6
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    loaded = (
        "() => [...document.querySelectorAll('#cases img')].every((one) => one.naturalWidth > 0)"
    )
    wait_until(page, lambda: page.evaluate(loaded))


def test_a_table_with_empty_labels_is_filled_in(folder: Path) -> None:
    """As a list of all files that somebody begins with."""
    path = folder / "labels.csv"
    path.write_text("file,label,night\n0.png,,a\n1.png,dots,b\n")
    table = LabelTable(path, CLASSES)
    assert table.read() == {"1.png": "dots"}
    table.write("0.png", "rings")
    assert path.read_text().split() == ["file,label,night", "0.png,rings,a", "1.png,dots,b"]
