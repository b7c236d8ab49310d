"""The errors a user can cause; everything else is a bug and keeps its traceback."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Parameter:
    """A parameter that a message names: `overwrite=True` in Python, `--overwrite` as an option.

    Attributes:
        name: As Python spells it.
        value: What to set it to; None: the message names the parameter alone.
    """

    name: str
    value: object = None

    def __str__(self) -> str:
        """As Python spells it."""
        return f"`{self.name}`" if self.value is None else f"`{self.name}={self.value!r}`"

    def as_option(self) -> str:
        """As the command line spells it; a flag has no value."""
        option = f"--{self.name}"
        return option if self.value in (None, True) else f"{option} {self.value}"


class UserError(Exception):
    """What went wrong, where, and how to fix it, in one or two lines.

    The command lines print `as_command_line` alone and exit with `exit_code`.
    """

    exit_code = 1

    def __init__(self, *message: str | Parameter) -> None:
        """Takes the message, cut where it names parameters."""
        super().__init__(*message)

    def __str__(self) -> str:
        """The message for a caller in Python."""
        return "".join(map(str, self.args))

    def as_command_line(self) -> str:
        """The message for a user of the command line."""
        return "".join(
            part.as_option() if isinstance(part, Parameter) else str(part) for part in self.args
        )


class UsageError(UserError):
    """The request itself is wrong: an option, an argument, the configuration."""

    exit_code = 2


class TrainingDiverged(UserError):
    """Training left the finite numbers: its loss or its embeddings hold NaN or infinity."""

    @classmethod
    def because(cls, symptom: str) -> Self:
        """The error with its remedy.

        Args:
            symptom: What is not finite, and where.
        """
        return cls(
            f"training diverged: {symptom}; lower `training.learning_rate` or raise "
            "`loss.temperature`"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error) or type(error).__name__).splitlines()[0]
