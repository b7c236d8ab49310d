"""Evaluations and comparisons of runs as tables in the terminal."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfrs_twotower.cli.output import console, print_table, warn

if TYPE_CHECKING:
    from tfrs_twotower.evaluation.click_through import ClickThrough

CUT_OFFS = (10, 100)
MARKS = {"promote": "*", "reject": "!"}  # Of what a backtest did at a moment.
ATTRIBUTED = ("found", "missed_by_model", "missed_by_index", "missed_by_rule")


def print_metrics(report: dict[str, Any], cut_offs: Sequence[int] = CUT_OFFS) -> None:
    """Prints the metrics of an evaluation (`Evaluation.as_dict`), one line a system.

    Args:
        report: The evaluation.
        cut_offs: k of the metrics that are shown.
    """
    systems: dict[str, Any] = report["metrics"]
    names = _shown(systems["model"]["all"], cut_offs)
    intervals = report["intervals"]
    rows = [
        [system, *_with_interval(parts["all"], intervals.get(system, {}).get("all", {}), names)]
        for system, parts in systems.items()
    ]
    lines = [["", *_headings(names)], *rows]
    if not any(map(any, intervals.values())):  # Of a training run, whose table has none.
        lines = [[*line[:2], *line[3:]] for line in lines]
    print_table(report["title"], lines[0], lines[1:])
    for caution in report["cautions"]:
        console().print(f"not a figure to quote: {caution}", soft_wrap=True)


def print_slices(report: dict[str, Any], cut_offs: Sequence[int] = CUT_OFFS) -> None:
    """Prints the model's metrics over the parts of an evaluation that are not empty."""
    parts: dict[str, Any] = report["metrics"]["model"]
    intervals = report["intervals"]["model"]
    names = [name for name in _shown(parts["all"], cut_offs) if not name.startswith("coverage")]
    rows = [
        [part, report["num_queries"][part], *_with_interval(values, intervals[part], names)]
        for part, values in parts.items()
        if report["num_queries"][part]
    ]
    print_table(
        f"the model, by part; {report['title']}",
        ["slice", f"{report['unit']}s", *_headings(names)],
        rows,
    )


def print_attribution(report: dict[str, Any]) -> None:
    """Prints what became of the relevant candidates, where models were evaluated too."""
    rows = [
        [f"first {row['k']}", *(row[name] for name in ATTRIBUTED)]
        for row in report.get("attribution", ())
    ]
    print_table(
        "where recall is lost", ["", *(name.replace("_", " ") for name in ATTRIBUTED)], rows
    )


def print_drift(drift: dict[str, Any]) -> None:
    """Prints a comparison (`Drift.as_dict`), what drifts most first."""
    if drift["churn"]:
        print_table(
            "vocabularies",
            ["", "kept", "new", "gone"],
            [[name, *churn.values()] for name, churn in drift["churn"].items()],
        )
    print_table(
        drift["title"],
        ["", "what", "drifts", "distance", "noise", "measured by", "from A to B"],
        [
            [
                one["name"],
                one["what"],
                "yes" if one["is_drift"] else "",
                one["distance"],
                one["noise"],
                one["kind"].replace("_", " "),
                one["change"],
            ]
            for one in drift["differences"]
        ],
        left=3,
    )
    print(
        f"noise: what samples of one population exceed anywhere in the table with probability "
        f"{drift['level']:g}; -: cannot be told"
    )
    for reason, count in drift["skipped"].items():
        print(f"{count:,} records of the log left out: {reason.replace('_', ' ')}")


def print_backtest(found: dict[str, Any]) -> None:
    """Prints `Backtest.as_dict`: recall by step, then the policies and the recommendation."""
    names = list(found["policies"])
    rows = []
    for step in found["steps"]:
        of_policies = [step["policies"][name] for name in names]
        shown = [f"{one['recall']:.4f}{MARKS.get(one['action'], '')}" for one in of_policies]
        rows.append([step["first_day"], step["num_queries"], *shown])
    title = f"recall@{found['k']} by step of {found['step_days']} d (* trained, ! held by the gate)"
    print_table(title, ["from", "queries", *names], rows)
    [first, *_] = [one["over_first"]["over"] for one in found["policies"].values()]
    print_table(
        f"Policies over {found['num_queries']:,} queries",
        ["policy", f"recall@{found['k']}", "95 %", f"over {first}", "95 %", "minutes a step"],
        [
            [name, one["recall"], _interval(one["interval"]), one["over_first"]["mean"]]
            + [_interval(one["over_first"]["interval"]), f"{found['minutes_a_step'][name]:.2f}"]
            for name, one in found["policies"].items()
        ],
    )
    chosen = found["recommendation"]
    minutes = found["minutes_a_step"][chosen["policy"]]
    to = console()
    to.print(
        f"recommended: {chosen['policy']}, {minutes:.2f} processor minutes a step. "
        f"{chosen['reason']}",
        soft_wrap=True,
    )
    if found["num_without_time"]:
        to.print(f"left out, without a time: {found['num_without_time']:,} interactions")


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


def print_click_through(found: "ClickThrough") -> None:
    """Prints click-through by version and label, then by rank."""
    for title, table in ((found.title, found.by_arm), ("By rank", found.by_rank)):
        rows = [
            [*row[:-3], f"{row[-3]:.4f}", f"{row[-2]:.4f} - {row[-1]:.4f}"]
            for row in table.itertuples(index=False, name=None)
        ]
        print_table(title, [*table.columns[:-2], "95 %"], rows, left=3)
    print(
        f"{found.num_unshown:,} of {found.num_clicks:,} clicks follow no impression within "
        f"{found.within_s:,} s"
    )


def warn_if_below_popularity(is_below_popularity: bool, causes: Sequence[str]) -> None:
    """Warns of a model that is worse than recommending what is popular to everybody.

    Args:
        is_below_popularity: Whether it is.
        causes: Hints that were given; the likely causes.
    """
    if is_below_popularity:
        advice = "see the hints above" if causes else "change the learning rate or the features"
        warn(f"the model is below popularity: do not serve it as it is; {advice}")


def _terms(report: dict[str, Any]) -> str:
    """What the title adds where an evaluation is not over the corpus and all positives."""
    terms = ""
    if not report["is_full_ranking"]:
        terms += f"; among the candidates of {report['protocol']} only, not the corpus"
    if report["relevant_from"]:
        terms += f"; relevant from a weight of {report['relevant_from']:g}"
    return terms


def _shown(values: dict[str, Any], cut_offs: Sequence[int]) -> list[str]:
    """The metrics to show, the most important first: a narrow terminal cuts the last."""
    wanted = [f"recall_at_{k}" for k in cut_offs]
    wanted += [f"ndcg_at_{cut_offs[0]}", "mrr", f"hit_rate_at_{cut_offs[0]}"]
    wanted += [f"{name}_at_{k}" for name in ("ndcg", "hit_rate") for k in cut_offs[1:]]
    return [name for name in (*wanted, "coverage_at_10") if name in values]


def _headings(names: Sequence[str]) -> list[str]:
    first, *others = map(_heading, names)
    return [first, "95 %", *others]


def _with_interval(
    values: dict[str, Any], intervals: dict[str, Any], names: Sequence[str]
) -> list[Any]:
    """Metrics, the first with its interval, where there is one."""
    first, *others = names
    return [values.get(first), _interval(intervals.get(first)), *map(values.get, others)]


def _heading(metric: str) -> str:
    return metric.replace("_at_", "@").replace("_", " ")


def _interval(bounds: Sequence[float] | None) -> str:
    return f"{bounds[0]:.4f} - {bounds[1]:.4f}" if bounds else ""


def _name(entry: dict[str, Any]) -> str:
    return str(entry["title"] or entry["candidate_id"])
