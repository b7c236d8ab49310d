"""Finds ids and titles by words."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# What a request may cost is bounded, whatever was typed.
MAX_WORDS, MAX_CHARACTERS = 8, 200


class TextSearch:
    """Texts in which all words of a search must occur, in any order and case."""

    def __init__(
        self,
        ids: pa.Array,
        titles: Sequence[str] | None = None,
        order: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Lower-cases the texts once.

        Args:
            ids: A text a row; a search for a whole id finds it first.
            titles: A text a row that is searched as well.
            order: The rows, those to show first at the front; None: as they are.
        """
        self._ids = pc.utf8_lower(pc.cast(ids, pa.string()))
        self._order = np.arange(len(ids)) if order is None else order
        self._texts = self._ids
        if titles is not None:
            lowered = pc.utf8_lower(pa.array(titles, pa.string()))
            self._texts = pc.binary_join_element_wise(self._ids, lowered, " ")

    def find(self, words: str, limit: int) -> list[int]:
        """Rows whose text has all the words; of no words, the first rows.

        Args:
            words: What was typed.
            limit: The most rows.
        """
        typed = words[:MAX_CHARACTERS].lower().strip()
        is_found = np.ones(len(self._ids), bool)
        for word in typed.split()[:MAX_WORDS]:
            is_found &= _as_numpy(pc.match_substring(self._texts, word))
        exact = np.flatnonzero(_as_numpy(pc.equal(self._ids, typed))).tolist()
        rows = self._order[is_found[self._order]][: limit + len(exact)].tolist()
        return list(dict.fromkeys([*exact, *rows]))[:limit]


def _as_numpy(flags: pa.Array) -> npt.NDArray[np.bool_]:
    return pc.fill_null(flags, False).to_numpy(zero_copy_only=False)
