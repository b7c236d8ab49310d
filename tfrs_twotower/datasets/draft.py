"""A commented `twotower.yaml`, drafted from the columns of a log."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import pandas as pd
import yaml

from tfrs_twotower.datasets.guessing import Content
from tfrs_twotower.datasets.heads import ASSUMED_ENCODING, Head
from tfrs_twotower.datasets.roles import Contents, Roles
from tfrs_twotower.schema.sides import RESERVED_NAMES, is_feature_name
from tfrs_twotower.schema.training import Training

# Event types by name; other types are positives of weight 1.
WEAK_EVENTS = frozenset(("view", "pageview", "detailview", "open", "visit"))
STRONG_EVENTS = frozenset(("purchase", "buy", "order", "transaction", "checkout", "subscribe"))
NEGATIVE_EVENTS = frozenset(("impression", "dislike", "skip", "hide", "downvote", "thumbsdown"))
# Rarer event types and values are taken for mistakes.
MIN_SHARE = 0.001
MAX_ATTRIBUTES = 4
# Features that are no column of the queries file.
HISTORY, CLOCK = "history", "clock"


class _Line(NamedTuple):
    key: str | float
    value: Any
    comment: str = ""
    is_active: bool = True


def draft_config(
    roles: Roles, contents: Mapping[str, Contents], rows: pd.DataFrame, files: str = ""
) -> str:
    """Writes the config.

    Args:
        roles: Columns by role.
        contents: What each column holds, by kind of file.
        rows: Of the interactions.
        files: The section `files`; see `files_section`.

    Returns:
        YAML text with comments, which `parse_config` accepts.
    """
    candidates = contents.get("candidates", {})
    attributes = [
        column
        for column, content in candidates.items()
        if content.kind in ("categorical", "multi_categorical", "number", "boolean")
        and column != roles.candidate_id
    ]
    parts = [
        "# Drafted by `twotower init` from the first rows of the files: check it first.\n"
        "# `twotower config` prints every key with its default; what is left out keeps it.",
        *([files] if files else []),
        _section("columns", _columns(roles, contents), "Which column plays which role."),
        _labels(roles, contents["interactions"], rows),
        _features(roles, contents),
        _split(roles, rows),
        _section(
            "training",
            [_Line(key, getattr(Training(), key)) for key in ("epochs", "learning_rate")],
            "The best epoch on the validation part is kept.",
        ),
    ]
    if attributes:
        shown = [_Line("attributes", attributes[:MAX_ATTRIBUTES])]
        parts.append(_section("export", shown, "Shown with each candidate."))
    return "\n\n".join(parts) + "\n"


def files_section(heads: Mapping[str, Head]) -> str:
    """The section `files`, of what the files do not show by themselves; "" where they do."""
    lines = []
    headers = {kind: list(head.writing.header) for kind, head in heads.items()}
    if named := {kind: header for kind, header in headers.items() if header}:
        lines.append(_Line("header", named, "no header was found: give the columns their names"))
    if any(head.writing.decimal == "," for head in heads.values()):
        lines.append(_Line("decimal", ","))
    encodings = [head.writing.encoding for head in heads.values()]
    if others := [encoding for encoding in encodings if encoding != "utf-8"]:
        comment = "assumed" if others[0] == ASSUMED_ENCODING else ""
        lines.append(_Line("encoding", others[0], comment))
    return _section("files", lines, "How the files are written.") if lines else ""


def feature_of(column: str, content: Content) -> dict[str, Any] | None:
    """The feature for a column, as in the config; None where no kind suits it."""
    match content.kind:
        case _ if content.num_distinct < 2 or _is_foreign_id(column, content):
            return None
        case "vector":
            return {"kind": "vector", "dimension": content.dimension}
        case "multi_categorical" if content.separator:
            return {"kind": "multi_categorical", "separator": content.separator}
        case "number" if content.is_skewed:
            return {"kind": "number", "normalize": "log"}
        case "moment" | "unclear":
            return None
        case kind:
            return {"kind": kind}


def _is_foreign_id(column: str, content: Content) -> bool:
    return re.search(r"(_|\b)id$|[a-z]I[dD]$", column) is not None and content.kind == "number"


_ROLE_COMMENTS = {
    "order": "orders the events of one query",
    "event": "see labels",
    "value": "see labels",
    "split": "train, validation or test",
    "title": "of the candidates file: the name shown to people",
    "available_from": "a time; a candidate is not recommended before",
}


def _columns(roles: Roles, contents: Mapping[str, Contents]) -> Iterator[_Line]:
    comments = dict(_ROLE_COMMENTS)
    unit = contents["interactions"][roles.timestamp].unit if roles.timestamp else None
    known = {"seconds": "Unix seconds, UTC", "text": "ISO 8601, UTC where no zone is given"}
    if roles.timestamp:
        comments["timestamp"] = known.get(unit or "", "" if unit else "holds no times")
    for role, column in asdict(roles).items():
        if column is not None:
            yield _Line(role, column, comments.get(role, ""))
        if role == "timestamp" and unit and unit not in known:
            comment = "check that day and month are told apart" if "%m" in unit else ""
            yield _Line("time_format", unit, comment)


def _labels(roles: Roles, log: Contents, rows: pd.DataFrame) -> str:
    lines: list[str] = []
    if roles.event:
        lines.append("  # `weight`: in the loss; `label: 0`: an explicit negative.")
        lines += ["  events:", *_rendered(_event_rules(rows[roles.event]), 4)]
    if roles.value:
        lines += _value_rules(rows[roles.value])
    if not any(line for line in lines if not line.lstrip().startswith("#")):
        return "\n".join(["# No labels: every row is a positive of weight 1.", *lines])
    return "\n".join(["# Which rows are positives, and how much they weigh.", "labels:", *lines])


def _event_rules(events: pd.Series) -> Iterator[_Line]:
    events = events.dropna().astype(str)
    counts = events[events != ""].value_counts()
    for event, count in counts.items():
        comment = f"{count:,} of the rows read"
        plain = re.sub(r"[^a-z]", "", str(event).lower())
        rule: dict[str, float] = {"label": 0 if plain in NEGATIVE_EVENTS else 1}
        if plain in WEAK_EVENTS | STRONG_EVENTS:
            rule["weight"] = 0.5 if plain in WEAK_EVENTS else 2.0
        is_usual = bool(count >= MIN_SHARE * counts.sum())
        if not is_usual:
            comment += ": a mistake? without a rule it is rejected"
        yield _Line(str(event), rule, comment, is_usual)


def _value_rules(values: pd.Series) -> list[str]:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64").dropna()
    counts = numbers.value_counts()
    # Where values are few altogether, all of them count.
    usual = counts[counts >= min(MIN_SHARE * len(values), counts.max())].index
    low, high = usual.min(), usual.max()
    if set(usual) <= {-1.0, 0.0, 1.0, 2.0} and len(usual) > 1:
        rules = [
            _Line(
                int(value),
                {"label": 0} if value <= 0 else {"label": 1, "weight": float(value)},
                f"{counts[value]:,} of the rows read",
            )
            for value in sorted(usual)
        ]
        return [
            "  # A value, where there is one, decides the label.",
            "  values:",
            *_rendered(rules, 4),
        ]
    liked = round(low + 0.75 * (high - low))
    return [
        f"  # Values from {low:g} to {high:g}; all are positives here. To learn from liked",
        "  # candidates only, with the others as explicit negatives, put into `labels`:",
        f"  # positive_from: {liked}",
    ]


def _features(roles: Roles, contents: Mapping[str, Contents]) -> str:
    queries, candidates = contents.get("queries", {}), contents.get("candidates", {})
    taken = {roles.query_id, roles.candidate_id, roles.available_from}
    query_lines = [
        _Line(
            _feature_name(roles.query_id, "query"),
            {"kind": "id", "dropout": 0.1},
            "a tenth of the training ids are made unknown, for new ones",
        ),
        *_feature_lines(queries, taken),
        _Line(HISTORY, {"kind": "history", "length": 20}, "the last candidates before"),
    ]
    content_lines = list(_feature_lines(candidates, taken, roles.title))
    has_content = any(line.is_active for line in content_lines)
    candidate_lines = [
        _Line(
            _feature_name(roles.candidate_id, "candidate"),
            {"kind": "id", "dropout": 0.1} if has_content else {"kind": "id"},
            "new ones are known by their content alone" if has_content else "",
        ),
        *content_lines,
    ]
    context_lines = list(_context_lines(roles, contents["interactions"]))
    lines = ["features:", "  # Known of the query ahead.", "  query:"]
    lines += _rendered(query_lines, 4)
    if context_lines:
        lines.append("  # Known at the moment of the query.")
        lines.append(
            "  context:" if any(line.is_active for line in context_lines) else "  # context:"
        )
        lines += _rendered(context_lines, 4)
    return "\n".join([*lines, "  candidate:", *_rendered(candidate_lines, 4)])


def _feature_lines(
    columns: Contents, taken: set[str | None], title: str | None = None
) -> Iterator[_Line]:
    for column, content in columns.items():
        if column in taken:
            continue
        words = replace(content, kind="text") if column == title else content
        feature = feature_of(column, words)
        name = _feature_name(column, f"{column}_value")
        if feature is None:
            yield _Line(column, f"not used ({_why_not(content)})", is_active=False)
        elif name == column:
            yield _Line(name, feature)
        else:
            yield _Line(name, {**feature, "column": column})


def _context_lines(roles: Roles, log: Contents) -> Iterator[_Line]:
    if roles.timestamp and log[roles.timestamp].unit:
        clock = {"kind": "timestamp", "column": roles.timestamp, "time_zone": "UTC"}
        # Not by default: from a short log it learns which hour of train had which candidates.
        comment = "hour and weekday, there: compare recall with and without it"
        yield _Line(CLOCK, clock, comment, is_active=False)
    for column, content in log.items():
        feature = feature_of(column, content)
        if column in roles.of_interactions or feature is None:
            continue
        comment = "use it if it is known when candidates are asked for"
        yield _Line(_feature_name(column, f"{column}_value"), feature, comment, is_active=False)


def _why_not(content: Content) -> str:
    if content.num_distinct < 2:
        return "one value or none"
    if content.kind == "moment":
        return "a moment"
    return f"{content.num_distinct:,} different values, an id or a link"


def _feature_name(column: str, otherwise: str) -> str:
    """The column's name, or a legal one: a feature's name is an input of the served model."""
    if column in RESERVED_NAMES | {HISTORY, CLOCK}:
        return otherwise
    name = re.sub(r"[^A-Za-z0-9_]+", "_", column).strip("_")
    return name if is_feature_name(name) else f"f_{name}"


def _split(roles: Roles, rows: pd.DataFrame) -> str:
    if roles.split:
        has_validation = (rows[roles.split] == "validation").any()
        lines = [_Line("by", "column")]
        if not has_validation:
            comment = "share of train, by hash, that chooses the best epoch"
            lines.append(_Line("hold_out", 0.1, comment))
        return _section("split", lines, "As given in the data.")
    if roles.timestamp:
        lines = [_Line("by", "time"), _Line("validation", 0.1), _Line("test", 0.1)]
        text = "The last tenth of the events tests, the tenth before it chooses the best epoch."
        return _section("split", lines, text)
    if roles.order:
        text = "The last event of each query tests, the one before validates."
        return _section("split", [_Line("by", "leave_last_out")], text)
    text = "Without times the split is by hash, which leaks the future: add a timestamp if you can."
    lines = [_Line("by", "random"), _Line("validation", 0.1), _Line("test", 0.1)]
    return _section("split", lines, text)


def _section(name: str, lines: Iterator[_Line] | list[_Line], comment: str) -> str:
    return "\n".join([f"# {comment}", f"{name}:", *_rendered(lines, 2)])


def _rendered(lines: Iterator[_Line] | list[_Line], indent: int) -> Iterator[str]:
    for line in lines:
        sign = "" if line.is_active else "# "
        comment = f"  # {line.comment}" if line.comment else ""
        yield f"{' ' * indent}{sign}{_flow(line.key)}: {_flow(line.value)}{comment}"


def _flow(value: object) -> str:
    """YAML on one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text.removesuffix("...\n").strip()
