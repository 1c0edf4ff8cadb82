"""The choice of settings by cross-validation inside the training part; the test part is not used.

Each trial is trained and measured in a process of its own. What is finished is kept, so that an
interrupted search goes on where it was.
"""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from apercu.classifiers import Classifier
from apercu.classifiers.trust import is_trusting
from apercu.devices import choose_device, count_cores
from apercu.errors import ConfigError, RunError
from apercu.io import write_file
from apercu.learning.measure import MEASURES, FigureValue
from apercu.learning.recipes.base import Recipe, check_recipes, is_overridden
from apercu.learning.recipes.registry import parse_recipes
from apercu.learning.settings import LEARNING, LearningSettings
from apercu.learning.splits import LearningInputs, LearningParts, split_by_class
from apercu.own_code import end_with_parent, hide_script
from apercu.progress import ProgressCallback
from apercu.run_record import RunRecord, read_part
from apercu.training.record import find_settings

SEARCH, CHOICE = "search", "choice.json"
"""The folder of a search, and the file that is written when it is finished."""


class SearchContext(BaseModel):
    """What a search depends on; the content of `search.json`.

    Attributes:
        settings: the settings that are varied.
        network: fingerprint of the network that is the start.
        images: digest of the training part.
        seed: seed of every draw.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    settings: LearningSettings
    network: str
    images: str
    seed: int


class TrialScore(BaseModel):
    """What one trial reached on the images of one fold.

    Attributes:
        figures: figures by name, see `apercu.learning.measure`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    figures: dict[str, FigureValue]


class SearchResult(BaseModel):
    """All trials and the best one; the content of `choice.json`.

    Attributes:
        by: figure by which trials were compared.
        trials: settings of each trial that differ from trial to trial.
        scores: mean of the figure over the folds where it can be measured, one number per trial.
        best: number of the best trial.
        settings: settings of the best trial.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    by: str
    trials: tuple[dict[str, str], ...]
    scores: tuple[FigureValue, ...]
    best: int
    settings: LearningSettings


@dataclass(frozen=True)
class TrialJob:
    """One trial on one fold, with all that a process of its own needs.

    Args:
        settings: settings of the trial.
        network: SPEC of the network, or the classifier where the trials run in this process.
        inputs: the images by their names.
        fold: number of the fold that is measured on.
        folder: folder of the trial.
        seed: seed of every draw.
        device: where it is trained.
        trust: whether the network, or a teacher, may name a factory, whose code is run.
    """

    settings: LearningSettings
    network: str | Path | Classifier
    inputs: LearningInputs
    fold: int
    folder: Path
    seed: int
    device: str
    trust: bool = False

    @property
    def result(self) -> Path:
        """The file that is written when the trial is finished."""
        return self.folder.with_suffix(".json")


def list_trials(settings: LearningSettings) -> list[LearningSettings]:
    """Return the settings of all trials: every rate with every choice of layers that learn.

    Where a recipe chooses the layers already, the choice stays.
    """
    space = settings.search
    fixed = any(is_overridden(r, "choose_rates") for r in parse_recipes(settings.recipes))
    layers = ("",) if fixed else space.layers
    trials = []
    for rate, layer in itertools.product(space.rates, layers):
        schedule = settings.schedule.model_copy(update={"rate": rate})
        recipes = (*settings.recipes, *parse_texts(layer))
        trials.append(settings.model_copy(update={"schedule": schedule, "recipes": recipes}))
    return trials


def parse_texts(text: str) -> tuple[str, ...]:
    """Return recipes of one text as settings keep them; none for an empty text."""
    return tuple(map(str, parse_recipes([text]))) if text else ()


def choose_settings(
    settings: LearningSettings,
    start: Classifier,
    network: str | Path | Classifier,
    inputs: LearningInputs,
    parts: LearningParts,
    out: Path,
    run_trial: Callable[[TrialJob], TrialScore],
    *,
    resume: bool,
    seed: int,
    device: str,
    report: ProgressCallback,
) -> SearchResult:
    """Train every trial on every fold of the training part, and choose the best one.

    Args:
        settings: the settings that are varied, with the space of the search.
        start: the network that is the start.
        network: the same by its SPEC, or the classifier itself, which stays in this process.
        inputs: the images by their names.
        parts: the parts of the images; only the first is used.
        out: the run folder.
        run_trial: trains and measures one trial on one fold.
        resume: whether to continue a search that was begun in the folder.
        seed: seed of every draw.
        device: where the trials are trained.
        report: receives how many trials are finished.

    Returns:
        All trials and the best one.

    Raises:
        RunError: the folder holds another search, or one that is not to be continued.
    """
    folder = out / SEARCH
    context = SearchContext(
        settings=settings, network=start.fingerprint, images=parts.training.digest, seed=seed
    )
    record = RunRecord(
        folder, {"search.json": context}, "search", finished_by=CHOICE, on_request=not resume
    )
    with record.begin(resume=resume):
        if (folder / CHOICE).is_file():
            return read_choice(folder / CHOICE)
        trials = list_trials(settings)
        jobs = [
            TrialJob(
                settings=trial,
                network=network,
                inputs=inputs,
                fold=fold,
                folder=(folder / f"trial-{number:02d}-fold-{fold}").resolve(),
                seed=seed,
                device=device,
                trust=is_trusting(),
            )
            for number, trial in enumerate(trials)
            for fold in range(settings.search.folds)
        ]
        _run_jobs([job for job in jobs if not job.result.is_file()], len(jobs), run_trial, report)
        result = _compare_trials(settings, trials, jobs)
        write_file(folder / CHOICE, result.model_dump_json(indent=1) + "\n")
    return result


def read_choice(path: Path) -> SearchResult:
    """Read the result of a finished search; raises RunError where it is damaged."""
    try:
        return SearchResult.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: damaged; remove it, and the trials are compared again") from error


def add_recipes(
    settings: LearningSettings, recipes: str | Iterable[str | Recipe], *, is_stored: bool
) -> LearningSettings:
    """Return the settings with further recipes.

    Args:
        settings: the settings, with the recipes of a file or of a preset.
        recipes: recipes that were typed.
        is_stored: whether the settings are those of a training that is continued, which hold the
            recipes that were typed then.

    Returns:
        The settings.

    Raises:
        ConfigError: a recipe is unknown, or two cannot be combined.
    """
    texts = tuple(str(recipe) for recipe in parse_recipes(recipes))
    if texts and is_stored:
        held = settings.recipes[-len(texts) :] == texts
        texts = settings.recipes if held else texts
    else:
        texts = (*settings.recipes, *texts)
    check_recipes(parse_recipes(texts))
    return settings.model_copy(update={"recipes": texts})


def check_search(
    out: Path,
    config: LearningSettings | Mapping[str, Any] | str | Path | None,
    recipes: str | Iterable[str | Recipe],
    batch: int | None,
) -> None:
    """Check that a search that has ended is the one that is asked for.

    Args:
        out: the run folder, which holds the training that followed.
        config: settings as they are given now; those of the search when None.
        recipes: recipes that were typed now.
        batch: images per step that were typed now.

    Raises:
        RunError: the folder holds no search, or one with other settings.
    """
    folder = out / SEARCH
    if not (folder / "search.json").is_file():
        raise RunError(
            f"{out}: the training begun here had no search; leave --search out, or choose another "
            "--out"
        )
    before = read_part(folder / "search.json", SearchContext).settings
    now = before if config is None else find_settings(folder, config, LEARNING)
    now = add_recipes(now, recipes, is_stored=config is None)
    now = now.with_schedule(steps=before.schedule.steps, batch=batch)  # the training may be longer
    RunRecord(folder, {}, "search").compare(
        {"settings": before.model_dump(mode="json")}, {"settings": now.model_dump(mode="json")}
    )


def find_choice(run: Path, settings: LearningSettings) -> SearchResult | None:
    """Return the finished search in a run folder that chose the settings of its training.

    Args:
        run: the run folder.
        settings: the settings of the training.

    Returns:
        The search; None where there was none, or the training has other settings.

    Raises:
        RunError: the result of the search is damaged.
    """
    path = run / SEARCH / CHOICE
    if not path.is_file():
        return None
    choice = read_choice(path)
    chosen = choice.settings
    same = (chosen.recipes, chosen.schedule.rate) == (settings.recipes, settings.schedule.rate)
    return choice if same else None


def split_fold(parts: LearningParts, folds: int, fold: int, seed: int) -> LearningParts:
    """Return the training part without one fold, and this fold as the part to measure on."""
    training = parts.training
    chosen = split_by_class(training, [1 / folds] * folds, seed)
    rest = sorted(index for number, part in enumerate(chosen) if number != fold for index in part)
    held_out = training.choose(chosen[fold])
    return LearningParts(training.choose(rest), held_out, held_out, parts.unlabelled)


def _run_jobs(
    jobs: list[TrialJob],
    total: int,
    run_trial: Callable[[TrialJob], TrialScore],
    report: ProgressCallback,
) -> None:
    """Run the jobs that are left, in several processes where a SPEC names the network."""
    done = total - len(jobs)
    report("trials", done, total)
    for job, score in _iterate_scores(jobs, run_trial):
        write_file(job.result, score.model_dump_json() + "\n")
        shutil.rmtree(job.folder, ignore_errors=True)
        done += 1
        report("trials", done, total)


def _iterate_scores(
    jobs: list[TrialJob], run_trial: Callable[[TrialJob], TrialScore]
) -> Iterator[tuple[TrialJob, TrialScore]]:
    """Yield each job with its score, in the order in which they finish.

    Raises:
        RunError: a process was killed.
    """
    count = min(len(jobs), count_cores())
    if count < 2 or choose_device(jobs[0].device) != "cpu" or not can_be_sent(jobs[0]):
        for job in jobs:
            yield job, run_trial(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin_process) as pool:
        with hide_script():  # every submission may start a process
            futures: dict[Future[TrialScore], TrialJob] = {
                pool.submit(run_trial, job): job for job in jobs
            }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:  # the system kills a process when memory is short
            raise RunError(
                f"{jobs[0].folder.parent}: the process of a trial was killed; is there memory for "
                f"{count} at once? Finished trials are kept; the same command with --resume goes on"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def can_be_sent(job: TrialJob) -> bool:
    """Whether a trial can run in another process, which does not know the script that was started.

    Args:
        job: the trial.

    Returns:
        False where its network or its images are in memory, or of a class of the script itself.
    """
    if not isinstance(job.network, str | Path):
        return False
    try:
        return b"__main__" not in pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError):  # what `pickle` raises
        return False


def _begin_process() -> None:
    torch.set_num_threads(1)
    end_with_parent()


def _compare_trials(
    settings: LearningSettings, trials: list[LearningSettings], jobs: list[TrialJob]
) -> SearchResult:
    """Return the trials with their means over the folds.

    Raises:
        ConfigError: the figure cannot be measured on any fold.
    """
    by, folds = settings.search.by, settings.search.folds
    scores = [TrialScore.model_validate_json(job.result.read_bytes()).figures[by] for job in jobs]
    table = np.array(scores).reshape(len(trials), folds)
    table = table[:, ~np.isnan(table).any(0)]  # folds where all trials can be compared
    if not table.shape[1]:
        raise ConfigError(f"search.by: {by} cannot be measured on any fold; choose another figure")
    means = table.mean(1).tolist()
    sign = 1 if MEASURES[by][1] == "higher" else -1
    best = max(range(len(trials)), key=lambda number: sign * means[number])
    return SearchResult(
        by=by,
        trials=tuple(
            {"rate": f"{trial.schedule.rate:g}", "recipes": ", ".join(trial.recipes)}
            for trial in trials
        ),
        scores=tuple(means),
        best=best,
        settings=trials[best],
    )
