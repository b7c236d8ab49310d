"""A run folder, and a models folder where there is one -> the page."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bokeh
import jinja2
import numpy as np
from bokeh.embed import components
from bokeh.model import Model
from bokeh.plotting import figure

from tfrs_twotower.evaluation.insights import evenly_spaced
from tfrs_twotower.evaluation.report import figures
from tfrs_twotower.evaluation.report.library import bokeh_library
from tfrs_twotower.evaluation.result import MODEL, evaluation_name
from tfrs_twotower.evaluation.serving_cost import SERVING_COST_FILE
from tfrs_twotower.evaluation.slices import (
    ALL,
    COLD,
    HEAD,
    KNOWN_CANDIDATES,
    NEW_CANDIDATES,
    TAIL,
    WARM,
)
from tfrs_twotower.evaluation.summaries import HEADLINE
from tfrs_twotower.models.run_folder import CONFIG_FILE, EVALUATION, MADE_BY, METRICS_FILE
from tfrs_twotower.publishing.models_folder import (
    TITLE,
    asked_model,
    latest_version,
    read_candidates,
    read_model_manifest,
)
from tfrs_twotower.schema import SPLITS, UserError
from tfrs_twotower.schema.folders import read_manifest
from tfrs_twotower.schema.version import __version__

TEMPLATE = "page.html.j2"
MAX_MAPPED = 5000
LIST_METRICS = (
    "coverage_at_10",
    "popularity_ratio_at_10",
    "novelty_at_10",
    "diversity_at_10",
)


def write_report(
    run: str | Path,
    output: str | Path,
    *,
    models: str | Path | None = None,
    drift: str | Path | None = None,
    evaluation: str = evaluation_name("test"),
) -> Path:
    """Writes the report of an evaluated run.

    Args:
        run: The run folder, after `twotower evaluate`.
        output: The HTML file to write; an older one is replaced.
        models: The models folder, for the index and the map of candidates.
        drift: A comparison to show: the JSON of `Drift.as_dict`, as `twotower drift --json` gives.
        evaluation: Which evaluation of the run.

    Returns:
        The file.

    Raises:
        UserError: If the run is not evaluated, `drift` is no such file, or the page cannot be
            written.
    """
    folder, file = Path(run), Path(output)
    manifest = read_manifest(folder, kind="run", made_by=MADE_BY)
    found = _in_order(_evaluation(folder, evaluation))
    training = {"refit_epochs": [], **_read(folder / METRICS_FILE)}
    serving_cost = folder / EVALUATION / SERVING_COST_FILE
    drawn: dict[str, Model] = {}
    if training["epochs"]:
        curves = figures.training_curves(training["epochs"], training["best_epoch"])
        drawn |= {f"training_{name}": curve for name, curve in curves.items()}
    drawn |= _metric_figures(found)
    context: dict[str, Any] = {
        "name": folder.resolve().name,
        "evaluation": found,
        "training": training,
        "training_figures": [name for name in drawn if name.startswith("training_")],
        "headline": HEADLINE,
        "list_metrics": LIST_METRICS,
        "splits": SPLITS,
        "serving_cost": _read(serving_cost) if serving_cost.exists() else None,
        "versions": {**manifest, "report": __version__},
        "config": (folder / CONFIG_FILE).read_text(encoding="utf-8"),
        "others": _other_evaluations(folder, evaluation),
        "drift": None if drift is None else _drift(Path(drift)),
        "index": None,
        "map": None,
        "with_models": None,
    }
    if models is not None:
        version = latest_version(Path(models))
        context["index"] = index = _index(Path(models), version)
        context["with_models"] = (
            f"twotower evaluate --run {folder} --data PREPARED {found['options']} --models {models}"
        )
        if "tuning" in index:
            drawn["index"] = figures.index_trials(index["tuning"])
        drawn["map"], context["map"] = _map(Path(models), version)
    script, divs = components(drawn)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfrs_twotower.evaluation.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"heading": figures.heading, "day": _day, "number": _number}
    text = environment.get_template(TEMPLATE).render(
        **context,
        figures=divs,
        script=script,
        library=bokeh_library(),
        bokeh_version=bokeh.__version__,
    )
    beside = file.with_name(file.name + ".tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error
    return file


def _evaluation(folder: Path, name: str) -> dict[str, Any]:
    path = folder / EVALUATION / f"{name}.json"
    advice = f"`twotower evaluate --run {folder} --data PREPARED`"
    if not path.exists():
        raise UserError(f"{folder} has no evaluation {name}: make it with {advice}")
    found = _read(path)
    if "title" not in found:
        raise UserError(f"{path} is of an older version: evaluate again with {advice}")
    return found


def _drift(path: Path) -> dict[str, Any]:
    try:
        found = _read(path)
        drifting = [one for one in found["differences"] if one["is_drift"]]
        return {"title": found["title"], "level": found["level"], "drifting": drifting}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} holds no comparison: write one with `twotower drift ... --json > {path}`"
        ) from error


def _in_order(found: dict[str, Any]) -> dict[str, Any]:
    """The evaluation with the model first among systems, and all queries first among slices."""
    first = (MODEL, "popularity", "recent popularity", "item-kNN", ALL, WARM, COLD)
    further = (HEAD, TAIL, KNOWN_CANDIDATES, NEW_CANDIDATES)

    def ordered(values: Mapping[str, Any]) -> dict[str, Any]:
        named = [name for name in (*first, *further) if name in values]
        return {name: values[name] for name in dict.fromkeys([*named, *values])}

    nested = {
        key: ordered({system: ordered(parts) for system, parts in found[key].items()})
        for key in ("metrics", "intervals")
    }
    return {
        **found,
        **nested,
        "recall_curve": ordered(found["recall_curve"]),
        "popularity": ordered(found["popularity"]),
    }


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _metric_figures(found: Mapping[str, Any]) -> dict[str, figure]:
    metric = HEADLINE[0]
    systems, intervals = found["metrics"], found["intervals"]
    of_model = systems[MODEL]
    parts = {
        part: values[metric] for part, values in of_model.items() if found["num_queries"][part]
    }
    curve = dict(found["recall_curve"])
    lists = {name: shares for name, shares in found["popularity"].items() if any(shares)}
    drawn = {
        "systems": figures.systems(
            metric,
            {name: values["all"][metric] for name, values in systems.items()},
            {name: values["all"][metric] for name, values in intervals.items()},
        ),
        "slices": figures.slices(
            metric, parts, {part: values[metric] for part, values in intervals[MODEL].items()}
        ),
        "recall_curve": figures.recall_curve(curve.pop("k"), curve),
        "popularity": figures.popularity(lists),
    }
    if found["sensitivity"]:
        drawn["sensitivity"] = figures.sensitivity(found["sensitivity"])
    return drawn


def _other_evaluations(folder: Path, shown: str) -> list[dict[str, Any]]:
    """Further evaluations of the run: other splits, units and protocols."""
    found = []
    for path in sorted((folder / EVALUATION).glob("*.json")):
        if path.stem == shown or path.name == SERVING_COST_FILE:
            continue
        other = _read(path)
        found.append(
            {
                "name": path.stem,
                "title": other.get("title", other["protocol"]),
                "metrics": other["metrics"],
            }
        )
    return found


def _index(models: Path, version: int) -> dict[str, Any]:
    manifest = read_model_manifest(models, asked_model(models, version), version)
    return {"version": version, **manifest}


def _map(models: Path, version: int) -> tuple[figure, dict[str, Any]]:
    candidates = read_candidates(models, version)
    shown = candidates.iloc[evenly_spaced(len(candidates), MAX_MAPPED)]
    ids = shown["candidate_id"].astype(str)
    names = shown[TITLE].fillna(ids).astype(str) if TITLE in shown else ids
    columns = shown.drop(columns=["candidate_id", "embedding", TITLE], errors="ignore")
    no_group: tuple[str | None, list[str]] = None, [""] * len(shown)
    attribute, groups = next(figures.groupings(columns), no_group)
    drawing, kept = figures.embedding_map(
        np.stack(shown["embedding"].to_list()), names.tolist(), groups
    )
    facts = {
        "num_candidates": len(candidates),
        "num_shown": len(shown),
        "attribute": attribute,
        "variance": kept,
    }
    return drawing, facts


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _number(value: float | int | None, digits: int = 4) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
