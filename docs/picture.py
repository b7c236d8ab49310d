"""Draws two pictures in docs/images: the answers at the end of `twotower demo`, and its page.

    python docs/picture.py [WORKDIR]

of a demo that has run already: its steps are skipped, its models are served and asked. Chromium
takes the page of `twotower explore`.
"""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).parent / "images"


def main(workdir: str = "demo") -> None:
    """Writes both pictures, of the demo in `workdir`."""
    draw_answers(workdir)
    draw_page(Path(workdir) / "models")


def draw_answers(workdir: str) -> None:
    """Writes answers.svg."""
    command = [sys.executable, "-m", "tfrs_twotower.cli", "demo", "--workdir", workdir]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    answers = printed[printed.index("User ") : printed.index("Steps")].rstrip()
    width = max(map(len, answers.splitlines()))
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(Text(answers))
    drawn = console.export_svg(title="twotower demo")
    # Rich names fonts of a network; a picture in a page may not load them anyway.
    (IMAGES / "answers.svg").write_text(
        re.sub(r"@font-face \{.*?\}\n?", "", drawn, flags=re.DOTALL), encoding="utf-8"
    )


def draw_page(models: Path) -> None:
    """Writes explore.png: a Friday of the first known user."""
    command = [sys.executable, "-m", "tfrs_twotower.cli", "explore", "--models", str(models)]
    with (
        subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        try:
            address = re.search(r"http://\S+", server.stdout.readline()).group()
            chromium = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(address)
            page.get_by_label("clock: weekday").select_option("Friday")
            page.wait_for_timeout(3000)
            page.screenshot(path=IMAGES / "explore.png")
            browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
