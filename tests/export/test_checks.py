"""A graph that answers otherwise is refused; a jump of the map is no difference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from apercu.classifiers import InputSpec
from apercu.deploy.export import ExportSettings, read_manifest, write_export
from apercu.deploy.export.checks import BATCH_SIZES, make_class_trials, make_trials
from apercu.deploy.export.checks import check_outputs as compare
from apercu.deploy.export.manifest import digest_run
from apercu.deploy.export.settings import ImageSubset
from apercu.deploy.export.tracing import (
    Traceable,
    describe_trace_failure,
    open_session,
    run_session,
    write_onnx,
)
from apercu.errors import ApercuError, ConfigError, ImageError, RunError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.images import open_images
from apercu.types import Images

PLANTED = "planted:size=32,images=12,classes=3,difficulty=0"


def maps(values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"maps": values}


def asked(batch: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return [(images, torch.zeros(batch, dtype=torch.long))]


def test_the_largest_difference_is_told() -> None:
    def off(images: Images, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        moved = images.mean(1)
        moved[1, 2, 3] += 5e-4
        return maps(moved)

    result = compare(off, lambda images, targets: maps(images.mean(1)), asked())
    assert result.difference == pytest.approx(5e-4, rel=1e-3)
    assert (result.images, result.jumps) == (2, 0)


@pytest.mark.parametrize("wrong", [2e-3, np.nan])
def test_a_graph_that_answers_otherwise_is_refused(wrong: float) -> None:
    def off(images: Images, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        moved = images.mean(1)
        moved[0, 0, 0] += wrong
        return maps(moved)

    with pytest.raises(ApercuError, match=r"maps differ from PyTorch's by .* at most 0\.001"):
        compare(off, lambda images, targets: maps(images.mean(1)), asked())


@pytest.mark.parametrize(
    ("steepness", "advice"), [(40, "train on"), (1, "try other versions of onnxscript")]
)
def test_maps_that_change_at_the_least_noise_need_more_training(
    steepness: float, advice: str
) -> None:
    def steep(images: Images, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return maps(steepness * images.mean(1))

    def off(images: Images, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return maps(steepness * images.mean(1) + 1.5e-3)

    with pytest.raises(ApercuError, match=f"nothing was exported, .*{advice}"):
        compare(off, steep, asked())


def test_large_signals_of_a_guard_are_compared_by_their_size() -> None:
    """Also where noise moves them, which is no jump at their size."""

    def judge(images: Images, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"trust": 1000 * images.mean((2, 3))}

    def judge_by(factor: float) -> Callable[..., dict[str, torch.Tensor]]:
        return lambda images, targets: {"trust": factor * judge(images, targets)["trust"]}

    result = compare(judge_by(1 + 5e-4), judge, asked())
    assert result.difference == pytest.approx(5e-4, rel=1e-2) and result.jumps == 0
    match = "trust differ from PyTorch's by 0.005, .* train the explainer on .*; else try other"
    with pytest.raises(ApercuError, match=match):
        compare(judge_by(1.005), judge, asked())


def test_a_jump_of_the_map_is_left_out_and_counted() -> None:
    images = torch.full((1, 3, 2, 2), 0.2)
    images[0, :, 0, 0] = 0.5  # exactly on the edge

    def jumping(images: Images, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return maps((images.mean(1) >= 0.5).float())

    def other(images: Images, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return maps((images.mean(1) > 0.5).float())

    result = compare(other, jumping, [(images, torch.zeros(1, dtype=torch.long))])
    assert (result.difference, result.jumps) == (0, 1)


def test_trials_are_of_several_sizes_and_all_kinds_of_targets() -> None:
    real = torch.rand(4, 3, 8, 8)
    result = list(make_trials((3, 8, 8), 5, real))
    assert [len(images) for images, _ in result] == [*BATCH_SIZES, 1, 4, 4]
    targets = torch.cat([some for _, some in result])
    assert targets.min() == -1 and 0 < targets.max() < 5
    assert torch.equal(result[-1][0], real)


def test_many_classes_are_asked_of_single_images() -> None:
    result = list(make_class_trials(make_trials((3, 8, 8), 5), 5))
    assert {len(images) for images, _ in result} == {1}
    assert {1, 2, 3, 4, 5, 7} == {len(targets) for _, targets in result}


def test_a_run_whose_graph_differs_is_not_exported(
    light, copy_graphs, tmp_path, monkeypatch
) -> None:
    exact = Traceable.__call__

    def moved(self: Traceable, images: torch.Tensor, targets: torch.Tensor) -> object:
        return {name: values + 0.01 for name, values in exact(self, images, targets).items()}

    monkeypatch.setattr(Traceable, "__call__", moved)
    with copy_graphs(light[1]), pytest.raises(ApercuError, match="nothing was exported"):
        write_export(light[0], tmp_path, ExportSettings(combined=False))
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_traced_is_one_line(explainer_of, tmp_path, monkeypatch) -> None:
    explainer = explainer_of("mask", "light")

    def refusing(features: object, targets: object) -> None:
        raise RuntimeError("no way\nin many lines")

    monkeypatch.setattr(explainer.network, "decode", refusing)
    with pytest.raises(ConfigError, match="cannot be traced"):
        write_export(explainer, tmp_path, ExportSettings(combined=False))


class _Fixed(torch.nn.Module):
    """Takes as many images as it was shown."""

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor]:
        first, second = images.mean(1).unbind(0)
        return (torch.stack([first, second]) + targets[:, None, None],)


def test_a_graph_of_a_fixed_batch_is_refused(tmp_path) -> None:
    traceable = Traceable.for_images(_Fixed(), ("maps",), InputSpec(size=(8, 8)))
    with pytest.raises(ConfigError, match="cannot be traced"):
        write_onnx(traceable, tmp_path / "fixed.onnx")


def test_settings_are_checked(shapes_unchecked) -> None:
    with pytest.raises(ConfigError, match=r"format: expected .* got onx; did you mean onnx"):
        ExportSettings(("onx",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"precision: expected one of .* got fp61"):
        ExportSettings(precision="fp61")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="limit: expected at least 2"):
        ExportSettings(limit=1)
    assert ExportSettings(("kserve",)).triton and not ExportSettings(("torch",)).triton


def test_lower_precision_needs_images(explainer_of, tmp_path) -> None:
    from apercu.deploy.export.settings import ExportInputs

    explainer = explainer_of("mask", "light")
    with pytest.raises(ConfigError, match="what int8 loses is measured; give --images"):
        write_export(explainer, tmp_path, ExportSettings(precision="int8"))
    images = open_images(PLANTED)
    with pytest.raises(ConfigError, match="give --calibrate"):
        write_export(
            explainer,
            tmp_path,
            ExportSettings(precision="int8-static"),
            ExportInputs(images=images),
        )
    with pytest.raises(ConfigError, match="calibrate: fp32 learns nothing from images"):
        write_export(explainer, tmp_path, ExportSettings(), ExportInputs(calibration=images))
    with pytest.raises(ConfigError, match="limit: there are no images"):
        write_export(explainer, tmp_path, ExportSettings(limit=4))


def test_images_are_drawn_and_unreadable_ones_left_out(classifier, tmp_path) -> None:
    from PIL import Image

    passport = ClassifierInfo.from_classifier(classifier)
    inputs = ImageSubset(open_images(PLANTED), 5, 0)
    assert sum(map(len, inputs.iterate_batches(passport))) == 5
    assert inputs.has_boxes
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
    half = ImageSubset(open_images(tmp_path), None, 0)
    assert sum(map(len, half.iterate_batches(passport))) == 1
    (tmp_path / "good.png").unlink()
    with pytest.raises(ImageError, match="not an image"):
        list(ImageSubset(open_images(tmp_path), None, 0).iterate_batches(passport))


def test_the_manifest_tells_what_was_exported(light, classifier) -> None:
    explainer, folder = light
    result = read_manifest(folder)
    assert (result.kind, result.precision) == ("mask", "fp32")
    assert result.files["explainer"].loss is None
    assert result.fingerprint == classifier.fingerprint
    assert (result.input.channels, result.input.size, result.input.range) == (3, (32, 32), "unit")
    assert result.classes == classifier.classes
    assert set(result.files) == {"explainer", "combined", "classes", "program"}
    assert result.files["combined"].outputs == {"probabilities": (3,), "maps": (32, 32)}
    assert all(0 <= file.difference <= 1e-3 for file in result.files.values())
    assert result.files["explainer"].images == sum(BATCH_SIZES) + 1
    assert result.run == digest_run(explainer)


def test_the_digest_of_a_run_depends_on_its_weights(explainer_of) -> None:
    one, other = explainer_of("mask", "light"), explainer_of("mask", "light")
    assert digest_run(one) == digest_run(other)
    other.network.gate.bias.data[0] += 1
    assert digest_run(one) != digest_run(other)


def test_a_missing_or_damaged_manifest_is_one_line(tmp_path) -> None:
    with pytest.raises(RunError, match=r"expected an export, found no explainer\.json"):
        read_manifest(tmp_path)
    (tmp_path / "explainer.json").write_text("{}")
    with pytest.raises(RunError, match="damaged; export the run again"):
        read_manifest(tmp_path)


def test_a_trace_that_fails_names_its_first_cause() -> None:
    error = RuntimeError("\x1b[96mstep 3/3\x1b[0m failed")
    error.__cause__ = ValueError("\n\x1b[1mno function for unfold\x1b[0m\nmore")
    line = str(describe_trace_failure(error))
    assert line.startswith("export: the network cannot be traced (no function for unfold); train")


class _Windows(torch.nn.Module):
    """Attention inside of windows, with five axes."""

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor]:
        windows = images.unflatten(2, (2, 4)).movedim(2, 1)
        mask = torch.eye(4)
        attended = F.scaled_dot_product_attention(windows, windows, windows, attn_mask=mask)
        return (attended.mean(2) + targets[:, None, None, None],)


def test_attention_with_five_axes_is_exported(tmp_path, capfd) -> None:
    traceable = Traceable.for_images(_Windows(), ("maps",), InputSpec(size=(8, 8)))
    session = open_session(write_onnx(traceable, tmp_path / "windows.onnx"))
    assert capfd.readouterr() == ("", "")
    images, targets = torch.rand(3, 3, 8, 8), torch.arange(3)
    expected = traceable(images, targets)["maps"]
    torch.testing.assert_close(run_session(session, images, targets)["maps"], expected)
