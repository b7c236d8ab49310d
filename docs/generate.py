"""Writes the pages that are made from the code, so that nothing is written twice.

The tour, the config's keys, the commands, the names of the public face, the age of the figures
and the drawing of the packages: `make docs` calls this before it builds the site. Git ignores what
is written, but for the page of benchmarks, which is read on GitHub, too.
"""

import contextlib
import html
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def main() -> None:
    """Writes every page."""
    sys.path.insert(0, str(ROOT))  # This checkout, whatever is installed.
    from docs import results

    pages = {
        "start/tour.md": tour(),
        "reference/config.md": config_keys(),
        "reference/commands.md": commands(),
        "reference/python.md": python_names(),
        "benchmarks.md": results.benchmarks_page(),
        "figures.md": results.age_page(),
        "images/layers.svg": layers_drawing(),
    }
    for path, text in pages.items():
        (DOCS / path).write_text(text, encoding="utf-8")


def tour() -> str:
    """The notebook as a page: its words and its code, without outputs."""
    cells = json.loads((ROOT / "notebooks/two_tower_tour.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
    parts = [
        source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for cell in cells
        if (source := "".join(cell["source"]))
    ]
    return "\n\n".join([*parts, "The notebook itself: `notebooks/two_tower_tour.ipynb`."]) + "\n"


def config_keys() -> str:
    """`twotower config`, a section of the config under a heading of its own."""
    from tfrs_twotower.schema.reference import reference

    head, *sections = re.split(r"\n\n(?=(?:#[^\n]*\n)*[a-z_]+:|# By side)", reference())
    lines = [
        "# Every key of twotower.yaml",
        "`twotower config` prints this page; the output is itself a config. Leave out what you do "
        "not change. Every mistake in a config is listed at once, with its path, what is expected "
        "and the nearest legal name. `--set path.to.key=value` overrides a key for one training.",
    ]
    for section in sections:
        keys = re.findall(r"^([a-z_]+):", section, re.MULTILINE)
        for_heading = ", ".join(keys) if keys else "features"
        lines += [f"## {for_heading}", f"```yaml\n{section.strip()}\n```"]
    assert head.startswith("# Every key")
    return "\n\n".join(lines) + "\n"


def commands() -> str:
    """Every command with its options, by the panels of the help."""
    from tfrs_twotower.cli import PANELS, app

    named = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [
        "# Commands",
        "Flags have underscores, as those of Beam and TF Serving have; hyphens are understood too. "
        "Results go to stdout (`--json` for machines), progress and warnings to stderr; the exit "
        "code is 0 for done, 1 for failed, 2 for misused, 130 for interrupted.",
    ]
    for panel in PANELS:
        lines.append(f"## {panel}")
        for name, command in named.items():
            if command.rich_help_panel == panel:
                lines += [f"### twotower {name}", *_command(name, command)]
    return "\n\n".join(lines) + "\n"


def _command(name: str, command: typer.core.TyperCommand) -> Iterator[str]:
    if not command.add_help_option:  # It hands its command line to a module, help included.
        yield f"```text\n{_help_of(name)}\n```"
        return
    yield (command.help or "").strip()
    rows = ["| option | | default |", "| --- | --- | --- |"]
    for parameter in command.params:
        record = parameter.opts[0] if parameter.param_type_name == "option" else parameter.name
        default = "required" if parameter.required else parameter.default
        shown = "" if default in (None, False, ()) or callable(default) else f"{default}"
        text = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
        rows.append(f"| `{record}` | {html.escape(text, quote=False)} | {shown} |")
    yield "\n".join(rows)
    if command.epilog:
        examples = [line for line in command.epilog.split("\n\n") if not line.startswith("Example")]
        yield "```\n" + "\n".join(examples) + "\n```"


def _help_of(name: str) -> str:
    from tfrs_twotower.cli import app

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        app([name, "--help"])
    return said.getvalue().strip()


def python_names() -> str:
    """The public face: each name where it is defined, for mkdocstrings to describe."""
    import tfrs_twotower

    lines = [
        "# Python",
        "`import tfrs_twotower as tt` loads none of TensorFlow, Beam and pandas; they load when a "
        "step needs them. What the packages offer beyond these names is in their docstrings: "
        "`help(tfrs_twotower.losses)`, for example.",
    ]
    named = {
        **{f"tt.{name}": home for name, home in tfrs_twotower._HOMES.items()},
        "serving.client.Recommendations": "serving.client:Recommendations",
    }
    named.pop("tt.__version__", None)
    for name, home in sorted(named.items(), key=lambda pair: pair[0].lower()):
        heading = f"heading: {name}\n      toc_label: {name.removeprefix('tt.')}"
        lines.append(f"::: {home.replace(':', '.')}\n    options:\n      {heading}")
    return "\n\n".join(lines) + "\n"


def layers_drawing() -> str:
    """The layers of `tests/test_architecture.py`, the highest at the top, as SVG."""
    from tests.test_architecture import LAYERS

    width, height, gap = 300, 34, 10
    rows = [["api", "cli"], *reversed(LAYERS)]
    parts = []
    for number, row in enumerate(rows):
        y = number * (height + gap)
        for place, name in enumerate(row):
            w = (width - gap * (len(row) - 1)) / len(row)
            x = place * (w + gap)
            parts.append(f'<rect x="{x}" y="{y}" width="{w}" height="{height}" rx="6"/>')
            parts.append(f'<text x="{x + w / 2}" y="{y + 22}" text-anchor="middle">{name}</text>')
    total = len(rows) * (height + gap)
    style = re.search(r"<style>.*?</style>", (DOCS / "images/towers.svg").read_text(), re.DOTALL)
    assert style is not None
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 {width + 2} {total}" '
        f'width="{width + 2}">\n{style[0]}\n{"".join(parts)}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
