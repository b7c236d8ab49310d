"""Bokeh's own code, inside a page that opens without a network."""

from bokeh.resources import Resources


def bokeh_library() -> str:
    """The scripts, as elements of the head.

    Not by Bokeh's `render_js`, nor by `file_html`: where Panel is loaded in the process, such as in
    a notebook that explores, these add a file that only Panel's server has.
    """
    scripts = Resources(mode="inline", components=["bokeh"]).js_raw
    return "\n".join(f"<script>\n{script}\n</script>" for script in scripts)
