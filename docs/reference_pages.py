"""The pages of the reference that are generated, and the navigation: a hook of `mkdocs.yml`.

Commands and their options come from the app itself, settings from the classes that check them, and
names from `__all__` of the packages. Nothing of it is typed, so nothing of it can be out of date.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from commands_page import make_commands_page
from python_pages import PACKAGES, PYTHON, find_page, make_python_pages
from settings_page import make_settings_page

DOCS = Path(__file__).resolve().parent
COMMANDS, SETTINGS = "reference/commands.md", "reference/settings.md"
RESULTS = "reference/results.md"
ORDER = (
    "notebooks/first-minute.ipynb",
    "notebooks/own-classifier.ipynb",
    "notebooks/which-method.ipynb",
    "notebooks/counterparts.ipynb",
    "notebooks/what-breaks-it.ipynb",
    "howto/first-questions.md",
    "howto/explain-images.md",
    "howto/open-a-classifier.md",
    "howto/train-an-explainer.md",
    "howto/long-trainings.md",
    "howto/compare-methods.md",
    "howto/export.md",
    "howto/browser.md",
    "howto/serve.md",
    "howto/video.md",
    "howto/batch.md",
    "howto/stress-and-defend.md",
    "howto/few-labels.md",
    "howto/train-a-classifier.md",
    "howto/label-images.md",
    "howto/similar-cases.md",
    "howto/believe-an-answer.md",
    "howto/chest-films.md",
    "howto/sky-surveys.md",
    "howto/files-from-strangers.md",
    "howto/add-a-method.md",
    "howto/add-a-metric.md",
    COMMANDS,
    SETTINGS,
    PYTHON,
    "reference/methods.md",
    "reference/metrics.md",
    RESULTS,
    "reference/results/masks.md",
    "reference/results/methods.md",
    "reference/results/chest-films.md",
    "reference/results/attacks.md",
    "reference/results/trust.md",
    "reference/results/few-labels.md",
    "reference/results/speed.md",
    "reference/families.md",
    "reference/reliability.md",
    "reference/sizing.md",
    "explanations/how-it-works.md",
    "explanations/what-the-numbers-mean.md",
    "explanations/what-maps-cannot-tell.md",
)
"""Pages that have a position of their own; others of their folder follow, by name."""


def on_config(config: Any) -> Any:
    """Set the navigation, and search pages of a folder with a script of our own, not of a CDN."""
    config.nav = make_navigation()
    config.extra["polyfills"] = ["search-iframe-worker.js"]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to those that lie in the folder."""
    from mkdocs.structure.files import File

    for path, text in make_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_post_page(output: str, **_: Any) -> str:
    """Take the script that draws diagrams from a CDN out of the notebooks; they have none."""
    return re.sub(
        r'<script type="module">(?:(?!</script>).)*?cdnjs.*?</script>', "", output, flags=re.DOTALL
    )


def make_navigation() -> list[dict[str, Any]]:
    """Return the navigation of the site, from the pages that exist."""
    names = [find_page(package) for package in PACKAGES]
    python = [PYTHON, *names[1:]]
    reference = [path for path in _list_pages("reference") if path != PYTHON]
    reference.insert(2, {"Python": python})
    results = [RESULTS, *_list_pages("reference/results")]
    reference[reference.index(RESULTS)] = {"Measured results": results}
    reference.append({"Files": _list_pages("reference/files")})
    project = [name for name in ("architecture.md", "experiments.md") if (DOCS / name).is_file()]
    parts = {
        "Tutorials": _list_pages("notebooks"),
        "How-to guides": _list_pages("howto"),
        "Reference": reference,
        "Explanations": _list_pages("explanations"),
        "Project": project,
    }
    return [{"Home": "index.md"}, *({name: pages} for name, pages in parts.items() if pages)]


def _list_pages(folder: str) -> list[Any]:
    """Return the pages of a folder, generated ones included, in the order of the navigation."""
    stored = [p for p in (DOCS / folder).glob("*") if p.suffix in (".md", ".ipynb")]
    pages = {p.relative_to(DOCS).as_posix() for p in stored}
    pages |= {p for p in (COMMANDS, SETTINGS, PYTHON) if Path(p).parent.as_posix() == folder}
    return sorted(pages, key=lambda p: (ORDER.index(p) if p in ORDER else len(ORDER), p))


def make_pages() -> dict[str, str]:
    """Return the generated pages in Markdown, by their paths in the manual."""
    return {COMMANDS: make_commands_page(), SETTINGS: make_settings_page(), **make_python_pages()}
