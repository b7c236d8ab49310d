"""The errors a user can cause; everything else is a bug and keeps its traceback."""


class UserError(Exception):
    """What went wrong, where, and how to mend it, in one or two lines.

    The command lines print the message alone and exit with `exit_code`.
    """

    exit_code = 1


class UsageError(UserError):
    """The request itself is wrong: an option, an argument, the configuration."""

    exit_code = 2


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error) or type(error).__name__).splitlines()[0]
