"""Reads the first rows of a log, drafts a config, and previews its labels and split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tfrs_twotower.datasets.draft import draft_config, feature_of, files_section
from tfrs_twotower.datasets.files import CONFIG_FILE
from tfrs_twotower.datasets.guessing import look_at
from tfrs_twotower.datasets.heads import ASSUMED_ENCODING, Head, read_head
from tfrs_twotower.datasets.preview import (
    LabelPreview,
    SplitPreview,
    preview_labels,
    preview_split,
    share_not_in_train,
)
from tfrs_twotower.datasets.roles import Contents, Roles, guess_roles, runner_up
from tfrs_twotower.schema import Config, Parameter, UsageError, UserError, parse_config
from tfrs_twotower.schema.file_shapes import EXPECTED
from tfrs_twotower.schema.hints import MUCH_LEFT_OUT

MAX_ROWS = 50_000
FIRST_ROWS = 5
KINDS = ("interactions", "candidates", "queries")


@dataclass(frozen=True)
class ColumnGuess:
    """The guessed meaning of a column, in words."""

    file: str  # interactions, candidates or queries
    column: str
    meaning: str


@dataclass(frozen=True)
class Inspection:
    """The first rows of a dataset folder, and the config drafted from them."""

    files: dict[str, tuple[str, ...]]  # Names of the files, by kind.
    num_rows: int  # Interactions read.
    is_whole_log: bool  # Whether that was all of them.
    num_unreadable: int  # Lines of the interactions that are no record.
    columns: tuple[ColumnGuess, ...]
    warnings: tuple[str, ...]
    config_text: str
    config: Config
    labels: tuple[LabelPreview, ...]
    splits: tuple[SplitPreview, ...]
    first_rows: tuple[dict[str, str], ...]


def inspect_dataset(
    folder: Path,
    *,
    max_rows: int = MAX_ROWS,
    roles: Mapping[str, str] | None = None,
    time_format: str | None = None,
) -> Inspection:
    """Reads the first rows of a dataset folder and drafts a config.

    Args:
        folder: With interactions*, and perhaps candidates* and queries*; see
            `file_shapes.local_files`.
        max_rows: How many rows of each kind to read.
        roles: Columns that are known, by role (query_id, candidate_id, timestamp, event, value).
        time_format: How times are written, where it is known; see `columns.time_format`.

    Returns:
        The draft, with its labels and its split of the rows read.

    Raises:
        UserError: If there is no log, nothing in it, or no column that can be an id.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}: name the folder of your interactions file")
    read = {kind: read_head(folder, kind, max_rows) for kind in KINDS}
    heads = {kind: head for kind, head in read.items() if head is not None}
    if "interactions" not in heads:
        raise UserError(
            f"no interactions in {folder}: expected interactions* as {EXPECTED}; files of other "
            "names: `files.paths` of the config"
        )
    log = heads["interactions"]
    if log.rows.empty:
        raise UserError(f"{folder / log.file_names[0]} has no rows: there is nothing to learn from")
    contents = {
        kind: {str(column): look_at(head.rows[column], time_format) for column in head.rows}
        for kind, head in heads.items()
    }
    named = roles or {}
    found = guess_roles(heads, contents, folder=str(folder), named=named)
    text = draft_config(found, contents, log.rows, files_section(heads))
    config = parse_config(text, CONFIG_FILE)
    unit = contents["interactions"][found.timestamp].unit if found.timestamp else None
    return Inspection(
        files={kind: head.file_names for kind, head in heads.items()},
        num_rows=len(log.rows),
        is_whole_log=log.is_whole,
        num_unreadable=log.num_unreadable,
        columns=tuple(_column_guesses(found, contents)),
        warnings=(
            *_competitors(found, contents["interactions"], named),
            *_warnings(found, heads),
            *_left_out(heads, config, unit),
        ),
        config_text=text,
        config=config,
        labels=tuple(preview_labels(log.rows, config)),
        splits=tuple(preview_split(log.rows, config, unit)),
        first_rows=tuple(
            {str(column): str(value) for column, value in row.items()}
            for row in log.rows.head(FIRST_ROWS).to_dict("records")
        ),
    )


def write_config(folder: Path, inspection: Inspection, *, overwrite: bool = False) -> Path:
    """Writes the drafted config into the folder.

    Args:
        folder: The dataset folder.
        inspection: Of that folder.
        overwrite: Whether a config that is there may be replaced.

    Returns:
        The file written.

    Raises:
        UsageError: If there is a config already.
        UserError: If the folder cannot be written.
    """
    path = folder / CONFIG_FILE
    if path.exists() and not overwrite:
        raise UsageError(
            f"{path} exists already: pass ", Parameter("overwrite", True), " to replace it"
        )
    beside = path.with_name(f"{CONFIG_FILE}.tmp")
    try:
        beside.write_text(inspection.config_text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def _column_guesses(roles: Roles, contents: Mapping[str, Contents]) -> Iterator[ColumnGuess]:
    by_file: dict[str, dict[str | None, str]] = {
        "interactions": {
            roles.query_id: "query id",
            roles.candidate_id: "candidate id",
            roles.timestamp: "timestamp",
            roles.order: "order of events",
            roles.event: "event type",
            roles.value: "value",
            roles.split: "split",
        },
        "candidates": {
            roles.candidate_id: "candidate id",
            roles.title: "title",
            roles.available_from: "available from",
        },
        "queries": {roles.query_id: "query id"},
    }
    for file, columns in contents.items():
        for column, content in columns.items():
            role = by_file[file].get(column)
            feature = feature_of(column, content)
            if role is not None:
                meaning = f"{role}, {content.unit}" if content.unit else role
            elif feature is not None and file == "interactions":
                meaning = f"{content.kind}, not used: see features.context"
            else:
                meaning = content.kind if feature is not None else "not used"
            yield ColumnGuess(file, column, meaning)


def _competitors(roles: Roles, log: Contents, named: Mapping[str, str]) -> Iterator[str]:
    """Tells which id columns were passed over."""
    for role, chosen in (("query_id", roles.query_id), ("candidate_id", roles.candidate_id)):
        other = runner_up(roles, log, role)
        if role not in named and other is not None:
            yield (
                f"`columns.{role}` is `{chosen}` ({log[chosen].num_distinct:,} different values); "
                f"`{other}` ({log[other].num_distinct:,}) may be meant: see `twotower init --help`"
            )


def _warnings(roles: Roles, heads: Mapping[str, Head]) -> Iterator[str]:
    log = heads["interactions"]
    for kind, head in heads.items():
        if head.writing.header:
            yield (
                f"{head.file_names[0]} has no header: the columns are numbered in "
                f"`files.header.{kind}`; give them names there, and where else they stand"
            )
        if head.writing.encoding == ASSUMED_ENCODING:
            yield (
                f"{head.file_names[0]} is not UTF-8: {ASSUMED_ENCODING} is assumed; see whether "
                "letters with accents are right, or change `files.encoding`"
            )
    if roles.timestamp is None and roles.order is None:
        yield "no column holds times: histories and the split know no order"
    if log.num_unreadable:
        yield f"{log.num_unreadable:,} of the lines read are no record: they would be rejected"
    candidates = heads.get("candidates")
    if candidates is not None and candidates.is_whole:
        known = candidates.rows[roles.candidate_id].astype(str)
        unknown = (~log.rows[roles.candidate_id].astype(str).isin(known)).sum()
        if unknown:
            yield (
                f"{unknown:,} of the rows read name a candidate that {candidates.file_names[0]} "
                "does not list: they would be rejected"
            )


def _left_out(heads: Mapping[str, Head], config: Config, unit: str | None) -> Iterator[str]:
    """Tells how many events have a candidate that is newer than train; see `hints.left_out`."""
    if "candidates" in heads:
        return
    share = share_not_in_train(heads["interactions"].rows, config, unit)
    if share >= MUCH_LEFT_OUT:
        yield (
            f"{share:.0%} of the rows read that come after train have a candidate that train "
            "lacks: without a candidates file they are left out. Set `split.corpus: log` for a "
            "corpus of all ids of the log, or bring a candidates file"
        )
