"""The Pandoc engine renders what pages use, stops at the rest, agrees with Quarto."""

import base64
import json
import re
import shutil
from itertools import zip_longest
from posixpath import dirname, join, normpath

import pytest
from bs4 import BeautifulSoup

import build as build_tool
import offline_site

PNG = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c4944415408d763f8ffff3f0005fe02fea735c1a50000000049454e44ae426082"
    )
).decode()
CONFIG = """
project:
  render: [index.qmd, notebooks/*.ipynb, slides/*.qmd]
  resources: [notebooks/*.ipynb]
website:
  title: A course
  page-footer: {left: "Text: [CC](https://creativecommons.org)"}
  sidebar:
    contents:
      - {text: Home, href: index.qmd}
      - section: Course
        contents: [notebooks/one.ipynb]
      - section: Slides
        contents: [slides/deck.qmd]
lang: en
bibliography: references.bib
format: {html: {number-sections: true, toc-depth: 3}}
"""
NO_DECK = CONFIG.replace(", slides/*.qmd", "").replace(
    """      - section: Slides
        contents: [slides/deck.qmd]
""",
    "",
)
BIB = "@book{knuth, author={Knuth, Donald}, title={Art}, publisher={AW}, year={1968}}"
HEAD = '---\ntitle: "Bayes\' rule"\ndescription: What it is.\n---\n'
DECK = """---
title: A deck
subtitle: Its subtitle
format: revealjs
---

# A part

::: {.notes}
Notes of the part.
:::

"""


def code(text, *outputs):
    return {"cell_type": "code", "source": text, "outputs": list(outputs)}


def picture(**extra):
    data = {"image/png": PNG, "text/plain": "<Figure>"}
    size = {"image/png": {"width": 300, "height": 200}}
    return {"output_type": "display_data", "data": data, "metadata": size} | extra


def shown(**data):
    data = {key.replace("_", "/"): value for key, value in data.items()}
    return {"output_type": "execute_result", "data": data, "metadata": {}}


def printed(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


FIGURE = code(
    '#| label: fig-a\n#| fig-cap: "Cap of *a*, $x$."\n#| fig-alt: "Alt of a"\nplot()',
    printed("step\n"),
    picture(),
)


@pytest.fixture
def course(tmp_path):
    """Return a function that builds a small course and gives its pages, parsed."""

    def make(*cells, page="Text.", deck="## One\n\nText.", config=CONFIG, head=HEAD):
        root = tmp_path / "course"
        for folder in ("notebooks", "slides", "assets"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "_quarto.yml").write_text(config)
        (root / "references.bib").write_text(BIB)
        for name in ("head", "search", "deck"):
            (root / "assets" / f"{name}.html").write_text("")
        (root / "index.qmd").write_text(f"{head}\n{page}\n")
        (root / "slides" / "deck.qmd").write_text(f"{DECK}{deck}\n")
        first = {"cell_type": "raw", "source": '---\ntitle: "One"\ndescription: D\n---'}
        cells = [
            cell
            if isinstance(cell, dict)
            else {"cell_type": "markdown", "source": cell}
            for cell in cells
        ]
        cells = [
            {"id": f"id-{n}", "metadata": {}, **c}
            for n, c in enumerate([first, *cells])
        ]
        text = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4})
        (root / "notebooks" / "one.ipynb").write_text(text)
        offline_site.build(root, root / "_site")
        return {
            path.relative_to(root / "_site").as_posix(): BeautifulSoup(
                path.read_text(encoding="utf-8"), "html.parser"
            )
            for path in (root / "_site").rglob("*.html")
        }

    return make


def notebook(pages):
    return pages["notebooks/one.html"].main


def words(tag):
    return " ".join(tag.get_text().split())


def texts(tag, selector):
    return [words(found) for found in tag.select(selector)]


# What it renders


def test_headings_are_numbered_and_listed(course):
    page = course(
        "## A *b* {#sec-a}\n\n### Deep\n\n## No {.unnumbered}\n\n## C\n\n@sec-a"
    )
    page = page["notebooks/one.html"]
    assert texts(page.main, "h1, h2, h3") == ["One", "1 A b", "1.1 Deep", "No", "2 C"]
    assert texts(page, "#TOC a.nav-link") == ["1 A b", "1.1 Deep", "No", "2 C"]
    assert texts(page.main, "a.quarto-xref") == ["Section 1"]
    assert page.main.find("section")["id"] == "sec-a"


def test_a_page_may_have_no_numbers(course):
    head = HEAD.replace("---\ntitle", "---\nnumber-sections: false\ntitle")
    main = course(page="## A", head=head)["index.html"].main
    assert texts(main, "h1, h2") == ["Bayes’ rule", "A"]
    assert texts(main, ".description") == ["What it is."]


def test_figures(course):
    main = notebook(course("See @fig-a and [@fig-a].", FIGURE))
    assert texts(main, "a.quarto-xref") == ["Figure 1", "Figure 1"]
    assert texts(main, "#fig-a figcaption") == ["Figure 1: Cap of a, xx."]
    assert main.select_one("#fig-a figcaption em")
    image = main.select_one("#fig-a img")
    assert (image["alt"], image["width"], image["height"]) == ("Alt of a", "300", "200")
    assert texts(main, ".cell-output-stdout") == ["step"]


def test_a_figure_from_a_file(course, tmp_path):
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "map.svg").write_text("<svg></svg>")
    page = '![The map](map.svg){#fig-map fig-alt="A map" width=50%}\n\n@fig-map'
    main = course(page=page)["index.html"].main
    assert texts(main, "#fig-map figcaption") == ["Figure 1: The map"]
    assert main.img["style"] == "width: 50%"
    assert (tmp_path / "course" / "_site" / "map.svg").is_file()


def test_tables_of_three_kinds(course):
    main = notebook(
        course(
            "| a | b |\n|:--|--:|\n| 1 | 2 |\n\n: Cap {#tbl-a}\n\n@tbl-a @tbl-b @tbl-c",
            code(
                '#| label: tbl-b\n#| tbl-cap: "Made"\n#| echo: false\nx',
                shown(text_markdown="| q |\n|---|\n| *7* |\n"),
            ),
            code(
                '#| label: tbl-c\n#| tbl-cap: "Pandas"\nx',
                shown(
                    text_html="<style>p {}</style><table><tr><td>8</td></tr></table>"
                ),
            ),
        )
    )
    captions = ["Table 1: Cap", "Table 2: Made", "Table 3: Pandas"]
    assert texts(main, "figure figcaption") == captions
    assert texts(main, "a.quarto-xref") == ["Table 1", "Table 2", "Table 3"]
    assert texts(main, "td") == ["1", "2", "7", "8"]
    assert not main.find("style")
    assert len(main.select("pre.cell-code, code.python")) >= 1


def test_equations(course):
    main = notebook(
        course(
            "Before\n$$\nx\n$$ {#eq-a}\nafter.\n\n$$ y $$ {#eq-b}", "@eq-b, [-@eq-a]"
        )
    )
    assert texts(main, "a.quarto-xref") == ["Equation 2", "1"]
    assert main.select_one("#eq-a math[display=block]")
    assert texts(main, ".equation-number") == ["(1)", "(2)"]


def test_a_space_after_log(course):
    main = notebook(course(r"$\log p + \log(x) + \log \left( y \right) + \exp\theta$"))
    tex = main.select_one("annotation").get_text()
    assert tex == r"\log\, p + \log(x) + \log \left( y \right) + \exp\,\theta"


def test_code_cells(course):
    main = notebook(
        course(
            code("x = 1\nx", printed("hello\n"), shown(text_plain="1")),
            code('#| code-fold: true\n#| code-summary: "Check it"\nassert x'),
            code("#| echo: false\nhidden", printed("shown\n")),
            code("#| output: false\nprint(2)", printed("not shown\n")),
        )
    )
    assert texts(main, "details.code-fold > summary") == ["Check it"]
    assert texts(main, "details code") == ["assert x"]
    assert texts(main, ".cell-output") == ["hello", "1", "shown"]
    assert "hidden" not in words(main)
    assert "print(2)" in words(main)
    assert len(main.select(".code-copy-button")) == 3


def test_interactive_figures(course):
    place = "::: {.interactive-noise}\nTry *it*.\n:::"
    pages = course(place, deck=f"## One\n\n{place}\n\n::: {{.notes}}\nN\n:::")
    for page in ("notebooks/one.html", "slides/deck.html"):
        assert texts(pages[page], "div.interactive-noise > p > em") == ["it"]


def test_callouts(course):
    main = notebook(
        course(
            '::: {.callout-note title="Why it\'s so"}\nText @fig-a.\n:::\n\n'
            "::: {.callout-warning}\nMind.\n:::",
            '::: {.callout-tip title="Hint" collapse="true" icon="false"}\n- a\n:::',
            FIGURE,
        )
    )
    assert texts(main, ".callout-title-container") == [
        "NoteWhy it’s so",
        "Warning",
        "TipHint",
    ]
    assert main.select_one("details.callout-tip.no-icon:not([open]) li")
    assert texts(main, ".callout-note .callout-body") == ["Text Figure 1."]


@pytest.mark.parametrize("title", ["Solution", "Which one is right?"])
def test_a_solution_is_folded(course, title):
    text = f"<details>\n<summary>{title}</summary>\n\nIt is *4*.\n\n</details>"
    main = notebook(course(f"{text}\n\nAfter."))
    [solution] = main.select("details:not([class], [open])")
    assert texts(solution, "summary, p") == [title, "It is 4."]


def test_citations_and_footnotes(course):
    main = notebook(course("As @knuth[p. 3] and [@knuth] say.[^a]", "[^a]: A note."))
    assert "Knuth (1968, 3) and (Knuth 1968) say.1" in words(main)
    assert texts(main, "#quarto-appendix h2") == ["References", "Footnotes"]
    assert main.select_one("#ref-knuth")
    assert main.select_one('a[href="#ref-knuth"]')


def test_links_between_pages(course):
    pages = course("## A {#sec-a}\n\n[Home](../index.qmd) [mail](mailto:a@example.org)")
    assert notebook(pages).find("a", string="Home")["href"] == "../index.html"
    page = "[One](notebooks/one.ipynb#sec-a) [deck](slides/deck.qmd#one)"
    main = course("## A {#sec-a}", page=page)["index.html"].main
    hrefs = [tag["href"] for tag in main.select("p a")]
    assert hrefs == ["notebooks/one.html#sec-a", "slides/deck.html#one"]


def test_navigation(course):
    page = course("Text.")["notebooks/one.html"]
    assert texts(page, "a.sidebar-link") == ["Home", "One", "A deck"]
    assert words(page.select_one('[aria-current="page"]')) == "One"
    steps = [tag["href"] for tag in page.select(".page-navigation a")]
    assert steps == ["../index.html", "../slides/deck.html"]
    assert [tag["href"] for tag in page.select(".course-links a")] == ["one.ipynb"]
    assert page.select_one("footer a")["href"] == "https://creativecommons.org"


def test_search_index(course, tmp_path):
    course("Early text.\n\n## A\n\nNeedle $x$ `code`.", code("print(1)"))
    script = (tmp_path / "course/_site/site/search-index.js").read_text()
    index = json.loads(script.removeprefix("window.courseIndex = ").rstrip(";\n"))
    [entry] = [each for each in index if each["href"] == "notebooks/one.html#a"]
    assert (entry["title"], entry["section"]) == ("One", "A")
    assert "Needle x code" in entry["text"]


def test_embed(course):
    embed = "{{< embed notebooks/one.ipynb#fig-a >}}"
    pages = course(FIGURE, page=f"{embed}\n\nSee @fig-a.")
    main = pages["index.html"].main
    assert texts(main, "#fig-a figcaption") == ["Figure 1: Cap of a, xx."]
    assert main.img["src"] == "notebooks/one_files/figure-html/fig-a-output-2.png"
    assert "plot()" not in words(main)


def test_deck(course):
    deck = course(
        FIGURE,
        deck="""## Lists {.smaller}

::: {.incremental}
- a
- b
:::

. . .

Later [@knuth], [bit]{.fragment}.

::: {.notes}
Say $y$.
:::

## Code

:::: {.columns}
::: {.column width="40%"}
```{.python code-line-numbers="|1|2-3"}
x = 1
```
:::
::: {.column width="60%"}
::: {.callout-tip title="Mind"}
Text.
:::
:::
::::

{{< embed ../notebooks/one.ipynb#fig-a >}}

## References

::: {#refs}
:::
""",
    )["slides/deck.html"]
    assert texts(deck, "h1") == ["A deck", "A part"]
    assert texts(deck, "#title-slide .subtitle") == ["Its subtitle"]
    assert texts(deck, "h2") == ["Lists", "Code", "References"]
    assert texts(deck, "aside.notes annotation") == ["y"]
    assert len(deck.select("li.fragment")) == 2
    assert texts(deck, "span.fragment") == ["bit"]
    assert deck.select_one("section.smaller#lists div.fragment p")
    assert deck.select_one(".column")["style"] == "width:40%;"
    assert deck.select_one("[data-code-line-numbers]")["data-code-line-numbers"] == (
        "|1|2-3"
    )
    assert texts(deck, ".callout-tip .callout-content") == ["Text."]
    assert deck.select_one("#fig-a img")["data-src"].startswith(
        "../notebooks/one_files"
    )
    assert deck.select_one("#refs #ref-knuth")


def test_comments_are_dropped(course):
    assert "secret" not in str(notebook(course("a\n\n<!-- secret -->\n\nb")))


def test_slides_alone_leave_the_pages(course, tmp_path):
    course("Early text.")
    root = tmp_path / "course"
    index = (root / "_site" / "site" / "search-index.js").read_text()
    assert offline_site.build(root, root / "_site", True) == ["slides/deck.html"]
    assert (root / "_site" / "index.html").is_file()
    assert (root / "_site" / "site" / "search-index.js").read_text() == index


def test_stale_pages_are_removed(course, tmp_path):
    stale = tmp_path / "course" / "_site" / "old.html"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    assert "old.html" not in course("Text.")


# Where it stops

NOTEBOOK = "notebooks/one.ipynb, cell 2, line "
STOPS = {
    "option": (code("#| fig-width: 3\nx"), "1: cell option 'fig-width'"),
    "option value": (code("#| echo: true\nx"), "1: echo: True"),
    "late option": (code("x\n#| echo: false"), "2: a cell option below"),
    "options not YAML": (code("#| label: [\nx"), "1: options are not YAML"),
    "folded alt": (
        code('#| label: fig-b\n#| fig-cap: "C"\n#| fig-alt: >-\n#|   A\nx', picture()),
        "3: fig-alt: put the text in quotes",
    ),
    "folded caption of a table": (
        code("#| label: tbl-b\n#| tbl-cap: |\n#|   A\nx", shown(text_html="<p>")),
        "2: tbl-cap: put the text in quotes",
    ),
    "no alt": (
        code('#| label: fig-b\n#| fig-cap: "C"\nx', picture()),
        "1: fig-b has no fig-alt",
    ),
    "no caption": (
        code('#| label: fig-b\n#| fig-alt: "C"\nx', picture()),
        "1: fig-b has no fig-cap",
    ),
    "no label": (code("x", picture()), "1: a picture needs a label"),
    "no picture": (
        code('#| label: fig-b\n#| fig-cap: "C"\n#| fig-alt: "A"\nx'),
        "1: fig-b has 0 pictures",
    ),
    "no table": (
        code('#| label: tbl-b\n#| tbl-cap: "C"\nx', printed("x")),
        "1: tbl-b has no table",
    ),
    "label of a section": (code("#| label: sec-x\nx"), "1: a code cell cannot be"),
    "stderr": (code("x", printed("oops", "stderr")), "an output on stderr"),
    "error": (
        code("x", {"output_type": "error", "ename": "ValueError"}),
        "failed with ValueError",
    ),
    "output": (code("x", shown(text_latex="x")), "an output of type text/latex"),
    "script": (
        code("x", shown(text_html="<script>1</script>")),
        "an HTML output with a script",
    ),
    "block": ("a\n\n::: {.aside}\nb\n:::", "3: block 'aside'"),
    "block of decks": ("::: {.notes}\nb\n:::", "1: block 'notes'"),
    "block option": (
        '::: {.callout-tip appearance="simple"}\nb\n:::',
        "1: block option appearance=simple",
    ),
    "marked title": ('::: {.callout-tip title="*a*"}\nb\n:::', "1: a callout's title"),
    "heading in callout": (
        "::: {.callout-tip}\n## A\n\nb\n:::",
        "1: a heading in a callout",
    ),
    "open block": ("a\n\n::: {.callout-tip}\nb", "3: Div at line"),
    "stray colons": ("a ::: b", "1: markup that means nothing here: :::"),
    "span": ("a [b]{.mark}", "1: span 'mark'"),
    "heading option": ("## A {.x}", "1: heading option 'x'"),
    "second h1": ("# A", "1: a second h1"),
    "jump": ("## A\n\n#### B", "3: heading jumps to level 4: B"),
    "raw block": ("<div>a</div>", "1: raw html"),
    "raw inline": ("a <br> b", "1: raw html is not supported: <br>"),
    "raw tex": ("\\begin{x}\na\n\\end{x}", "1: raw tex"),
    "definition list": ("Word\n\n:   Meaning", "1: DefinitionList"),
    "shortcode": ("a\n\n{{< video x >}}", "3: shortcode 'video'"),
    "embed in text": ("a {{< embed one.ipynb#x >}}", "1: write {{< embed"),
    "embed of nothing": ("{{< embed one.ipynb#fig-q >}}", "1: embed: one.ipynb has no"),
    "embed of no notebook": (
        "{{< embed no.ipynb#fig-q >}}",
        "1: embed: the site has no",
    ),
    "code that runs": ("```{python}\nx\n```", "1: code that runs"),
    "code language": ("```brainfuck\nx\n```", "2: code needs a language"),
    "code without language": ("```\nx\n```", "2: code needs a language"),
    "code option": ('```{.python filename="a"}\nx\n```', "1: code option 'filename'"),
    "open fence": ("```python\nx", "a code fence is never closed"),
    "reference": ("a\nb @fig-nothing", "2: unknown reference @fig-nothing"),
    "mixed reference": ("## A {#sec-a}\n\n[see @sec-a]", "3: words beside @sec-a"),
    "citation": ("a [@nobody]", "1: unknown citation @nobody"),
    "footnote": ("a[^x]", "1: markup that means nothing here: a[^x]"),
    "link to no page": (
        "[a](two.ipynb)",
        "1: broken link: no page notebooks/two.ipynb",
    ),
    "link to no anchor": ("[a](#b)", "1: broken link: notebooks/one.ipynb has no #b"),
    "link to no anchor there": (
        "[a](../index.qmd#b)",
        "1: broken link: index.qmd has no",
    ),
    "http link": ("[a](http://example.org)", "1: a link that is not https"),
    "link to nowhere": ("a\n\n[a b]()", "3: a link to nowhere"),
    "link to the page itself": ("[a](#)", "1: a link to nowhere"),
    "undefined link": ("a\n\n[b c][nowhere]", "3: markup that means nothing here"),
    "absolute link": ("[a](/b.html)", "1: a link that is not https"),
    "two labels": (
        "## A {#sec-a}\n\n## B {#sec-a}",
        "two places have the name 'sec-a'",
    ),
    "label and figure": (
        "$$ x $$ {#eq-a}\n\n$$ y $$ {#eq-a}",
        "two places have the name 'eq-a'",
    ),
    "lonely label": ("a {#eq-a}", "1: a label after no equation"),
    "no file": ('![C](no.png){#fig-b fig-alt="A"}', "1: no file notebooks/no.png"),
    "image without alt": ("![C](one.png){#fig-b}", "1: fig-b has no fig-alt"),
    "image without label": (
        '![C](one.png){fig-alt="A"}',
        "1: a figure needs a caption",
    ),
    "image in text": ("a ![C](one.png) b", "1: an image in a line"),
    "image option": ('![C](one.png){#fig-b height="1"}', "1: image option 'height'"),
    "image kind": ("![C](one.pdf){#fig-b}", "1: an image of this kind"),
    "table label": (
        "| a |\n|---|\n| 1 |\n\n: Cap {#table-a}",
        "5: a table's label starts with tbl-",
    ),
    "formula": (r"$\undefined{x}$", "1: Could not convert TeX"),
}


@pytest.mark.parametrize(("cell", "message"), STOPS.values(), ids=STOPS)
def test_it_stops_and_says_where(course, cell, message):
    with pytest.raises(SystemExit) as stop:
        course(cell, config=NO_DECK)
    if message[0].isdigit():
        message = NOTEBOOK + message
    assert message in str(stop.value)
    assert "notebooks/one.ipynb" in str(stop.value)


DECK_STOPS = {
    "no slide for references": ("## A\n\n[@knuth]", "a deck that cites needs"),
    "column option": ("## A\n\n::: {.columns height=3}\n:::", "line 15: block option"),
}


@pytest.mark.parametrize(("deck", "message"), DECK_STOPS.values(), ids=DECK_STOPS)
def test_it_stops_in_decks(course, deck, message):
    with pytest.raises(SystemExit, match=re.escape(message)) as stop:
        course(deck=deck)
    assert "slides/deck.qmd" in str(stop.value)


def test_it_stops_in_pages_with_the_line_of_the_file(course):
    with pytest.raises(SystemExit, match=r"index\.qmd, line 8: raw html"):
        course(page="a\n\n<b>c</b>")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEAD.encode() + b"\na\nb \xe9\n", "line 7: not UTF-8"),
        (b"\xff", "line 1: not UTF-8"),
    ],
)
def test_it_stops_at_a_page_that_is_not_utf8(course, tmp_path, data, message):
    course()
    root = tmp_path / "course"
    (root / "index.qmd").write_bytes(data)
    with pytest.raises(SystemExit, match=f"^index.qmd, {message}.*\n1 problem:"):
        offline_site.build(root, root / "_site")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-40], ", line 1: not a notebook: cut short, or"),
        (lambda text: "<<<<<<< HEAD\n" + text, ", line 1: not a notebook: cut"),
        (lambda text: "{}", ": not a notebook: it has no cells"),
        (lambda text: "[]", ": not a notebook: it has no cells"),
    ],
)
def test_it_stops_at_a_broken_notebook(course, tmp_path, damage, message):
    course()
    root = tmp_path / "course"
    path = root / "notebooks" / "one.ipynb"
    path.write_text(damage(path.read_text()))
    name = "^notebooks/one.ipynb"
    with pytest.raises(SystemExit, match=f"{name}{message}.*\n1 problem:"):
        offline_site.build(root, root / "_site")


def test_sections_without_numbers_cannot_be_referred_to(course):
    head = HEAD.replace("---\ntitle", "---\nnumber-sections: false\ntitle")
    with pytest.raises(SystemExit, match="sections have no numbers here"):
        course(page="## A {#sec-a}\n\n@sec-a", head=head)


def test_front_matter_is_needed(course):
    with pytest.raises(SystemExit, match=r"index\.qmd, line 1: no front matter"):
        course(head="")
    with pytest.raises(SystemExit, match=r"index\.qmd: the front matter has no descr"):
        course(head="---\ntitle: A\n---\n")


def test_the_sidebar_and_the_files_agree(course):
    extra = CONFIG.replace("[slides/deck.qmd]", "[slides/deck.qmd, slides/two.qmd]")
    with pytest.raises(SystemExit, match=r"_quarto\.yml: no file slides/two\.qmd"):
        course(config=extra)
    fewer = CONFIG.replace("[notebooks/one.ipynb]", "[]")
    with pytest.raises(SystemExit, match=r"one\.ipynb: not in _quarto\.yml's sidebar"):
        course(config=fewer)


def test_all_problems_are_told_at_once(course):
    with pytest.raises(SystemExit, match="2 problems: nothing was built"):
        course("<b>a</b>", page="@fig-nothing")


# Choosing an engine


def test_a_forced_quarto_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(build_tool, "find_quarto", lambda: None)
    with pytest.raises(SystemExit, match="No Quarto on the PATH"):
        build_tool.main(["site", "--engine", "quarto"])


def test_without_quarto_pandoc_builds_and_says_how_to_get_quarto(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert build_tool.choose(None) is None
    out = capsys.readouterr().out
    assert "conda install -c conda-forge quarto" in out
    assert "The Pandoc engine builds the site instead." in out


def test_quarto_is_taken_where_it_is(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert build_tool.choose(None) == "/bin/quarto"
    assert build_tool.choose("quarto") == "/bin/quarto"
    assert build_tool.choose("pandoc") is None
    assert capsys.readouterr().out == ""


# The two engines agree


NAVIGATION = ["page-navigation", "quarto-page-breadcrumbs", "course-links"]
KINDS = re.compile(r"callout-(note|tip|important|warning|caution)")


def facts(name: str, page: BeautifulSoup) -> dict[str, list]:
    """Return what a page holds, without what the engines may do differently."""
    main = page.main or page.select_one(".slides")

    def target(tag):
        path, _, anchor = tag["href"].partition("#")
        path = normpath(join(dirname(name), path)) if path else name
        return path, anchor.removeprefix("/")

    outer = [
        tag
        for tag in main.select("a[href]")
        if not tag.find_parent(class_=NAVIGATION)
        and tag.get("aria-hidden") is None
        and (page.main or tag.get("role") != "doc-biblioref")
    ]
    # MathML differs in white space alone.
    for tag in main.select("annotation"):
        tag.decompose()
    return {
        "title": [words(page.title).split(" – ")[0]] if page.main else [],
        "headings": [
            (tag.name, words(tag)) for tag in main.find_all(re.compile("^h[1-6]$"))
        ],
        "figures": [
            (tag.get("alt"), tag.get("width"), tag.get("height"))
            for tag in main.find_all("img")
        ],
        "captions": texts(main, "figcaption"),
        "references": [
            (words(tag), tag["href"]) for tag in main.select(".quarto-xref")
        ],
        "links": [
            (words(tag), tag["href"] if ":" in tag["href"] else target(tag))
            for tag in outer
        ],
        "tables": [
            [words(cell) for cell in table.find_all(["td", "th"])]
            for table in main.find_all("table")
        ],
        "code": [words(tag) for tag in main.select("pre code")],
        "folded": texts(main, "details.code-fold > summary"),
        "callouts": [
            KINDS.search(" ".join(tag["class"]))[0] for tag in main.select(".callout")
        ],
        "paragraphs": texts(main, "p:not(.course-links, :empty)"),
        "items": [words(t) for t in main.find_all("li") if not t.find_parent("nav")],
        "notes": texts(main, "aside.notes p"),
        "fragments": [len(main.select(".fragment"))],
        "sidebar": texts(page, "a.sidebar-link[href] .menu-text"),
        "footer": texts(page, ".nav-footer-left"),
    }


def test_both_engines_make_the_same_pages(request):
    if not build_tool.find_quarto():
        pytest.skip("no Quarto here to compare with")
    built = request.getfixturevalue("built")
    both = {engine: site.soups for engine, site in built.items()}
    assert sorted(both["quarto"]) == sorted(both["pandoc"])
    differences = []
    for name, page in both["pandoc"].items():
        mine, theirs = facts(name, page), facts(name, both["quarto"][name])
        for kind in mine:
            pairs = zip_longest(mine[kind], theirs[kind])
            differences += [f"{name}: {kind}: {a} ≠ {b}" for a, b in pairs if a != b][
                :1
            ]
    assert differences == []
