"""Serves the page on the loopback."""

import errno
from collections.abc import Callable

import panel as pn

from tfrs_twotower.evaluation.explore.explored import Explored
from tfrs_twotower.evaluation.explore.page import TITLE, template
from tfrs_twotower.schema import UserError

LOOPBACK = "127.0.0.1"


def serve_page(explored: Explored, port: int, on_start: Callable[[str], None]) -> None:
    """Serves until the process is interrupted.

    Only pages of this very address may open a session.

    Args:
        explored: What is looked at.
        port: 0: a free one.
        on_start: Called with the address, once it answers.

    Raises:
        UserError: If the port is taken.
    """
    try:
        server = pn.io.server.get_server(
            lambda: template(explored), port=port, address=LOOPBACK, title=TITLE
        )
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UserError(f"port {port} is taken: give another one, or --port 0") from error
    on_start(f"http://localhost:{server.port}/")
    server.start()
    try:
        server.io_loop.start()
    finally:
        server.stop()
