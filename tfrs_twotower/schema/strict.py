"""The base of every section of the config: strict types, and rules that are all told at once."""

from collections.abc import Iterable, Iterator
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

Problem = tuple[str, str]
"""The path of a key, with dots, and what is wrong with it."""


class ImpossibleSettings(ValueError):
    """Settings that are legal one by one but not together.

    Attributes:
        problems: All of them; paths begin at the section that was checked.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Holds the problems; the message has one line for each."""
        self.problems = tuple(problems)
        super().__init__("\n".join(": ".join(filter(None, problem)) for problem in self.problems))


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, silent type changes and infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the settings together, once each is legal by itself.

        Yields:
            Paths that begin at this section ("" is the section itself), with messages.
        """
        return iter(())

    @model_validator(mode="after")
    def _has_no_problems(self) -> Self:
        if problems := list(self.problems()):
            raise ImpossibleSettings(problems)
        return self
