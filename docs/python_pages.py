"""The pages of the reference that list the public names of each package."""

from __future__ import annotations

import re
from importlib import import_module
from inspect import getsource

from markdown_table import render_table

PACKAGES = {
    "apercu": "Train, explain, compare: the names that most programs need.",
    "apercu.classifiers": "Images in [0, 1] to logits, from any source.",
    "apercu.images": "Folders, files and stacks of images, as one interface.",
    "apercu.images.planted": "Generated images whose true evidence is known.",
    "apercu.images.catalogue": "Catalogues of the sky, and the labels of stamps.",
    "apercu.explain": "Explanations as objects and files.",
    "apercu.methods": "Methods that query the classifier for each image.",
    "apercu.metrics": "Measures of maps, one number per image.",
    "apercu.evaluation": "Comparisons of explainers, and their results.",
    "apercu.guard": "Guards, which say whether an answer may be believed.",
    "apercu.robustness": "Attacks, filters, defences and detection, one function each.",
    "apercu.robustness.attacks": "Attacks on a classifier or on a map.",
    "apercu.filters": "Filters in front of a classifier.",
    "apercu.robustness.defences": "Losses that train a classifier against attacks.",
    "apercu.robustness.detection": "Features and detectors of attacked images.",
    "apercu.robustness.backdoors": "Triggers, and methods that find, correct and remove backdoors.",
    "apercu.robustness.unknown": "Methods that recognise images of unknown kinds.",
    "apercu.pretraining": "Learning from images without labels, and from few labels.",
    "apercu.pretraining.pretexts": "Tasks that need no labels.",
    "apercu.pretraining.heads": "Learners of classes from features.",
    "apercu.learning": "Training a classifier from the labels there are.",
    "apercu.deploy.export": "ONNX graphs, and a page that explains in the browser.",
    "apercu.deploy.inference": "A run or an export, with one interface.",
    "apercu.deploy.video": "Films, cameras and streams.",
    "apercu.deploy.batch": "Whole data sets.",
    "apercu.interop": "The shapes of other libraries.",
    "apercu.maps": "Regions and boxes of maps.",
    "apercu.errors": "The error tree, with exit codes.",
    "apercu.types": "Tensors with named axes: the shapes in all signatures.",
}
"""Packages whose names are public, in the order of the reference."""
PYTHON = "reference/python.md"


def list_names(package: str) -> list[str]:
    """Return the public names of a package: `__all__`, or what its module defines."""
    module = import_module(package)
    if hasattr(module, "__all__"):
        names = [name for name in module.__all__ if not name.startswith("__")]
        return [name for name in names if f"{package}.{name}" not in PACKAGES]
    own = re.findall(r"^(?:def |class )?([A-Za-z]\w*)(?:\(|:)", getsource(module), re.MULTILINE)
    skipped = {"if", "else", "try", "for", "with", "TYPE_CHECKING"}
    return [name for name in dict.fromkeys(own) if name not in skipped and hasattr(module, name)]


def list_documented() -> dict[str, list[str]]:
    """Return the public names by package, each in the first package that has it."""
    documented: dict[str, list[str]] = {}
    seen: set[int] = set()
    for package in PACKAGES:
        module = import_module(package)
        names = [name for name in list_names(package) if id(getattr(module, name)) not in seen]
        seen |= {id(getattr(module, name)) for name in names}
        documented[package] = names
    return documented


def find_definition(package: str, name: str) -> str:
    """Return where a name is defined; a function may have the name of the module that holds it."""
    value = getattr(import_module(package), name)
    module, own = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    return (
        f"{module}.{own}" if own == name and module.startswith("apercu.") else f"{package}.{name}"
    )


def make_python_pages() -> dict[str, str]:
    """Return a page for each package; mkdocstrings describes its names from their docstrings."""
    pages = {}
    for package, names in list_documented().items():
        lines = [f"# `{package}`", "", PACKAGES[package], ""]
        if package == "apercu":
            lines += _render_overview()
        for name in names:
            lines += [f"::: {find_definition(package, name)}", "    options:"]
            lines += [f"        heading: {package}.{name}", f"        toc_label: {name}", ""]
        pages[find_page(package)] = "\n".join(lines)
    return pages


def _render_overview() -> list[str]:
    """Return what the first page says of all packages."""
    rows = [
        (f"[`{name}`]({find_page(name).removeprefix('reference/')})", text)
        for name, text in PACKAGES.items()
        if name != "apercu"
    ]
    return [
        "Tensors have named axes; [`apercu.types`](python/types.md) lists them. Images are "
        "in [0, 1], maps are evidence per pixel, and a mask is a map in [0, 1] where 1 is "
        "kept. All errors are in [`apercu.errors`](python/errors.md).",
        "",
        'Functions that do a whole job have `device="auto"`, as `--device` of the command line: a '
        "GPU where there is one. Those that open a classifier, an explainer or a guard leave it on "
        "the CPU, as PyTorch does, because you give it tensors of your own.",
        "",
        *render_table(("package", "holds"), rows),
        "",
    ]


def find_page(package: str) -> str:
    """Return the path of the page of a package."""
    parts = package.split(".")[1:]
    return f"reference/python/{'-'.join(parts)}.md" if parts else PYTHON
