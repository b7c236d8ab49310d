"""Packages that a part of the project needs, and the extra that brings them.

`pip install tfrs-twotower` brings what the clients need, and the extra `all` everything.
"""

from importlib.util import find_spec

from tfrs_twotower.schema.errors import UserError


def need(extra: str, *modules: str) -> None:
    """Checks that modules are installed, without importing them.

    Args:
        extra: That brings them.
        modules: Their names, top-level.

    Raises:
        UserError: If one is not.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        names = ", ".join(missing)
        raise UserError(f"not installed: {names}; pip install 'tfrs-twotower[{extra}]'")
