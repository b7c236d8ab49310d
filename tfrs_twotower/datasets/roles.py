"""Which column of a log plays which role, guessed from names, values and shared columns."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from tfrs_twotower.datasets.guessing import Content, looks_like_dates
from tfrs_twotower.datasets.heads import Head
from tfrs_twotower.schema import SPLITS, Parameter, UsageError, UserError

Contents = Mapping[str, Content]

# Names without case and punctuation, the likeliest first.
QUERY_ID_NAMES = (
    "queryid userid user uid customerid customer clientid client visitorid visitor memberid member "
    "accountid account personid person profileid buyerid reviewerid readerid listenerid viewerid "
    "query sessionid session"
)
CANDIDATE_ID_NAMES = (
    "candidateid itemid item iid productid product movieid movie filmid film articleid article "
    "newsid bookid book isbn trackid track songid song artistid artist videoid video showid "
    "contentid postid recipeid gameid game appid courseid listingid adid jobid hotelid placeid "
    "venueid poiid locationid businessid parentasin asin sku stockcode documentid docid pageid "
    "candidate"
)
TIMESTAMP_NAMES = (
    "timestamp ts eventtime time datetime date createdat occurredat unixtime unixtimestamp "
    "unixreviewtime ratingtime"
)
EVENT_NAMES = (
    "event eventtype eventname action actiontype interaction interactiontype behavior behaviour "
    "behaviortype activity type"
)
VALUE_NAMES = "rating ratings stars score thumbs thumb feedback reaction liked like value"
SPLIT_NAMES = "split set part partition subset"
ORDER_NAMES = "order position seq sequence step index eventindex timestamp ts time"
TITLE_NAMES = "title name headline itemname productname movietitle itemtitle producttitle label"
AVAILABLE_FROM_NAMES = (
    "availablefrom availableat publishedat published releasedat releasedate createdat launchedat"
)
MAX_EVENTS, MAX_VALUES = 50, 100
# Units that `twotower prepare` reads without a `columns.time_format`.
READ_AS_THEY_ARE = ("seconds", "text")


@dataclass(frozen=True)
class Roles:
    """The columns of `columns:` in the config; None where nothing fits."""

    query_id: str
    candidate_id: str
    timestamp: str | None
    order: str | None
    event: str | None
    value: str | None
    split: str | None
    title: str | None
    available_from: str | None

    @property
    def of_interactions(self) -> frozenset[str | None]:
        """Columns of the interactions that have a role."""
        roles = (self.query_id, self.candidate_id, self.timestamp, self.order, self.event)
        return frozenset((*roles, self.value, self.split))


def guess_roles(
    heads: Mapping[str, Head],
    contents: Mapping[str, Contents],
    *,
    folder: str,
    named: Mapping[str, str] | None = None,
) -> Roles:
    """Guesses the roles.

    Args:
        heads: By kind of file; interactions are there.
        contents: Of each column, by kind of file.
        folder: For messages.
        named: Columns that are known, by role; the others are guessed.

    Returns:
        The roles.

    Raises:
        UsageError: If a named column is not there.
        UserError: If a column of ids cannot be told, or the only dates are of no known format.
    """
    named = named or {}
    log, rows = contents["interactions"], heads["interactions"].rows
    for role, column in named.items():
        if column not in log:
            there = ", ".join(log)
            raise UsageError(
                Parameter(role), f": no column `{column}` in the interactions: they have {there}"
            )
    recurring = _recurring(log, len(rows))
    query_id = named.get("query_id") or _id_column(heads, "queries", QUERY_ID_NAMES, recurring)
    candidate_id = named.get("candidate_id") or _id_column(
        heads, "candidates", CANDIDATE_ID_NAMES, recurring
    )
    for found, role, what in (
        (query_id, "query_id", "user"),
        (candidate_id, "candidate_id", "item"),
    ):
        if found is None:
            head = heads["interactions"]
            name, there = head.file_names[0], ", ".join(log)
            if head.writing.header:
                first = (f"{column} such as {rows[column].iloc[0]!r}" for column in log)
                name, there = f"{name}, which has no header,", ", ".join(first)
            raise UserError(
                f"{folder}: cannot tell which column of {name} is the {what} ({there}): pass ",
                Parameter(role),
            )
    assert query_id is not None
    assert candidate_id is not None
    ids = {query_id, candidate_id}
    moments = [column for column, content in log.items() if content.kind == "moment"]
    moments = [column for column in moments if column not in ids]
    timestamp = named.get("timestamp") or _named(moments, TIMESTAMP_NAMES)
    timestamp = timestamp or next(iter(moments), None)
    if timestamp is None or log[timestamp].kind != "moment":
        _check_dates(rows, [timestamp] if timestamp else [c for c in log if c not in ids])
    free = [column for column in log if column not in {*ids, timestamp}]
    candidates = contents.get("candidates", {})
    # One format for all times of the config, but seconds and ISO 8601 go together.
    unit = log[timestamp].unit if timestamp else None
    units = (unit,) if unit not in (None, *READ_AS_THEY_ARE) else READ_AS_THEY_ARE
    starts = [column for column, content in candidates.items() if content.unit in units]
    return Roles(
        query_id=query_id,
        candidate_id=candidate_id,
        timestamp=timestamp,
        order=_order_column(rows, log, free, query_id),
        event=named.get("event") or _named([c for c in free if _is_event(log[c])], EVENT_NAMES),
        value=named.get("value") or _named([c for c in free if _is_value(log[c])], VALUE_NAMES),
        split=_named([c for c in free if _is_split(rows[c])], SPLIT_NAMES),
        title=_named([c for c in candidates if c != candidate_id], TITLE_NAMES),
        available_from=_named(starts, AVAILABLE_FROM_NAMES),
    )


def runner_up(roles: Roles, log: Contents, role: str) -> str | None:
    """The column of the log that is the next likeliest to hold the ids of a role, or None."""
    names = {"query_id": QUERY_ID_NAMES, "candidate_id": CANDIDATE_ID_NAMES}[role]
    free = [column for column in log if column not in roles.of_interactions]
    return _named([column for column in free if log[column].num_distinct > 1], names)


def _check_dates(rows: pd.DataFrame, columns: list[str]) -> None:
    """Refuses a log whose only times cannot be read, rather than splitting it at random."""
    for column in columns:
        text = rows[column].dropna().astype(str)
        text = text[text != ""]
        if len(text) and looks_like_dates(text):
            raise UserError(
                f"`{column}` holds dates such as {text.iloc[0]!r}, in no format that is "
                "recognised: state it (`columns.time_format` of the config) by ",
                Parameter("time_format"),
                ", such as '%d of %b %Y'",
            )


def _named(columns: list[str], names: str) -> str | None:
    """The column with the first of some names that is there."""
    plain = {re.sub(r"[^a-z0-9]", "", column.lower()): column for column in columns}
    return next((plain[name] for name in names.split() if name in plain), None)


def _recurring(log: Contents, num_rows: int) -> list[str]:
    """The columns with several values of which some recur, as the ids of users and items do.

    The name of the shop, the same in every row, or the id of the event is neither.
    """
    return [column for column, content in log.items() if 1 < content.num_distinct < num_rows]


def _id_column(
    heads: Mapping[str, Head], kind: str, names: str, recurring: list[str]
) -> str | None:
    """By name, or as the one column that is a key of the other file and stands in the log."""
    log = [str(column) for column in heads["interactions"].rows]
    other = heads.get(kind)
    if other is None:
        return _named(recurring, names) or _named(log, names)
    shared = [column for column in log if column in other.rows]
    keys = [column for column in shared if other.rows[column].is_unique]
    return _named(keys or shared, names) or (keys[0] if len(keys) == 1 else None)


def _order_column(rows: pd.DataFrame, log: Contents, free: list[str], query_id: str) -> str | None:
    numbers = [column for column in free if log[column].is_whole_number]
    found = _named(numbers, ORDER_NAMES)
    return found if found and not rows.duplicated([query_id, found]).any() else None


def _is_event(content: Content) -> bool:
    is_code = content.kind == "number" and content.is_whole_number
    return content.num_distinct <= MAX_EVENTS and (content.kind == "categorical" or is_code)


def _is_value(content: Content) -> bool:
    return content.kind in ("number", "boolean") and content.num_distinct <= MAX_VALUES


def _is_split(values: pd.Series) -> bool:
    return set(values.dropna().astype(str)) <= {*SPLITS}
