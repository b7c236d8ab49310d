"""Writes the pages that are made from the code, so that nothing is written twice.

The notebooks, the config's keys, the commands, the public names, the REST requests, the age of the
figures and the drawing of the packages. `make docs` calls this before it builds the site. Git
ignores these pages, except for the benchmarks, which are also read on GitHub.
"""

import contextlib
import html
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Beside the tour.
NOTEBOOKS = ("your_own_log", "your_own_towers", "evaluation_and_rules", "serving_and_canary")


def main() -> None:
    """Writes every page."""
    sys.path.insert(0, str(ROOT))  # This checkout, whatever is installed.
    from docs import results

    pages = {
        "start/tour.md": notebook("two_tower_tour"),
        **{f"notebooks/{name}.md": notebook(name) for name in NOTEBOOKS},
        "reference/config.md": config_keys(),
        "reference/commands.md": commands(),
        "reference/python.md": python_names(),
        "reference/openapi.md": rest_requests(),
        "benchmarks.md": results.benchmarks_page(),
        "figures.md": results.age_page(),
        "images/layers.svg": layers_drawing(),
    }
    for path, text in pages.items():
        (DOCS / path).parent.mkdir(exist_ok=True)
        (DOCS / path).write_text(text, encoding="utf-8")


def notebook(name: str) -> str:
    """A notebook as a page: its words, its code and the outputs saved in it."""
    path = f"notebooks/{name}.ipynb"
    parts = []
    for cell in json.loads((ROOT / path).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../docs/", "](../"))
        elif source:
            parts += [f"```python\n{source}\n```", *map(_output, cell["outputs"])]
    return "\n\n".join([*parts, f"This page is the notebook `{path}`."]) + "\n"


def _output(output: dict[str, Any]) -> str:
    """A picture, a table or text, in the width of the page."""
    shown = output.get("data", {})
    if "image/png" in shown:
        data = "".join(shown["image/png"].split())
        return f'<img alt="The plot of this cell" src="data:image/png;base64,{data}">'
    if "text/html" in shown:
        table = re.sub(r"<style.*?</style>", "", "".join(shown["text/html"]), flags=re.DOTALL)
        lines = re.sub(r"<table[^>]*>", "<table>", table).split("\n")
        return "\n".join(['<div style="overflow-x: auto">', *filter(str.strip, lines), "</div>"])
    return "```text\n" + "".join(output.get("text", "")).strip() + "\n```"


def config_keys() -> str:
    """`twotower config`, a section of the config under a heading of its own."""
    from tfrs_twotower.schema.reference import reference

    head, *sections = re.split(r"\n\n(?=(?:#[^\n]*\n)*[a-z_]+:|# Features by side)", reference())
    lines = [
        "# Every key of twotower.yaml",
        "`twotower config` prints this page, and its output is a valid config. Your own config "
        "only needs the keys that you change. If a config has mistakes, all of them are listed at "
        "once, each with its path, what is expected and the nearest valid name. "
        "`--set path.to.key=value` overrides a key for one `twotower run`, `train` or `tune`.",
    ]
    for section in sections:
        keys = re.findall(r"^([a-z_]+):", section, re.MULTILINE)
        for_heading = ", ".join(keys) if keys else "features"
        lines += [f"## {for_heading}", f"```yaml\n{section.strip()}\n```"]
    assert head.startswith("# Every key")
    return "\n\n".join(lines) + "\n"


def commands() -> str:
    """Every command with its options, by the panels of the help."""
    from tfrs_twotower.cli.commands import PANELS, app

    named = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [
        "# Commands",
        "Flags are written with underscores, like those of Beam and TF Serving; hyphens work too. "
        "Results go to stdout (`--json` for programs), progress and warnings to stderr. The "
        "[exit code](errors.md#exit-codes) is 0 if the command succeeded.",
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
    from tfrs_twotower.cli.commands import app

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        app([name, "--help"])
    return said.getvalue().strip()


def python_names() -> str:
    """The public face: each name where it is defined, for mkdocstrings to describe."""
    import tfrs_twotower

    lines = [
        "# Python",
        "`import tfrs_twotower as tt` does not load TensorFlow, Beam or pandas; they are loaded "
        "when a step needs them. The packages contain more than these names. Their docstrings "
        "describe it: try `help(tfrs_twotower.losses)`.",
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


def rest_requests() -> str:
    """Every request of openapi.yaml with its parameters and answers, then the JSON schemas."""
    document = yaml.safe_load((DOCS / "reference/openapi.yaml").read_text(encoding="utf-8"))

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        found = document if "$ref" in node else node
        for name in node.get("$ref", "").split("/")[1:]:
            found = found[name]
        return found

    def schema_of(node: dict[str, Any]) -> str:
        [content] = node["content"].values()
        name = content["schema"].get("$ref", "text").rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if name in schemas else name

    schemas = document["components"]["schemas"]
    lines = [
        "# Every REST request",
        "Generated from [openapi.yaml](openapi.yaml); [REST and gRPC](rest.md) has examples.",
    ]
    for path, item in document["paths"].items():
        for method in (key for key in item if key != "parameters"):
            operation = item[method]
            lines += [f"## `{method.upper()} {path}`", f"{operation['summary']}."]
            rows = ["| | JSON | |", "| --- | --- | --- |"]
            for parameter in map(resolved, item.get("parameters", [])):
                form, example = parameter["schema"]["type"], parameter["example"]
                rows.append(f"| `{parameter['name']}` | {form} | such as `{example}` |")
            if "requestBody" in operation:
                rows.append(f"| body | {schema_of(resolved(operation['requestBody']))} | |")
            for status, answer in operation["responses"].items():
                told = resolved(answer)
                rows.append(f"| {status} | {schema_of(told)} | {told['description']} |")
            lines.append("\n".join(rows))
    for name, schema in schemas.items():
        text = yaml.safe_dump(schema, sort_keys=False, width=100).strip()
        lines += [f"## {name}", f"```yaml\n{text}\n```"]
    return "\n\n".join(lines) + "\n"


def rooms() -> dict[str, set[str]]:
    """Each package, and those of the project that it needs and does not reach through another.

    Read by `tests/test_architecture.py`; `api` and `cli`, which may import all, are left out.
    """
    from tests.test_architecture import FACE, MODULES, imported_by, is_root

    def room(module: str) -> str | None:
        first, *rest = module.split(".")
        return first if first != FACE else rest[0] if rest else None

    needs: dict[str, set[str]] = {}
    for module in filter(lambda module: not is_root(module), MODULES):
        if own := room(module):
            others = {other for one in imported_by(module) if (other := room(one))}
            needs.setdefault(own, set()).update(others - {own})

    def reached(name: str) -> set[str]:
        return set().union(*({one} | reached(one) for one in needs[name]))

    return {
        name: own - set().union(*(reached(other) for other in own)) for name, own in needs.items()
    }


def layers_drawing() -> str:
    """The rooms as SVG: an arrow points to what a room needs, and to nothing above it."""
    needs = rooms()
    ranks: dict[str, int] = {}

    def rank(name: str) -> int:
        ranks[name] = max((1 + rank(one) for one in needs[name]), default=0)
        return ranks[name]

    spine = [max(needs, key=rank)]  # The longest way down, in the middle.
    while needs[spine[-1]]:
        spine.append(min(needs[spine[-1]], key=lambda one: (-ranks[one], one)))
    beside = {
        height: sorted(name for name in needs if ranks[name] == height and name not in spine)
        for height in range(len(spine))
    }
    width, height, gap = 150, 34, 26
    middle, top = width + 40, height + gap
    left = {name: middle for name in spine}
    for names in beside.values():
        left |= dict(zip(names, (2 * middle, 0, 3 * middle), strict=False))
    y = {name: top + (len(spine) - 1 - ranks[name]) * (height + gap) for name in needs}
    parts = [_room("api, cli: may import all", middle - 30, 0, width + 60, height)]
    for name, others in sorted(needs.items()):
        parts.append(_room(name, left[name], y[name], width, height))
        x = left[name] + width / 2
        for other in sorted(others):
            to_x, to_y = left[other] + width / 2, y[other] - 3
            if ranks[name] - ranks[other] > 1 and to_x != x:
                side = left[name] + width * (to_x > x)
                way = f"M{side},{y[name] + height / 2} H{to_x} V{to_y}"
            else:
                way = f"M{x},{y[name] + height} L{to_x + (x - to_x) * 0.3},{to_y}"
            parts.append(f'<path d="{way}"/>')
    marks = re.search(r"<style>.*?</defs>", (DOCS / "images/towers.svg").read_text(), re.DOTALL)
    assert marks is not None
    full_width, full_height = max(left.values()) + width, top + len(spine) * (height + gap) - gap
    drawn = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 -1 {full_width + 2} '
        f'{full_height + 2}" width="{full_width + 2}" role="img" aria-label="The packages">\n'
        f"{marks[0]}\n{drawn}\n</svg>\n"
    )


def _room(name: str, x: float, y: float, width: float, height: float) -> str:
    box = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
    return f'{box}<text x="{x + width / 2}" y="{y + 22}" text-anchor="middle">{name}</text>'


if __name__ == "__main__":
    main()
