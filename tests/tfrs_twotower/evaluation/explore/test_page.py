"""The page without a browser: what its widgets show after what a person does."""

from types import SimpleNamespace

import pytest

from tests.tfrs_twotower.evaluation.explore.conftest import CONFIG, IDS, PLANE, make_version

pytest.importorskip("panel")

from tfrs_twotower.evaluation.explore import page as page_module  # noqa: E402
from tfrs_twotower.evaluation.explore.explored import Explored  # noqa: E402
from tfrs_twotower.evaluation.explore.widgets import Rows, Search  # noqa: E402
from tfrs_twotower.schema import UserError  # noqa: E402


class Shown:
    """The page, by what its parts are called."""

    def __init__(self, *versions):
        self.body = page_module.view(Explored("shop/models", versions))

    def part(self, kind, name):
        [found] = [one for one in self.body.select(kind) if one.label == name]
        return found

    def titles(self, name):
        return [row["title"] for row in self.part(Rows, name).rows]

    def act(self, name, action, key):
        self.part(Rows, name)._handle_msg({"action": action, "key": key})

    def find(self, name, typed):
        [search] = [one for one in self.body.select(Search) if one.field.label == name]
        search.field.value_input = typed
        return search.matches

    def go(self, name):
        self.part(page_module.pn.widgets.RadioButtonGroup, "View").value = name

    def text(self):
        return " ".join(str(one.object) for one in self.body.select(page_module.pn.pane.HTML))


@pytest.fixture
def shown(version):
    return Shown(version)


def test_it_begins_with_the_first_known_user(shown):
    assert "u1" in shown.text()
    assert shown.titles("History") == ["Red Tea"]
    # All but a and b, which the user had.
    assert shown.titles("Recommendations") == ["Milk", "New <b>Wine</b>", "d", "Old Wine"]


def test_a_user_is_found_and_chosen(shown):
    matches = shown.find("Find one of 3 users", "U3")
    assert [row["key"] for row in matches.rows] == ["u30"]

    matches._handle_msg({"action": "open", "key": "u30"})

    assert shown.titles("History") == []
    assert matches.rows == []
    assert shown.part(page_module.pn.widgets.Select, "city").value == "Oslo"


def test_candidates_are_added_and_removed(shown):
    shown.find("Add to the history", "milk")._handle_msg({"action": "open", "key": "c"})
    assert shown.titles("History") == ["Milk", "Red Tea"]

    shown.act("History", "remove", "a")
    assert shown.titles("History") == ["Milk"]
    # Still without a and b, which are known positives.
    assert shown.titles("Recommendations")[0] == "d"


def test_only_what_a_list_shows_can_be_chosen(shown):
    for key in ("b", "../../etc/passwd", None, ["a"]):
        shown.act("History", "open", key)
        shown.act("History", "remove", key)
    shown.act("History", "format", "a")
    shown.part(Rows, "History")._handle_msg("open a")

    assert shown.titles("History") == ["Red Tea"]


def test_a_turned_context_is_asked(shown, version):
    shown.part(page_module.pn.widgets.Select, "device").value = "phone"

    [query], *_ = version.recommender.asked[-1]
    assert query["device"] == "phone"
    assert query["city"] == "Rome"


def test_reset_leaves_what_is_known_of_the_user(shown, version):
    shown.part(page_module.pn.widgets.Select, "device").value = "phone"
    shown.part(page_module.pn.widgets.Select, "city").value = "Oslo"
    shown.act("History", "remove", "a")

    shown.part(page_module.pn.widgets.Button, "Reset").clicks += 1

    [query], *_ = version.recommender.asked[-1]
    assert query == {
        "user": "u1",
        "city": "Rome",
        "history": ["a"],
        "clock": None,
        "device": None,
    }


def test_what_is_refused_is_told_in_place_of_the_list(shown, version):
    def refuse(*_, **__):
        raise UserError("min_score: <never>")

    version.recommender.recommend = refuse
    shown.part(page_module.pn.widgets.Select, "device").value = "phone"

    assert "min_score: &lt;never&gt;" in shown.text()
    assert shown.titles("Recommendations") == []


def test_a_candidate_with_its_neighbours_and_users(shown):
    shown.act("Recommendations", "open", "f")

    assert "New &lt;b&gt;Wine&lt;/b&gt;" in shown.text()
    assert "0 users had it: rank 6 of 6, tenth 9 of 10" in shown.text()
    assert shown.titles("Nearest neighbours")[0] == "Red Tea"
    assert shown.titles("Users that get it") == ["u1", "u2", "u30"]

    shown.act("Users that get it", "open", "u2")
    assert shown.titles("History") == ["Old Wine", "Milk"]


def test_a_candidate_is_marked_on_the_map_and_a_click_chooses_the_nearest(shown):
    shown.go("Map")
    shown.find("Find on the map", "milk")._handle_msg({"action": "open", "key": "c"})
    assert shown.titles("Chosen on the map") == ["Milk"]
    [plane] = shown.body.select(page_module.pn.pane.Bokeh)
    mark = plane.object.renderers[-1].data_source

    sources = [one.data_source.data for one in plane.object.renderers[:-1]]
    at = {
        data["name"][place]: (data["x"][place], data["y"][place])
        for data in sources
        for place in range(len(data["name"]))
    }
    assert (mark.data["x"], mark.data["y"]) == ([at["Milk"][0]], [at["Milk"][1]])
    [callback] = plane.object._event_callbacks["tap"]
    x, y = at["Old Wine"]
    callback(SimpleNamespace(x=x + 0.01, y=y - 0.01))
    assert shown.titles("Chosen on the map") == ["Old Wine"]


def test_a_map_without_attributes(version):
    ids = version.candidates[["candidate_id"]]
    plain = Shown(make_version(config=CONFIG.partition("rules:")[0], candidates=ids))

    plain.go("Map")

    assert plain.part(page_module.pn.widgets.Select, "Colour by").options == ["nothing"]


def test_two_versions_beside_each_other(version):
    # In the other version what stands last here is most similar to a.
    turned = PLANE * [1, -1]
    other = make_version(number=7, embeddings=turned)
    other.recommender._scores = lambda query: (PLANE @ [0.0, -1.0]).round(6)
    shown = Shown(version, other)

    shown.go("Versions")

    assert shown.titles("Version 1") == ["Milk", "New <b>Wine</b>", "d", "Old Wine"]
    assert shown.titles("Version 7") == ["New <b>Wine</b>", "Old Wine", "d", "Milk"]
    assert [row.get("badge") for row in shown.part(Rows, "Version 7").rows] == [
        "▲ 1",
        "▲ 2",
        None,
        "▼ 3",
    ]
    assert "Over a sample of 3 users 100% of the first 10" in shown.text()


def test_one_version_has_nothing_to_compare(shown):
    group = shown.part(page_module.pn.widgets.RadioButtonGroup, "View")

    assert group.options == ["Recommendations", "Candidate", "Map"]


def test_without_queries_a_user_is_made_up(version):
    shown = Shown(make_version(queries=version.queries[:0]))

    assert "Made up" in shown.text()
    assert len(shown.titles("Recommendations")) == len(IDS)
