"""Classifiers of transformers from local folders, with small random networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from apercu import make_card, open_classifier
from apercu.classifiers import save_classifier
from apercu.classifiers.sources.hf import read_processor
from apercu.errors import ClassifierError, MissingExtraError, UntrustedError
from apercu.log import redirect_warnings
from apercu.methods import Gradient
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder

transformers = pytest.importorskip("transformers")

MEAN, STD = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]
NAMES = {0: "cat, house cat", 1: "dog", 2: "cow's"}
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 32,
        "patch_size": 8,
    },
    "resnet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 8],
        "depths": [1, 1],
        "layer_type": "basic",
    },
    "swin": {
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 2,
        "image_size": 32,
    },
    "convnext": {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2},
    "dinov2": {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    },
}


def _write(folder: Path, family: str = "vit", processor: Any = None, **changes: Any) -> Any:
    """Write a network with random weights and its image processor; return the network."""
    config = transformers.AutoConfig.for_model(
        family, **FAMILIES[family], id2label=NAMES, label2id={v: k for k, v in NAMES.items()}
    )
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForImageClassification.from_config(config)
    model.eval().save_pretrained(folder)
    if processor is None:
        processor = transformers.ViTImageProcessor(
            size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD
        )
    processor.save_pretrained(folder)
    return model


def _picture(side: int = 32) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _as_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture) / 255).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    model = _write(tmp_path, family)
    classifier = open_classifier(f"hf/{tmp_path}")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    values = processor(images=_picture(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixel_values=values).logits
        torch.testing.assert_close(
            classifier(_as_tensor(_picture())), expected, atol=1e-4, rtol=1e-4
        )
    assert classifier.classes == ("cat, house cat", "dog", "cow's")
    spec = classifier.network.input
    assert (spec.size, spec.mean, spec.std) == ((32, 32), tuple(MEAN), tuple(STD))
    assert classifier.differentiable and classifier.exposes_layers
    assert Gradient()(classifier, _as_tensor(_picture())).any()


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_a_saved_classifier_needs_no_folder(tmp_path: Path, family: str) -> None:
    _write(tmp_path / "hub", family)
    classifier = open_classifier(f"hf/{tmp_path / 'hub'}")
    card = save_classifier(classifier, tmp_path / "saved")
    (tmp_path / "hub").rename(tmp_path / "elsewhere")
    again = open_classifier(card)
    assert again.fingerprint == classifier.fingerprint
    assert again.classes == classifier.classes
    images = _as_tensor(_picture())
    torch.testing.assert_close(again(images), classifier(images))
    moved = open_classifier(f"hf/{tmp_path / 'elsewhere'}")
    assert moved.fingerprint == classifier.fingerprint


def _processors() -> dict[str, tuple[Any, tuple[int, int], int | None]]:
    """Image processors, the size that they make and the short side before the crop."""
    common = {"image_mean": MEAN, "image_std": STD}
    clip = transformers.CLIPImageProcessor
    return {
        "crop": (
            clip(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, **common),
            (32, 32),
            40,
        ),
        "percent": (
            transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8, **common),
            (32, 32),
            40,
        ),
        "oblong": (
            transformers.ViTImageProcessor(size={"height": 24, "width": 32}, **common),
            (24, 32),
            None,
        ),
        "signed": (
            transformers.ViTImageProcessor(
                size={"height": 32, "width": 32},
                do_rescale=True,
                rescale_factor=1 / 127.5,
                image_mean=[1, 1, 1],
                image_std=[1, 1, 1],
            ),
            (32, 32),
            None,
        ),
        "unscaled": (
            transformers.ViTImageProcessor(
                size={"height": 32, "width": 32}, do_rescale=False, do_normalize=False
            ),
            (32, 32),
            None,
        ),
        "blue": (
            transformers.MobileViTImageProcessor(
                size={"shortest_edge": 36},
                crop_size={"height": 32, "width": 32},
                do_flip_channel_order=True,
            ),
            (32, 32),
            36,
        ),
    }


@pytest.mark.parametrize("name", ["crop", "percent", "oblong", "signed", "unscaled", "blue"])
def test_the_input_is_what_the_image_processor_does(tmp_path: Path, name: str) -> None:
    processor, size, resize = _processors()[name]
    model = _write(tmp_path, "resnet", processor)
    classifier = open_classifier(f"hf/{tmp_path}")
    assert (classifier.size, classifier.resize) == (size, resize)
    colours = {"red": (255, 0, 0), "grey": (90, 90, 90), "other": (10, 200, 90)}
    for colour in colours.values():  # of one colour, so that resizing makes no difference
        picture = Image.new("RGB", (50, 50), colour)
        values = processor(images=picture, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            expected = model(pixel_values=values.float()).logits
        images = classifier.prepare(_as_tensor(picture)[0])[None]
        torch.testing.assert_close(classifier(images), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (438, 384), (255, 224), (97, 96), (9, 8)])
def test_the_short_side_is_exact(tmp_path: Path, resize: int, crop: int) -> None:
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": resize}, crop_size={"height": crop, "width": crop}
    )
    processor.save_pretrained(tmp_path)
    location = {"pretrained_model_name_or_path": str(tmp_path)}
    spec, _ = read_processor(location, "hf/x", transformers.ResNetConfig())
    assert (spec.size, spec.resize) == ((crop, crop), resize)


@pytest.mark.parametrize(
    ("family", "changes", "match"),
    [
        ("resnet", {"do_resize": False, "do_center_crop": False}, "does not resize images to one"),
        ("resnet", {"do_resize": False, "do_center_crop": True}, "crops"),
        ("vit", {"do_resize": False, "do_center_crop": False}, None),
    ],
)
def test_a_processor_that_keeps_the_size_of_an_image(
    tmp_path: Path, family: str, changes: dict[str, Any], match: str | None
) -> None:
    sides = {"height": 300, "width": 300}
    _write(tmp_path, family, transformers.CLIPImageProcessor(crop_size=sides, **changes))
    if match is None:  # the configuration of the model says the size
        assert open_classifier(f"hf/{tmp_path}").size == (32, 32)
        return
    with pytest.raises(ClassifierError, match=f"{match}.*write a card with `input`"):
        open_classifier(f"hf/{tmp_path}")


def test_weights_that_are_missing_are_not_random(tmp_path: Path) -> None:
    _write(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in [name for name in weights if "classifier" in name]:
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    match = "2 of its weights are missing and would be random: classifier"
    with pytest.raises(ClassifierError, match=match):
        open_classifier(f"hf/{tmp_path}")


def test_pickles_are_not_read(tmp_path: Path) -> None:
    _write(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ClassifierError, match="safetensors"):
        open_classifier(f"hf/{tmp_path}")


def test_code_of_a_folder_is_not_run(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('code was run')\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClassifierError, match=r"^classifier hf/.*code"):
        open_classifier(f"hf/{tmp_path}")


def test_problem_types(tmp_path: Path) -> None:
    _write(tmp_path, problem_type="multi_label_classification")
    assert open_classifier(f"hf/{tmp_path}").network.output == "sigmoid"
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"source": "hf/.", "output": "logits"}))
    saved = save_classifier(open_classifier(card), tmp_path / "saved")
    assert open_classifier(saved).output.name == "logits"


@pytest.mark.parametrize(
    ("problem_type", "labels", "output"),
    [
        ("multi_label_classification", NAMES, "sigmoid"),
        ("regression", {0: "age"}, "value"),
        ("single_label_classification", NAMES, "logits"),
        (None, NAMES, "logits"),
    ],
)
def test_a_model_in_memory_is_read_as_its_folder(
    tmp_path: Path, problem_type: str | None, labels: dict[int, str], output: str
) -> None:
    changes = {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}
    model = _write(tmp_path, problem_type=problem_type, **changes)
    given = {"size": 32, "mean": MEAN, "std": STD}
    from_folder, in_memory = open_classifier(f"hf/{tmp_path}"), open_classifier(model, **given)
    images = _as_tensor(_picture())
    assert from_folder.output.name == in_memory.output.name == output
    assert from_folder.decision == in_memory.decision
    torch.testing.assert_close(in_memory(images), from_folder(images))
    if len(labels) > 1:
        assert open_classifier(model, output="logits", **given).output.name == "logits"
        model.output = "sigmoid"
        assert open_classifier(model, **given).output.name == "sigmoid"


def test_folders_that_hold_no_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClassifierError, match="no such folder"):
        open_classifier(f"hf/{tmp_path / 'nowhere'}")
    with pytest.raises(ClassifierError, match=r"holds no config\.json"):
        open_classifier(f"hf/{tmp_path}")
    _write(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ClassifierError, match="write a card with `input`"):
        open_classifier(f"hf/{tmp_path}")
    monkeypatch.setattr("apercu.classifiers.sources.hf.is_reachable", lambda url: False)
    with pytest.raises(ClassifierError, match="the hub cannot be reached"):
        open_classifier("hf/google/vit-that-is-not-here")
    monkeypatch.setattr("apercu.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'apercu\[hf\]'"):
        open_classifier(f"hf/{tmp_path}")


def test_the_card_of_a_model_opens_again(tmp_path: Path) -> None:
    _write(tmp_path / "model")
    path = tmp_path / "card.json"
    make_card(f"hf/{tmp_path / 'model'}").write(path)
    fingerprint = open_classifier(f"hf/{tmp_path / 'model'}").fingerprint
    assert open_classifier(path).fingerprint == fingerprint
    content = json.loads(path.read_text())
    content["options"]["config"]["hidden_size"] = 16
    path.write_text(json.dumps(content))
    with pytest.raises(ClassifierError, match="is not the configuration of the model"):
        open_classifier(path)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "no such"},
        {"model_type": 3},
        {},
        {"model_type": "vit", "hidden_size": "wide"},
        {"model_type": "vit", "num_attention_heads": 0},
        {"model_type": "vit", "hidden_size": 7, "num_attention_heads": 2},
        {"model_type": "vit", "patch_size": 0},
        {"model_type": "vit", "hidden_act": "no such"},
        {"model_type": "vit", "num_hidden_layers": None},
        {"model_type": "vit", "image_size": [1]},
        {"model_type": "convnext", "depths": []},
        {"model_type": "resnet", "depths": [1, 1], "hidden_sizes": [4]},
        {"model_type": "swin", "depths": 3},
        {"model_type": "bert"},
    ],
)
def test_configurations_that_do_not_fit(config: dict[str, Any], tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "w.safetensors")
    content = {"source": "hf/x", "options": {"config": config}, "weights": "w.safetensors"}
    card = tmp_path / "card.json"
    card.write_text(json.dumps({**content, "input": {"size": 32}}))
    built = r"classifier hf/x: .+; options\.config of its card describes no such model$"
    with pytest.raises(ClassifierError, match=rf"^({built}|weights .*w\.safetensors: )"):
        open_classifier(card)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_std": [-1, -1, -1]},
        {"image_std": [0, 0, 0]},
        {"rescale_factor": 0},
        {"size": {"height": 0, "width": 0}},
        {"size": {"height": 9000, "width": 8}},
        {"size": 3.5},
        {"image_processor_type": "no such"},
        {"resample": 99},
    ],
)
def test_image_processors_that_do_not_fit(changes: dict[str, Any], tmp_path: Path) -> None:
    _write(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ClassifierError, match="classifier hf/"):
        open_classifier(f"hf/{tmp_path}")


@pytest.mark.parametrize("missing", ["text_config", "vision_model"])
def test_models_that_are_half_zero_shot(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As models of images and texts that call their parts otherwise."""
    from apercu.classifiers.sources import clip

    _write_clip(tmp_path)
    load = clip.load_model

    def load_half(*arguments: Any) -> Any:
        model = load(*arguments)
        delattr(model if missing == "vision_model" else model.config, missing)
        return model

    monkeypatch.setattr(clip, "load_model", load_half)
    with pytest.raises(ClassifierError, match=r"model of images and texts|tokeniser"):
        open_classifier(f"clip/{tmp_path}?texts=a,b")


def test_weights_of_a_folder_that_are_damaged(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ClassifierError, match=r"classifier hf/.*: "):
        open_classifier(f"hf/{tmp_path}")


def test_a_card_names_a_folder_beside_it(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    _write(tmp_path / "cards" / "model")
    _write(tmp_path / "outside")
    card = tmp_path / "cards" / "card.json"
    card.write_text(json.dumps({"source": "hf/model", "classes": ["a", "b", "c"]}))
    assert open_classifier(card).classes == ("a", "b", "c")
    card.write_text(json.dumps({"source": "hf/../outside"}))
    with pytest.raises(UntrustedError, match="leads out of the folder"):
        open_classifier(card)


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _write_clip(folder: Path, family: str = "clip") -> Any:
    """Write a CLIP with random weights, its image processor and a tokeniser of letters."""
    folder.mkdir(exist_ok=True)
    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    words = [*vocabulary, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    layers = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    config = transformers.AutoConfig.for_model(
        family,
        text_config=dict(
            **layers, **ends, vocab_size=54, max_position_embeddings=20, projection_size=8
        ),
        vision_config=dict(**layers, image_size=32, patch_size=8),
        **({"projection_dim": 6} if family == "clip" else {}),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config)
    model.eval().save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=MEAN,
        image_std=STD,
    ).save_pretrained(folder)
    return model, tokenizer


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_zero_shot_logits_are_those_of_the_whole_model(tmp_path: Path, family: str) -> None:
    model, tokenizer = _write_clip(tmp_path / "model", family)
    spec = f"clip/{tmp_path / 'model'}?texts=cat,a big dog&template=see {{}} here"
    with redirect_warnings(lambda line: None):
        classifier = open_classifier(spec)
    texts = ["see cat here", "see a big dog here"]
    tokens = tokenizer(texts, padding="max_length", max_length=20, return_tensors="pt")
    images = _as_tensor(_picture())
    with torch.no_grad():
        values = classifier.normalise(images)
        expected = model(pixel_values=values, **tokens).logits_per_image
    torch.testing.assert_close(classifier(images), expected, atol=1e-4, rtol=1e-4)
    assert classifier.classes == ("cat", "a big dog")
    assert classifier.network.output == ("logits" if family == "clip" else "sigmoid")
    assert Gradient()(classifier, images).any()
    again = open_classifier(save_classifier(classifier, tmp_path / "saved"))
    torch.testing.assert_close(again(images), classifier(images))
    assert (again.fingerprint, again.classes) == (classifier.fingerprint, classifier.classes)


def test_texts_of_a_zero_shot_classifier(tmp_path: Path) -> None:
    _write_clip(tmp_path / "model")
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"source": "clip/model", "classes": ["cat", "dog"]}))
    by_card = open_classifier(card)
    by_spec = open_classifier(f"clip/{tmp_path / 'model'}?texts=cat,dog")
    assert by_card.fingerprint == by_spec.fingerprint
    for query, match in {
        "": "expected two or more texts, one per class: clip/NAME",
        "?texts=cat": "expected two or more texts",
        "?text=cat,dog": "after the question mark, got text; did you mean texts",
        "?texts=cat,dog&template=a photo": "expected a template with {}",
        f"?texts=cat,{LETTERS}": "expected texts of at most 20 tokens, got 28",
    }.items():
        with pytest.raises(ClassifierError, match=match):
            open_classifier(f"clip/{tmp_path / 'model'}{query}")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_transformers_is_its_own_encoder(tmp_path: Path, family: str) -> None:
    _write(tmp_path, family)
    classifier = open_classifier(f"hf/{tmp_path}")
    encoder = GraphEncoder(classifier)
    images = _as_tensor(_picture())
    with torch.no_grad():
        logits, maps = EncoderWithHead(encoder)(images)
        torch.testing.assert_close(logits, classifier(images), atol=1e-4, rtol=1e-4)
    for features, stride, channels in zip(maps, encoder.strides, encoder.channels, strict=True):
        assert features.shape == (1, channels, 32 // stride, 32 // stride)
    if family == "vit":  # where the image changes, the tokens change most
        changed = images.clone()
        changed[:, :, :16, 16:] = 1 - changed[:, :, :16, 16:]
        with torch.no_grad():
            first = classifier.module.forward_intermediates(classifier.normalise(images), [0])[1]  # type: ignore[union-attr, operator]
            second = classifier.module.forward_intermediates(classifier.normalise(changed), [0])[1]  # type: ignore[union-attr, operator]
        moved = (first[0] - second[0]).abs().sum(1)[0] > 1e-6
        assert moved[:2, 2:].all() and not moved[2:].any() and not moved[:, :2].any()
