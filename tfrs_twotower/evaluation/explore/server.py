"""Serves the page on the loopback."""

from collections.abc import Callable

import panel as pn

from tfrs_twotower.evaluation.explore.explored import Explored
from tfrs_twotower.evaluation.explore.page import TITLE, template

LOOPBACK = "127.0.0.1"


def serve_page(explored: Explored, port: int, on_start: Callable[[str], None]) -> None:
    """Serves until the process is interrupted.

    Only pages of this very address may open a session.

    Args:
        explored: What is looked at.
        port: 0: a free one.
        on_start: Called with the address, once it answers.
    """
    server = pn.io.server.get_server(
        lambda: template(explored), port=port, address=LOOPBACK, title=TITLE
    )
    on_start(f"http://localhost:{server.port}/")
    server.start()
    try:
        server.io_loop.start()
    finally:
        server.stop()
