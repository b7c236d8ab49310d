"""The documentation and the code name the same commands, options, targets and packages."""

import ast
import configparser
import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from playwright.sync_api import sync_playwright

import tfrs_twotower
from docs import generate, results
from tfrs_twotower import __version__
from tfrs_twotower.cli.commands import app
from tfrs_twotower.schema import parse_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"
# Written by docs/generate.py, from the code itself.
GENERATED = {
    DOCS / path
    for path in (
        *("start/tour.md", "images/layers.svg", "figures.md"),
        *(f"notebooks/{name}.md" for name in generate.NOTEBOOKS),
        *("reference/config.md", "reference/commands.md", "reference/python.md"),
        "reference/openapi.md",
    )
}
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted({ROOT / "README.md", *DOCS.rglob("*.md")} - GENERATED)
}
TEXT = "\n".join(PAGES.values())
COMMANDS = typer.main.get_command(app).commands
OPTIONS = {
    name: {option for parameter in command.params for option in parameter.opts}
    for name, command in COMMANDS.items()
}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_every_command_is_explained():
    missing = {name for name in COMMANDS if f"twotower {name}" not in TEXT}

    assert missing == set()


def test_no_page_names_a_command_that_does_not_exist():
    named = set(re.findall(r"\btwotower ([a-z][a-z-]*)", TEXT))

    assert named - COMMANDS.keys() == set()


def test_no_page_gives_a_command_an_option_that_it_does_not_have():
    """Commands that pass their options on to a module have none of their own."""
    wrong = [
        f"{name} {option}"
        for name, rest in re.findall(r"\btwotower ([a-z][a-z-]*)([^\n`#]*)", TEXT)
        for option in re.findall(r"--[a-z_-]+", rest)
        if (own := OPTIONS.get(name)) and option not in own
    ]

    assert wrong == []


def test_no_page_names_a_make_target_that_does_not_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"make ([a-z-]+)\b", README)) & {"demo", "test"} == {"demo", "test"}
    assert set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", TEXT, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }


def test_every_benchmark_is_explained():
    scripts = {path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")}

    assert {name for name in scripts if f"benchmarks/{name}" not in TEXT} == set()


def test_the_page_of_benchmarks_is_that_of_the_results():
    """`python docs/results.py` writes it."""
    assert PAGES["docs/benchmarks.md"] == results.benchmarks_page()


def test_every_benchmark_has_results_and_all_are_shown():
    scripts = {path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")}
    commands = [result.command for result in results.load().values()]

    assert {name for name in scripts if not any(f"/{name}" in one for one in commands)} == set()
    assert [one for one in commands if f"`{one}`" not in PAGES["docs/benchmarks.md"]] == []


def test_the_code_that_figures_measure_exists():
    paths = {path for result in results.load().values() for path in result.code}

    assert {path for path in paths if not (ROOT / path).exists()} == set()


def figures_in(text: str) -> set[str]:
    """Its numbers, each whole: 0.30 is not found in 0.305."""
    return set(re.findall(r"\d(?:[\d.,]*\d)?", text))


def test_the_figures_of_the_readme_are_on_the_page_of_benchmarks():
    table = README[README.index("## Measured") : README.index("## Where to read on")]
    rows = [row.split("|")[2:4] for row in re.findall(r"^\| .*\|$", table, re.MULTILINE)[2:]]
    figures = figures_in(" ".join(cell for row in rows for cell in row))

    assert len(figures) > 15
    assert figures - figures_in(PAGES["docs/benchmarks.md"]) == set()


def test_figures_that_link_to_the_page_of_benchmarks_are_on_it():
    linked = re.findall(r"\[([^\]]+)\]\((?:\.\./)?benchmarks\.md[^)]*\)", TEXT)
    figures = figures_in(" ".join(linked))

    assert len(figures) >= 3
    assert figures - figures_in(PAGES["docs/benchmarks.md"]) == set()


def test_a_recorded_measurement_is_read_by_its_names(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("_harness", ROOT / "benchmarks" / "_harness.py")
    harness = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "_harness", harness)  # Where its dataclasses look.
    spec.loader.exec_module(harness)
    monkeypatch.setattr(sys, "argv", ["benchmarks/x.py", "--data", "a b", "--record", "mine"])
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    measured = [
        harness.Measurement("ours", 6.0, "ms", "theirs", ratio=3.0),
        harness.Measurement("ours", 0.5, "recall"),
    ]

    harness._record(tmp_path / "mine.json", ["tfrs_twotower/losses"], measured)
    [result] = results.load().values()

    assert result.command == "python benchmarks/x.py --data 'a b'"
    assert (result("ours", "ms"), result.ratio("ours", "theirs"), result("ours", "recall")) == (
        *(6.0, 3.0, 0.5),
    )
    with pytest.raises(LookupError, match="2 for the value of 'ours'"):
        result("ours")
    with pytest.raises(LookupError, match="0 for the value of 'others'"):
        result("others")
    assert json.loads((tmp_path / "mine.json").read_text())["commit"]


def heading_id(heading: str) -> str:
    """As Python-Markdown and GitHub make it, of headings without marks."""
    return re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages_pictures_and_headings_that_exist(page):
    here = ROOT / page
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", PAGES[page]):
        path, _, fragment = target.partition("#")
        other = (here.parent / path).resolve() if path else here
        assert other in GENERATED or other.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.+)$", PAGES[str(other.relative_to(ROOT))], re.MULTILINE)
            assert fragment in map(heading_id, headings), target


def test_every_page_is_in_the_navigation():
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w/-]+\.md", repr(site["project"]["nav"])))
    written = {str(path.relative_to(DOCS)) for path in [*DOCS.rglob("*.md"), *GENERATED]}

    assert named == {path for path in written if path.endswith(".md")}


def test_the_drawing_has_every_package_and_arrows_that_all_point_down():
    folders = {path.parent.name for path in (ROOT / "tfrs_twotower").glob("*/__init__.py")}
    drawn = generate.layers_drawing()

    needs = generate.rooms()
    assert needs.keys() == (folders | {"keras", "pipelines", "serving"}) - {"cli"}
    assert drawn.count("<rect") == len(needs) + 1
    assert drawn.count("<path d") - 1 == sum(map(len, needs.values()))  # One is the arrow's head.
    for way in re.findall(r'<path d="(M[^"]+)"/>(?!</marker>)', drawn):
        first, *_, last = map(float, re.findall(r"[,V]([\d.]+)", way))
        assert first < last, way


def test_every_rest_request_and_schema_has_a_heading():
    document = yaml.safe_load((DOCS / "reference/openapi.yaml").read_text(encoding="utf-8"))
    requests = {
        f"`{method.upper()} {path}`"
        for path, item in document["paths"].items()
        for method in item.keys() & {"get", "post"}
    }

    headings = set(re.findall(r"^## (.+)$", generate.rest_requests(), re.MULTILINE))
    assert headings == requests | document["components"]["schemas"].keys()


def test_every_notebook_has_a_page():
    names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}

    assert names == {"two_tower_tour", *generate.NOTEBOOKS}


@pytest.mark.parametrize(
    ("name", "num_pictures", "shown"),
    [
        ("two_tower_tour", 3, "The Borrowed Marathon"),
        ("your_own_towers", 2, "lower_bound=0.95"),
        ("evaluation_and_rules", 3, "recent popularity"),
        ("serving_and_canary", 2, "distinct answers"),
    ],
)
def test_the_page_of_a_notebook_shows_its_outputs(name, num_pictures, shown):
    page = generate.notebook(name)

    assert page.count('src="data:image/png;base64,iVBOR') == num_pictures
    assert shown in page
    assert "<style" not in page


@pytest.mark.parametrize("name", ["two_tower_tour", *generate.NOTEBOOKS])
def test_the_links_of_a_notebook_hold(name):
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    words = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", words):
        path, _, fragment = target.partition("#")
        page = str((ROOT / "notebooks" / path).resolve().relative_to(ROOT))
        headings = re.findall(r"^#+ (.+)$", PAGES[page], re.MULTILINE)
        assert not fragment or fragment in map(heading_id, headings), target


def test_the_messages_that_are_explained_exist():
    page = PAGES["docs/howto/troubleshooting.md"]
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    sources = [
        path.read_text(encoding="utf-8")
        for package in ("tfrs_twotower", "pipelines", "serving")
        for path in (ROOT / package).rglob("*.py")
    ]

    assert len(messages) > 5
    # TensorFlow itself says that an operation is not registered.
    for message in set(messages) - {"Op type not registered"}:
        assert any(message in source for source in sources), message


PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_python_blocks_import_what_exists(block):
    imports = [node for node in ast.parse(block).body if isinstance(node, ast.ImportFrom)]

    for node in imports:
        exec(compile(ast.Module([node], type_ignores=[]), "docs", "exec"), {})


def test_the_worked_examples_run():
    page = PAGES["docs/contribute/adding.md"]
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    assert len(blocks) == 5
    exec(compile("\n".join(blocks), "adding.md", "exec"), {})


@pytest.mark.parametrize(
    ("heading", "named"),
    [("A feature kind", r"""\bBoolean\b|["']boolean["']"""), ("A rule", r"\bmin_score\b")],
)
def test_the_places_of_what_is_to_be_followed_are_all_that_there_are(heading, named):
    page = PAGES["docs/contribute/adding.md"]
    section = page[page.index(f"## {heading}\n") :].split("\n## ")[0]
    told = set(re.findall(r"^\| `([\w/.]+)` \|", section, re.MULTILINE))
    places = {
        str(path.relative_to(ROOT))
        for package in ("tfrs_twotower", "pipelines")
        for path in (ROOT / package).rglob("*.py")
        if re.search(named, path.read_text(encoding="utf-8"))
    }

    assert {path for path in told if not path.startswith("tests/")} == places
    assert all((ROOT / path).exists() for path in told)


YAML_BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", YAML_BLOCKS)
def test_yaml_blocks_are_configs(block):
    parse_config(block, "a page")


def test_no_page_names_what_the_package_does_not_offer():
    named = set(re.findall(r"\btt\.(\w+)", TEXT))

    assert {"prepare", "recommend"} <= named
    assert named - set(tfrs_twotower.__all__) == set()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site, of a copy of what git has or would take."""
    copy = tmp_path_factory.mktemp("docs") / "copy"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(lambda name: name and (ROOT / name).exists(), files):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    subprocess.run([sys.executable, "docs/generate.py"], cwd=copy, check=True)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=copy, check=True)
    return copy / "site"


@pytest.mark.slow
def test_the_site_asks_no_network(site):
    pages = list(site.rglob("*.html"))

    assert len(pages) > len(PAGES)
    for page in pages:
        loaded = re.findall(
            r"""<(?:script|img|link|iframe)[^>]+(?:src|href)="((?:https?:)?//[^"]+)""",
            page.read_text(),
        )
        assert loaded == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text()) == [], style


@pytest.mark.slow
def test_the_site_describes_every_public_name(site):
    described = (site / "reference/python.html").read_text()

    for name in tfrs_twotower.__all__:
        assert f"tt.{name}" in described


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_the_site_is_searched_without_a_network_and_fits_a_phone(site):
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("no Chromium on the path: apt-get install chromium")
    asked = []
    with (
        http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(QuietFiles, directory=site)
        ) as server,
        sync_playwright() as playwright,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 900})
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        wide = []
        for path in sorted(site.rglob("*.html")):
            name = path.relative_to(site)
            page.goto(f"{here}{name}")
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wide.append(name)
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{here}index.html")
        page.keyboard.press("/")
        page.locator("input:focus").fill("known positives")  # keys typed before it opens are lost
        page.get_by_text(re.compile(r"^\d+ results$")).wait_for()
        browser.close()
        server.shutdown()

    assert wide == []
    assert {url for url in asked if not url.startswith((here, "data:", "blob:"))} == set()


def test_the_lock_holds_every_package_that_the_distribution_asks_for():
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]

    def names_of(extra):
        for one in map(Requirement, extras[extra].split()):
            if one.name == config["metadata"]["name"]:
                yield from (name for part in one.extras for name in names_of(part))
            else:
                yield _canonical(one.name)

    names = set(names_of("dev"))
    locked = {
        _canonical(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }

    assert names - locked == set()


def test_the_changelog_leads_to_the_version():
    heading = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert heading is not None
    assert heading[1].split()[0] in {"Unreleased", __version__}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
