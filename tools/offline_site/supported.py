"""Every construct that pages and slides may use; the engine stops at any other.

Whoever needs one more adds it here, teaches `document` to render it, adds a test and
looks at the page in both engines.
"""

# Notebooks: first lines of a code cell, "#| option: value".
CELL_OPTIONS = {
    "label",  # fig-…, tbl-…, or any other name that an embed asks for
    "fig-cap",
    "fig-alt",
    "tbl-cap",
    "code-fold",  # true
    "code-summary",
    "echo",  # false
    "output",  # false
}
# Notebooks: what an output may hold; the first that is there is shown.
OUTPUTS = ("text/html", "text/markdown", "image/png", "text/plain")

# Labels that a cross-reference (@fig-…) can have, and what it prints.
REFERENCES = {"fig": "Figure", "tbl": "Table", "eq": "Equation", "sec": "Section"}

CALLOUTS = {
    "callout-note": "Note",
    "callout-tip": "Tip",
    "callout-important": "Important",
    "callout-warning": "Warning",
    "callout-caution": "Caution",
}
CALLOUT_OPTIONS = {"title", "collapse", "icon"}

# Blocks "::: {.class}", spans "[text]{.class}", headings "## Title {.class}".
# The interactive figures of assets/interactive: words, and a place for the figure.
INTERACTIVE = {"interactive-identity", "interactive-noise", "interactive-khat"}
PAGE_DIVS = {*CALLOUTS, *INTERACTIVE}
DECK_DIVS = {*CALLOUTS, *INTERACTIVE, "columns", "column", "incremental", "notes"}
DECK_SPANS = {"fragment"}
PAGE_HEADINGS = {"unnumbered"}
DECK_HEADINGS = {"smaller", "unnumbered"}

# Fenced code.
LANGUAGES = {"bash", "json", "makefile", "markdown", "python", "stan", "text"}
LANGUAGES |= {"toml", "yaml"}
DECK_CODE_OPTIONS = {"code-line-numbers"}

IMAGE_OPTIONS = {"fig-alt", "width"}
IMAGE_FILES = {".png", ".svg", ".jpg", ".jpeg", ".webp"}
SHORTCODES = {"embed"}  # {{< embed notebook.ipynb#label >}}, alone on its line

# Pandoc's own elements.
BLOCKS = {
    "BlockQuote",
    "BulletList",
    "CodeBlock",
    "Div",
    "Figure",
    "Header",
    "HorizontalRule",
    "OrderedList",
    "Para",
    "Plain",
    "Table",
}
INLINES = {
    "Cite",
    "Code",
    "Emph",
    "Image",
    "LineBreak",
    "Link",
    "Math",
    "Note",
    "Quoted",
    "SoftBreak",
    "Space",
    "Span",
    "Str",
    "Strong",
    "Subscript",
    "Superscript",
}
