"""Methods from outside the package: how they are named and checked, and when they are new."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import apercu.methods
from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods import Augmented, Gradient, Method, Requirement, Smoothed, TrueBox
from apercu.methods.own import FunctionExplainer, adopt
from apercu.methods.registry import adopt_methods, apply_seed, parse_methods

NUMBERS = count()
HEAD = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from apercu.methods import Method
"""
NEGATIVE = """
@dataclass(frozen=True)
class MyNegative(Method):
    needs: ClassVar = ()
    power: float = 1.0
    seed: int = 0

    def compute_maps(self, classifier, images, targets):
        return (1 - images.mean(dim=1)) ** self.power

def my_map(classifier, images, targets, gain: float = 1.0):
    return gain * images.mean(dim=1)

constant = MyNegative(power=2.0)
"""

Writer = Callable[..., str]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    """Writes a module into the working directory, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str | None = None, head: str = HEAD) -> str:
        name = name or f"own_module_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(head + text)
        return name

    return write


def test_a_class_of_a_module_is_named_by_itself(write_module: Writer) -> None:
    module = write_module(NEGATIVE)
    images = torch.rand(2, 3, 8, 8)
    text = f"{module}:MyNegative:power=3,seed=2,gradient,{module}:my_map,{module}.py:constant"
    methods = parse_methods(text)
    assert list(methods) == ["my_negative:power=3,seed=2", "gradient", "my_map", "constant"]
    maps = methods["my_negative:power=3,seed=2"].compute_maps(None, images, None)  # type: ignore
    torch.testing.assert_close(maps, (1 - images.mean(1)) ** 3)
    assert (
        apercu.methods.get(f"{module}:MyNegative:power=3,seed=2")
        == methods["my_negative:power=3,seed=2"]
    )
    assert isinstance(methods["my_map"], FunctionExplainer)


def test_wrappers_settings_and_the_seed_reach_own_methods(write_module: Writer) -> None:
    module = write_module(NEGATIVE)
    text = f"{module}:MyNegative:smoothed=0.05,{module}:MyNegative:seed=3,augmented=2"
    methods = apply_seed(parse_methods(text), 7)
    assert list(methods) == ["my_negative:smoothed=0.05", "my_negative:seed=3,augmented=2"]
    smoothed, augmented = methods.values()
    assert isinstance(smoothed, Smoothed) and isinstance(augmented, Augmented)
    assert (smoothed.method.seed, augmented.method.seed) == (7, 3)  # type: ignore[attr-defined]
    gained = parse_methods(f"{module}:my_map:gain=3")["my_map:gain=3"]
    assert isinstance(gained, FunctionExplainer) and gained.function.keywords == {"gain": 3.0}  # type: ignore[attr-defined]


def test_a_name_that_another_row_has_begins_with_the_module(write_module: Writer) -> None:
    text = "@dataclass(frozen=True)\nclass Gradient(Method):\n    needs: ClassVar = ()\n"
    text += (
        "    def compute_maps(self, classifier, images, targets):\n        return images[:, 0]\n"
    )
    first, second = write_module(text), write_module(NEGATIVE)
    other = write_module(NEGATIVE)
    typed = f"{first}:Gradient,gradient,{second}:my_map,{other}.py:my_map"
    assert list(parse_methods(typed)) == [
        f"{first}.gradient",
        "gradient",
        "my_map",
        f"{other}.my_map",
    ]


def test_a_file_in_another_folder_is_imported(write_module: Writer, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    module = write_module(NEGATIVE, f"sub/own_module_{next(NUMBERS)}")
    assert list(parse_methods(f"{module}.py:MyNegative")) == ["my_negative"]
    assert list(parse_methods(f"{tmp_path}/{module}.py:MyNegative")) == ["my_negative"]


def test_the_identity_changes_with_the_source_and_with_what_it_imports(
    write_module: Writer,
) -> None:
    def make(text: str, name: str) -> Any:
        sys.modules.pop(name, None)
        write_module(text, name)
        return parse_methods(f"{name}:MyNegative")["my_negative"]

    name, part = (f"own_module_{next(NUMBERS)}" for _ in range(2))
    write_module("def f(x):\n    return x\n", part)
    text = f"import {part}\n" + NEGATIVE
    first = make(text, name).cache_key
    assert first.startswith("MyNegative(power=1.0, seed=0) of ")
    assert make(text, name).cache_key == first
    assert make(text + "# changed\n", name).cache_key != first
    write_module("def f(x):\n    return 2 * x\n", part)
    assert make(text, name).cache_key != first
    wrapped = Smoothed(make(text, name)).cache_key
    assert make(text, name).cache_key in wrapped
    assert Smoothed(Gradient()).cache_key == repr(Smoothed(Gradient()))


@dataclass(frozen=True)
class Weighted(Method):
    needs: ClassVar[tuple[Requirement, ...]] = ("queries",)
    map_scale: ClassVar[Any] = "mask"
    weights: Tensor = field(default_factory=lambda: torch.ones(1))

    def compute_maps(self, classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
        return images.mean(dim=1) * self.weights


def brightness(classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
    return images.mean(1)


def test_what_cannot_be_known_is_never_taken_for_the_same() -> None:
    @dataclass(frozen=True)
    class Local(Method):
        needs: ClassVar[tuple[Requirement, ...]] = ()

        def compute_maps(self, classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
            return images.mean(dim=1)

    for given in (Weighted(), Local(), Smoothed(Weighted()), brightness):
        first, second = adopt(given, "x"), adopt(given, "x")
        assert isinstance(first, FunctionExplainer) and first.cache_key != second.cache_key
    kept = adopt(Weighted(), "x")
    assert (kept.map_scale, kept.needs) == ("mask", ("queries",))


def test_classes_objects_and_functions_name_their_rows() -> None:
    given = [apercu.methods.Rise, apercu.methods.Rise(masks=9), "grad_cam,rise:masks=5"]
    given += [Smoothed(Gradient(), 0.05), brightness, Weighted, partial(brightness)]  # type: ignore[list-item]
    adopted = adopt_methods(given[:-1], {"mine": Gradient()}, 7)
    assert list(adopted) == [
        *("mine", "rise", "rise:masks=9", "grad_cam", "rise:masks=5"),
        *("gradient:smoothed=0.05", "brightness", "weighted"),
    ]
    assert [adopted[name].seed for name in ("rise", "rise:masks=9")] == [7, 0]  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="methods: two are called brightness; give them names"):
        adopt_methods(given, {}, 0)


BROKEN = """
class Plain: pass

class NoNeeds(Method):
    def compute_maps(self, classifier, images, targets): return images[:, 0]

class Lacking(Method):
    needs = ()

class Odd(NoNeeds):
    needs = ("gradient",)

class Bigger(NoNeeds):
    needs = ()
    map_scale = "maps"

class Short(Method):
    needs = ()
    def compute_maps(self, images): return images[:, 0]

class Needy(NoNeeds):
    needs = ()
    def __init__(self, layer): self.layer = layer

class Untyped(NoNeeds):
    needs = ()
    def __init__(self, sigma=1): self.sigma = sigma

def short(images): return images[:, 0]

number = 3
"""


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("Plain", "the class Plain is no method; expected a subclass of apercu.methods.Method"),
        ("NoNeeds", r"expected NoNeeds.needs to be a tuple of some of gradients, .*, got None"),
        ("Lacking", "the class Lacking lacks compute_maps, which a method has"),
        ("Odd", r"expected Odd.needs to be a tuple .* got \('gradient',\)"),
        ("Bigger", "expected Bigger.map_scale to be one of map, mask, box, got 'maps'"),
        (
            "Short",
            r"Short: expected a function of \(classifier, images, targets\), got one of \(im",
        ),
        ("Needy", "cannot be made: TypeError .*; expected a default for every setting"),
        ("Untyped:sigma=2", "sigma has no type; annotate the setting, as in sigma: float"),
        ("Untyped:sigm=2", "has no setting sigm, expected sigma; did you mean sigma"),
        ("short", r"expected a function of \(classifier, images, targets\), got one of \(images\)"),
        ("number", "expected a subclass of apercu.methods.Method, or a function of .*, got int"),
        ("number:a=1", "an object takes no settings, got a=1"),
        ("Plian", "has no Plian; did you mean Plain"),
    ],
)
def test_what_is_no_method_is_one_line(write_module: Writer, name: str, match: str) -> None:
    module = write_module(BROKEN)
    with pytest.raises(
        ConfigError, match=f"^methods: {module}:{match}|^methods: .*{match}"
    ) as caught:
        parse_methods(f"{module}:{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("import no_such_package_", "needs the module no_such_package_, which is not installed"),
        ("def f(:\n", r"the module cannot be imported: SyntaxError"),
        ("1 / 0", r"the module cannot be imported: ZeroDivisionError \(division by zero\)"),
        ("undefined", "the module cannot be imported: NameError"),
    ],
)
def test_a_module_that_fails_is_one_line(write_module: Writer, text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_methods(f"{write_module(text, head='')}:MyMethod")


def test_a_module_that_is_not_there(write_module: Writer) -> None:
    with pytest.raises(ConfigError, match="methods: nowhere_:M: no module named nowhere_"):
        parse_methods("nowhere_:M")
    with pytest.raises(ConfigError, match=r"methods: nowhere_.py:M: no such file as .*nowhere_.py"):
        parse_methods("nowhere_.py:M")
    with pytest.raises(ConfigError, match=r"edges, package\.module:NAME, got gradcam; did you"):
        parse_methods("gradcam")


def test_what_is_passed_in_is_checked_too() -> None:
    assert adopt(TrueBox, "x") == TrueBox()
    for given, match in ((3, "got int"), (lambda images: images, "got one of"), (int, "no method")):
        with pytest.raises(ConfigError, match=match):
            adopt(given, "explainers: mine")
