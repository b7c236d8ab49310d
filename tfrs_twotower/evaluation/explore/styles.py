"""How the page looks: its template, and the styles of its parts, each in a shadow root."""

TEMPLATE = """\
{% extends base %}
{% block postamble %}
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
  :root { color-scheme: light;
    --bokeh-base-font: system-ui, sans-serif; --bokeh-font-size: 13.5px; }
  body { font: 15px/1.45 system-ui, sans-serif; color: #1c2330; background: #f6f7f9; }
</style>
{% endblock %}
{% block contents %}{{ embed(roots.page) }}{% endblock %}
"""

PAGE = """
:host { max-width: 1240px; margin: 0 auto !important; padding: 12px 16px 32px; gap: 12px;
  box-sizing: border-box; }
"""
CARD = """
:host { background: #fff; border: 1px solid #e2e6ec; border-radius: 8px; padding: 14px 16px;
  box-sizing: border-box; min-width: 0; }
"""
STACK = ":host { gap: 12px; }"

_GRID = "display: grid; gap: 12px; align-items: start; min-width: 0"
_NARROW = "@media (max-width: 940px)"
_ONE_COLUMN = "grid-template-columns: minmax(0, 1fr)"

RECOMMENDATIONS = f"""
:host {{ {_GRID}; grid-template-columns: 17rem minmax(0, 1fr) minmax(0, 1.25fr);
  grid-template-rows: auto 1fr;
  grid-template-areas: "user history answer" "turn history answer"; }}
.user {{ grid-area: user; }} .turn {{ grid-area: turn; }}
.history {{ grid-area: history; }} .answer {{ grid-area: answer; }}
{_NARROW} {{
  :host {{ {_ONE_COLUMN}; grid-template-rows: none;
    grid-template-areas: "user" "answer" "history" "turn"; }}
}}
"""
MAP = f"""
:host {{ {_GRID}; grid-template-columns: minmax(0, 20rem) minmax(0, 1fr); }}
{_NARROW} {{ :host {{ {_ONE_COLUMN}; }} }}
"""
TWO, THREE = (
    f"""
:host {{ {_GRID}; grid-template-columns: repeat({num_columns}, minmax(0, 1fr)); }}
{_NARROW} {{ :host {{ {_ONE_COLUMN}; }} }}
"""
    for num_columns in (2, 3)
)

TEXT = """
h1 { font-size: 1.25rem; margin: 0; } h2 { font-size: 1.05rem; margin: 0 0 .2rem; }
p { margin: .1rem 0; color: #5b6575; font-size: .88rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem .8rem;
  margin: .4rem 0; font-size: .9rem; }
dt { color: #5b6575; } dd { margin: 0; overflow-wrap: anywhere; }
.error { color: #8a1f00; background: #fdebe0; border-radius: 6px; padding: .5rem .7rem; }
"""
# As specific as Bokeh's own rules.
TABS = """
:host .bk-btn-group .bk-btn.bk-btn-default {
  padding: .45rem .3rem; background: #fff; border: 1px solid #d5dbe3; }
:host .bk-btn-group .bk-btn.bk-btn-default.bk-active {
  background: #0072b2; border-color: #0072b2; color: #fff; box-shadow: none; }
.bk-btn:focus-visible { outline: 2px solid #1c2330; outline-offset: 1px; }
"""
