"""What /v1/explain answers, beside what the explainer answers itself."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import apercu
from apercu import MaskExplainer, open_classifier, read_picture
from apercu.deploy.serving.requests import ExplainRequest, RequestOptions
from apercu.deploy.serving.worker import ImageWorker, WorkerSetup, open_explainer
from apercu.errors import ConfigError, RunError
from apercu.explain.mask_explanation import tight_box
from apercu.verdicts import CANNOT_JUDGE


@pytest.fixture(scope="module")
def explainer(tiny_run) -> MaskExplainer:
    return MaskExplainer.from_pretrained(tiny_run)


def _map(answer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["map"]["png"]))))


def test_the_map_is_the_explainers_own(call, explainer, png) -> None:
    answered = call.explain(png, target="dots", format="both", level="0.4")
    assert answered.status_code == 200
    [answer] = answered.json()["answers"]
    picture = read_picture(png)
    expected = explainer.attribute(explainer.prepare(picture)[None], "dots")[0]
    assert np.abs(np.array(answer["map"]["array"]) - expected.numpy()).max() < 2e-6
    assert np.abs(_map(answer) / 255 - expected.numpy()).max() <= 0.51 / 255
    assert (answer["class"], answer["index"]) == ("dots", 1)
    box = tight_box(expected, 0.4, (40, 48))
    assert answer["box"] == (None if box is None else list(box))
    assert answered.json()["size"] == {"width": 48, "height": 40}
    assert answered.json()["runner_up"] == answered.json()["top"][1]
    assert answer["area"] == pytest.approx(expected.mean().item(), abs=1e-5)
    assert answer["region_area"] == pytest.approx((expected >= 0.4).float().mean().item(), abs=1e-5)


def test_the_classes_seen_most_come_first_with_their_probabilities(call, explainer, png) -> None:
    record = call.explain(png, top="2").json()
    images = explainer.prepare(read_picture(png))[None]
    shares = explainer.estimate_logits(images).softmax(1)[0]
    order = shares.argsort(descending=True).tolist()
    assert [one["index"] for one in record["top"]] == order
    assert [one["index"] for one in record["answers"]] == order[:2]
    probabilities = [one["probability"] for one in record["top"]]
    assert probabilities == pytest.approx(shares[order].tolist(), abs=1e-5)
    assert "array" not in record["answers"][0]["map"]


def test_the_classifier_says_what_it_sees(serving, open_worker, tiny_run, tiny_card, png) -> None:
    record = serving(worker=open_worker(tiny_run, str(tiny_card))).explain(png).json()
    classifier = open_classifier(tiny_card)
    shares = classifier.predict_probabilities(classifier.prepare(read_picture(png))[None])[0]
    assert record["read_by"] == "classifier"
    assert record["top"][0]["index"] == int(shares.argmax())
    assert record["top"][0]["probability"] == pytest.approx(float(shares.max()), abs=1e-5)


def test_an_export_answers_as_its_run_does(
    serving, open_worker, respond, tiny_run, tiny_card, tiny_export, png
) -> None:
    worker = open_worker(tiny_export)
    call, served = serving(worker=open_worker(tiny_run, str(tiny_card))), serving(worker=worker)
    for fields in ({}, {"top": "3"}, {"target": ["rings", "0"]}):
        expected = call.explain(png, format="array", **fields).json()
        content = served.explain(png, format="array", **fields).json()
        assert len(content["answers"]) == len(expected["answers"])
        for one, other in zip(content["answers"], expected["answers"], strict=True):
            assert (one["index"], one["box"]) == (other["index"], other["box"])
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
            maps = (np.array(answer["map"]["array"]) for answer in (one, other))
            np.testing.assert_allclose(*maps, atol=1e-3)
    requests = [ExplainRequest(png, RequestOptions(top=n)) for n in (1, 2, 3)]
    response = respond(worker, requests)
    assert [len(json.loads(one.body)["answers"]) for one in response] == [1, 2, 3]


def test_several_targets_in_the_order_asked(call, png) -> None:
    record = call.explain(png, target=["rings", "0"]).json()
    assert [one["index"] for one in record["answers"]] == [2, 0]


def test_json_answers_as_a_form_does(call, png) -> None:
    body = {"image": base64.b64encode(png).decode(), "target": ["rings", 0], "format": "array"}
    by_json = call("POST", "/v1/explain", json=body).json()
    by_form = call.explain(png, target=["rings", "0"], format="array").json()
    assert by_json == by_form


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "npy", "DICOM", "FITS"])
def test_whatever_the_reader_reads(call, pixels, kind, tmp_path) -> None:
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, pixels)
    elif kind == "DICOM":
        buffer.write(_dicom(pixels))
    elif kind == "FITS":
        fits = pytest.importorskip("astropy.io.fits")
        fits.PrimaryHDU(pixels.transpose(2, 0, 1).astype("float32") / 255).writeto(buffer)
    else:
        Image.fromarray(pixels).save(buffer, kind)
    answered = call.explain(buffer.getvalue(), picture="true")
    assert answered.status_code == 200, answered.text
    picture = Image.open(io.BytesIO(base64.b64decode(answered.json()["picture"])))
    assert (picture.format, picture.size) == ("JPEG", (48, 40))


def _dicom(pixels: np.ndarray) -> bytes:
    pytest.importorskip("pydicom")
    from apercu.explain.files import build_secondary_capture
    from apercu.images.formats.dicom import DicomReference

    source = DicomReference("1.2", "1.2.840.10008.5.1.4.1.1.1", "1.2.3", None)
    return build_secondary_capture(Image.fromarray(pixels), source, "made for a test")


def test_requests_for_several_classes_share_a_batch(worker, respond, png, explainer) -> None:
    options = [
        RequestOptions(top=2),
        RequestOptions((1,)),
        RequestOptions(format=None),
        RequestOptions((2, 0), format="array"),
    ]
    requests = [ExplainRequest(png, one) for one in options]
    result = respond(worker, [*requests, ExplainRequest(b"no image")])
    assert [one.status for one in result] == [200, 200, 200, 200, 422]
    records = [json.loads(one.body) for one in result]
    assert [len(record.get("answers", ())) for record in records] == [2, 1, 0, 2, 0]
    image = explainer.prepare(read_picture(png))[None]
    expected = explainer.attribute_classes(image, torch.tensor([[2, 0]]))[0].numpy()
    got = np.array([one["map"]["array"] for one in records[3]["answers"]])
    assert np.abs(got - expected).max() < 1e-5


def test_kserve_predicts_and_explains(call, png, tiny_run) -> None:
    text = base64.b64encode(png).decode()
    body = {"instances": [{"b64": text}, {"image": {"b64": text}, "target": "rings"}]}
    model = f"/v1/models/{tiny_run.name}"
    predicted = call("POST", f"{model}:predict", json={"instances": [{"b64": text}]}).json()
    assert predicted["predictions"][0]["top"] == call.explain(png).json()["top"]
    assert "answers" not in predicted["predictions"][0]
    explained = call("POST", f"{model}:explain", json=body).json()["explanations"]
    assert [one["answers"][0]["index"] for one in explained][1] == 2
    assert call("GET", model).json()["classes"] == ["stripes, bands", "dots", "rings"]
    assert call("GET", "/v1/models").json() == {"models": [tiny_run.name]}


def test_counterparts_are_the_explainers_own(serving, tiny_pair, png) -> None:
    call = serving(worker=tiny_pair)
    explainer = tiny_pair.explainer.explainer
    classifier = tiny_pair.explainer.predictor.classifier
    images = explainer.prepare(read_picture(png))[None]
    logits = classifier(images)
    predicted, *others = logits[0].argsort(descending=True).tolist()
    record = call.explain(png, top="2", format="array").json()
    assert [one["index"] for one in record["answers"]] == others
    for answer in record["answers"]:
        pair = explainer.counterparts(images, answer["index"], logits=logits)
        assert np.abs(np.array(answer["map"]["array"]) - pair.maps[0].numpy()).max() < 1e-5
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["adversarial"])))) / 255
        expected = pair.adversarial[0].permute(1, 2, 0).clamp(0, 1).numpy()
        assert np.abs(picture - expected).max() <= 0.51 / 255
        shares = classifier(pair.strip[:, 0]).softmax(1)[:, answer["index"]]
        assert answer["probabilities"] == pytest.approx(shares.tolist(), abs=1e-5)
        assert answer["seen"] == explainer.classifier_info.classes[predicted]
        steps = classifier(pair.strip[:, 0]).argmax(1).tolist()
        assert answer["strip_classes"] == [explainer.classes[step] for step in steps]
        assert answer["kept"] is (steps[0] == predicted)
        assert answer["flipped"] is (steps[-1] == answer["index"])
        assert answer["largest_change"] == pytest.approx(pair.maps.max().item(), abs=1e-5)
    response = call.explain(png, target=str(predicted))
    assert response.status_code == 422
    name = explainer.classifier_info.classes[predicted]
    words = f"target: the predicted class is {name} already; choose another class"
    assert response.json()["detail"] == words
    response = call.explain(png, level="0.3")
    assert response.status_code == 422
    assert "only masks have a level" in response.json()["detail"]


@pytest.fixture(scope="module")
def guarded(tiny_run, tiny_card, tiny_guard) -> ImageWorker:
    """A worker whose predictions a guard judges."""
    setup = WorkerSetup(tiny_run, str(tiny_card), 1_000_000, guard=str(tiny_guard))
    return ImageWorker(open_explainer(setup), setup.max_pixels)


def test_with_a_guard_each_response_says_whether_to_believe_it(
    serving, guarded, png, tiny_run, tiny_card, tiny_guard
) -> None:
    call = serving(worker=guarded)
    guard = apercu.load_guard(tiny_guard, tiny_card, tiny_run)
    image = guard.observer.classifier.prepare(read_picture(png))[None]
    expected = guard.check(image)[0].to_record()
    top = call.explain(png).json()["top"]
    for options in ({}, {"top": "3"}, {"target": str(top[-1]["index"])}):
        trust = call.explain(png, **options).json()["trust"]
        assert trust["alarms"] == expected["alarms"] and trust["why"] == expected["why"]
        for name in ("tampered", "unknown", "confidence"):
            assert trust[name] == pytest.approx(expected[name], abs=1e-3)
    name = guarded.explainer.served.name
    body = {"instances": [{"image": {"b64": base64.b64encode(png).decode()}}]}
    (predicted,) = call("POST", f"/v1/models/{name}:predict", json=body).json()["predictions"]
    assert predicted["trust"]["why"] == expected["why"]


def test_an_image_that_cannot_be_judged_is_answered_and_a_wrong_one_stays_an_error(
    serving, guarded, png, monkeypatch
) -> None:
    call = serving(worker=guarded)
    signal = guarded.explainer.engine.guard.network.signals[0]
    monkeypatch.setattr(signal, "mean", signal.mean * float("nan"))
    answered = call.explain(png)
    assert answered.status_code == 200
    assert answered.json()["trust"] == {
        **dict.fromkeys(("tampered", "unknown", "confidence")),
        "alarms": [],
        "why": CANNOT_JUDGE,
    }
    refused = call.explain(b"no picture")
    assert refused.status_code == 422 and "trust" not in refused.json()


def test_without_a_guard_nothing_is_said_of_trust(call, png) -> None:
    assert "trust" not in call.explain(png).json()


def test_a_card_brings_its_guard_to_the_server(serving, guarded_card, tiny_run, png) -> None:
    setup = WorkerSetup(tiny_run, str(guarded_card), 1_000_000)
    call = serving(worker=ImageWorker(open_explainer(setup), 1_000_000))
    assert call.explain(png).json()["trust"]["why"]
    setup = WorkerSetup(guarded_card, None, 1_000_000)  # a method explains
    call = serving(worker=ImageWorker(open_explainer(setup), 1_000_000))
    assert call.explain(png).json()["trust"]["why"]
    setup = WorkerSetup(guarded_card, None, 1_000_000, guard="none")
    call = serving(worker=ImageWorker(open_explainer(setup), 1_000_000))
    assert "trust" not in call.explain(png).json()


def test_a_guard_that_is_not_that_of_the_server_is_refused(
    tiny_run, tiny_card, tiny_guard, tiny_export
) -> None:
    with pytest.raises(ConfigError, match="give --classifier SPEC"):
        open_explainer(WorkerSetup(tiny_run, guard=str(tiny_guard)))
    with pytest.raises(RunError, match="was fitted with an explainer"):
        open_explainer(WorkerSetup(tiny_card, guard=str(tiny_guard)))
    with pytest.raises(ConfigError, match="is an export, which holds its guard"):
        open_explainer(WorkerSetup(tiny_export, guard=str(tiny_guard)))
    with pytest.raises(RunError, match=r"expected a guard, found no guard\.json"):
        open_explainer(WorkerSetup(tiny_run, str(tiny_card), guard=str(tiny_run)))
