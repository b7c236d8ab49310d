"""How results show themselves: as text, as HTML in a notebook, as a pandas frame."""

import html
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Longer tables show their first and last rows.
MAX_ROWS = 10


class Tabular(ABC):
    """A result with a table.

    A subclass says in a line what it is (`title`) and gives its table (`to_frame`); where that is
    too wide to read, `headline` gives the part that is printed. A dataclass needs `repr=False`, or
    its own `repr` hides this one.
    """

    @property
    @abstractmethod
    def title(self) -> str:
        """What the result is, in one line."""

    @abstractmethod
    def to_frame(self) -> "pd.DataFrame":
        """The whole table."""

    def headline(self) -> "pd.DataFrame":
        """The part of the table that is printed; the whole table where that is small."""
        return self.to_frame()

    def __repr__(self) -> str:
        """The title above the headline, with numbers to four digits."""
        table = self.headline()
        if table.empty:
            return self.title
        text = table.to_string(max_rows=MAX_ROWS, float_format=_number, na_rep="-")
        return f"{self.title}\n{text}"

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        title = f"<p>{html.escape(self.title)}</p>"
        table = self.headline()
        if table.empty:
            return title
        return title + table.to_html(max_rows=MAX_ROWS, float_format=_number, na_rep="-")


def _number(value: float) -> str:
    return f"{value:.4f}"
