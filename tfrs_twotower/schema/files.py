"""The section `files`: how the files of a dataset folder are named and written."""

import codecs
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from tfrs_twotower.schema.strict import Problem, Strict

Kind = Literal["interactions", "candidates", "queries"]


class Files(Strict):
    """How the files are named and written, if the files themselves do not show it."""

    paths: dict[Kind, str] = Field(
        default_factory=dict,
        description="For files that are not named after their kind: a pattern within the dataset "
        "folder, such as {interactions: 'logs/**/*.csv'}.",
    )
    header: dict[Kind, list[str]] = Field(
        default_factory=dict,
        description="The column names of CSV files that have no header: "
        "{interactions: [user_id, item_id, timestamp]}.",
    )
    separator: str | None = Field(
        None,
        description="The separator in CSV files. Default: a tab in .tsv files, otherwise whichever "
        "of comma, semicolon, tab and bar the first line shows.",
    )
    decimal: Literal[".", ","] = Field(".", description="The decimal sign in CSV files.")
    encoding: str = Field(
        "utf-8", description="The encoding of text files, such as cp1252 or utf-16."
    )

    def problems(self) -> Iterator[Problem]:
        """Encodings that there are not, separators that separate nothing, columns named twice."""
        try:
            "".encode(self.encoding)
        except LookupError:  # Also of codecs that are none of text.
            yield "encoding", f"{self.encoding!r} is no encoding: expected such as cp1252 or utf-16"
        separator = self.separator
        if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
            yield "separator", f"{separator!r} is no separator: expected one character"
        elif separator is not None and not separator.isascii():
            yield "separator", f"{separator!r} is not ASCII"
        for kind, names in self.header.items():
            if not names or len(set(names)) < len(names):
                yield f"header.{kind}", "needs names, all different"

    def path_of(self, kind: str) -> str | None:
        """The pattern of the files of a kind, where one is stated."""
        return next((path for named, path in self.paths.items() if named == kind), None)

    def header_of(self, kind: str) -> list[str] | None:
        """The columns of the files of a kind, where they are stated."""
        return next((names for named, names in self.header.items() if named == kind), None)

    @property
    def is_utf8(self) -> bool:
        """Whether text can be read as it stands."""
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig", "ascii")
