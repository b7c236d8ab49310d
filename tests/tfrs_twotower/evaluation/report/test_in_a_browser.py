"""The report in a real browser, as wide as a phone and as a desk."""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading

import pytest

from tfrs_twotower import api
from tfrs_twotower.cli import main
from tfrs_twotower.schema import load_config

PROBE = """\
<!doctype html><html><body style="margin:0"><pre id="found"></pre><script>
const widths = [390, 1280];
const found = [];
async function look(width) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.src = "report.html";
  document.body.append(frame);
  await new Promise(resolve => frame.onload = resolve);
  await new Promise(resolve => setTimeout(resolve, 4000));
  const page = frame.contentDocument;
  const canvases = [];
  (function walk(node) {
    for (const child of node.querySelectorAll("*")) {
      if (child.tagName === "CANVAS" && child.width > 0) canvases.push(child);
      if (child.shadowRoot) walk(child.shadowRoot);
    }
  })(page);
  const boxes = [...page.querySelectorAll("section")].map(
    section => [section.id, section.getBoundingClientRect().height]);
  found.push({width, scroll: page.documentElement.scrollWidth, title: page.title,
    figures: canvases.length, sections: Object.fromEntries(boxes),
    hidden: [...page.querySelectorAll("#serving_cost .scroll, #reproduce .scroll")].filter(
      box => box.scrollWidth > box.clientWidth).length,
    empty: [...page.querySelectorAll("[data-root-id]")].filter(
      root => !(root.firstElementChild?.getBoundingClientRect().height > 50)).length});
}
(async () => { for (const width of widths) await look(width);
  document.getElementById("found").textContent = JSON.stringify(found); })();
</script></body></html>
"""


@pytest.fixture
def chromium():
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        pytest.skip("no Chromium on the path: apt-get install chromium")
    return found


def report_of(folder, dataset, *source):
    """The report of one epoch on a data set that `twotower dataset` knows, with its models."""
    names = ("dataset", "prepared", "run", "models")
    log, prepared, run, models = (folder / name for name in names)
    assert main(["dataset", dataset, "--output", str(log), *source]) == 0
    config = load_config(log / "twotower.yaml", ["training.epochs=1"])
    api.prepare(config, log, prepared)
    api.train(config, prepared, run, progress=False)
    api.export(run, prepared, models)
    api.evaluate(run, prepared, models=models)
    return api.report(run, folder / "out" / "report.html", models=models)


@pytest.fixture
def page_of_sample(small_sample, tmp_path):
    return report_of(tmp_path, "sample")


@pytest.fixture
def page_of_movielens(tmp_path, public_data):
    return report_of(tmp_path, "movielens-100k", "--source", str(public_data / "ml-100k"))


@pytest.fixture(params=["page", "page_of_sample", "page_of_movielens"])
def shown(chromium, request):
    """A page, after Chromium was found."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def served(shown):
    """The page beside a probe that opens it at both widths."""
    (shown.parent / "probe.html").write_text(PROBE)
    handler = functools.partial(QuietHandler, directory=str(shown.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/probe.html"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_a_browser_draws_every_section_without_an_error_at_either_width(
    chromium, shown, served, tmp_path
):
    done = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--v=0", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=30000", "--dump-dom", served),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )

    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert [line for line in said if "[bokeh" not in line] == []
    probed = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    sections = set(re.findall('<section id="(.*?)">', shown.read_text(encoding="utf-8")))
    assert {"attribution", "index", "map", "serving_cost"} <= sections
    phone, desk = json.loads(html.unescape(probed.group(1)))
    for found in (phone, desk):
        assert found["scroll"] <= found["width"], "the page scrolls sideways"
        assert set(found["sections"]) == sections
        assert min(found["sections"].values()) > 60
        assert found["figures"] >= 8
        assert found["empty"] == 0
        assert found["hidden"] == 0, "values stand outside the page"
        assert found["title"] == "run: two-tower report"
