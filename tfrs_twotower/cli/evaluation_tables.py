"""Evaluations and comparisons of runs as tables in the terminal."""

import itertools
from collections.abc import Sequence
from typing import Any

from tfrs_twotower.cli.output import print_table, warn

SHOWN_METRICS = (
    *("recall_at_10", "recall_at_100", "hit_rate_at_10", "ndcg_at_10", "mrr"),
    "coverage_at_10",
)
ATTRIBUTED = ("found", "missed_by_model", "missed_by_index", "missed_by_rule")


def print_metrics(report: dict[str, Any]) -> None:
    """Prints the metrics of an evaluation (`Evaluation.as_dict`), one line a system."""
    systems: dict[str, Any] = report["metrics"]
    names = [name for name in SHOWN_METRICS if name in systems["model"]["all"]]
    count = report["num_queries"]["all"]
    title = f"{report['split']}, {count:,} queries, corpus {report['corpus_size']:,}"
    title += _terms(report)
    if left_out := report["num_queries_left_out"]:
        title += f"; {left_out:,} queries left out, whose lists lack what is relevant"
    intervals = report["intervals"]
    rows = [
        [
            system,
            *(parts["all"].get(name) for name in names),
            _interval(intervals.get(system, {}).get("all", {}).get(names[0])),
        ]
        for system, parts in systems.items()
    ]
    print_table(title, ["", *map(_heading, names), f"95 % of {_heading(names[0])}"], rows)


def print_slices(report: dict[str, Any]) -> None:
    """Prints the model's metrics over the parts of an evaluation that are not empty."""
    parts: dict[str, Any] = report["metrics"]["model"]
    intervals = report["intervals"]["model"]
    names = [name for name in SHOWN_METRICS if name in intervals["all"]]
    rows = [
        [
            part,
            report["num_queries"][part],
            *(values[name] for name in names),
            _interval(intervals[part][names[0]]),
        ]
        for part, values in parts.items()
        if report["num_queries"][part]
    ]
    headings = ["slice", "queries", *map(_heading, names), f"95 % of {_heading(names[0])}"]
    print_table("the model, by part", headings, rows)


def print_attribution(report: dict[str, Any]) -> None:
    """Prints what became of the relevant candidates, where models were evaluated too."""
    rows = [
        [f"first {row['k']}", *(row[name] for name in ATTRIBUTED)]
        for row in report.get("attribution", ())
    ]
    print_table(
        "where recall is lost", ["", *(name.replace("_", " ") for name in ATTRIBUTED)], rows
    )


def print_moments(overlap: dict[str, Any] | None) -> None:
    """Prints how alike the lists of 08:00 and 20:00 are; nothing where no hour is read."""
    if overlap:
        print(
            f"morning and evening: {overlap['overlap_at_10']:.1%} of the ten best are the same "
            f"(context mode {overlap['context_mode']})"
        )


def print_operations(operations: dict[str, Any]) -> None:
    """Prints what running a model costs, as `operations.measure` found it."""
    of_query, memory = operations["query_embedding_ms"], operations["embedding_bytes"]
    rows = [
        ["query embedding, alone", f"{of_query['batch_1']:.3f} ms"],
        ["query embedding, in a batch of 256", f"{of_query['batch_256']:.4f} ms each"],
        ["candidates scored a second, exactly", f"{operations['candidates_scored_per_s']:,.0f}"],
        *(
            [f"memory for the embeddings of all {side}", f"{size / 1e6:.2f} MB"]
            for side, size in memory.items()
        ),
        *(
            [f"loading {model}", f"{seconds:.2f} s"]
            for model, seconds in operations["model_load_s"].items()
        ),
    ]
    print_table("what running it costs, on this machine", ["", ""], rows)


def print_comparison(comparison: dict[str, Any]) -> None:
    """Prints a comparison (`Comparison.as_dict`)."""
    first, *others = comparison["runs"]
    title = (
        f"{comparison['evaluation']}, {comparison['num_queries']:,} queries{_terms(comparison)}; "
        f"differences from {first}, * where p < 0.05"
    )
    rows = []
    for run in comparison["runs"]:
        for name, found in comparison["metrics"][run].items():
            value = [run, _heading(name), found["value"], _interval(found["interval"])]
            if run == first:
                rows.append([*value, "", "", ""])
                continue
            star = "*" if found["is_significant"] else ""
            change = f"{found['difference']:+.4f}{star}"
            bounds = _interval(found["difference_interval"])
            rows.append([*value, change, bounds, f"{found['p_value']:.4f}"])
    headings = ["run", "metric", "value", "95 %", "difference", "95 %", "p"]
    print_table(title, headings, rows, left=2)
    for run in others:
        print(
            f"{run}: {comparison['overlap_at_10'][run]:.1%} of the ten best in common with {first}"
        )
        if changed := comparison["config_differences"][run]:
            rows = [[path, str(old), str(new)] for path, old, new in changed]
            print_table("different in the config", ["key", first, run], rows, left=3)


def print_users(users: Sequence[dict[str, Any]]) -> None:
    """Prints, for a few users, what was recommended beside their history and what they chose.

    Args:
        users: Each with `query_id` and lists `history`, `recommended` and, where it is known,
            `chosen` of candidates with `candidate_id` and `title`.
    """
    for user in users:
        shown = [
            [
                f"{'*' if entry.get('is_relevant') else ' '} {_name(entry)}"
                for entry in user["recommended"]
            ],
            [_name(entry) for entry in user["history"]],
            [f"{_name(entry)} ({entry['rank']:,})" for entry in user.get("chosen", ())],
        ]
        columns = ["recommended (* chosen)", "had (newest first)", "chose (its rank)"]
        if "chosen" not in user:
            shown, columns = shown[:2], ["recommended", columns[1]]
        rows = itertools.zip_longest(*shown, fillvalue="")
        print_table(f"user {user['query_id']}", columns, rows, left=len(columns))


def warn_if_below_popularity(is_below_popularity: bool) -> None:
    """Warns of a model that is worse than recommending what is popular to everybody."""
    if is_below_popularity:
        warn(
            "the model is below popularity: train longer, change the learning rate or the "
            "features, and do not serve it as it is"
        )


def _terms(report: dict[str, Any]) -> str:
    """What the title adds where an evaluation is not over the corpus and all positives."""
    terms = ""
    if not report["is_full_ranking"]:
        terms += f"; among the candidates of {report['protocol']} only, not the corpus"
    if report["relevant_from"]:
        terms += f"; relevant from a weight of {report['relevant_from']:g}"
    return terms


def _heading(metric: str) -> str:
    return metric.replace("_at_", "@").replace("_", " ")


def _interval(bounds: Sequence[float] | None) -> str:
    return f"{bounds[0]:.4f} - {bounds[1]:.4f}" if bounds else ""


def _name(entry: dict[str, Any]) -> str:
    return str(entry["title"] or entry["candidate_id"])
