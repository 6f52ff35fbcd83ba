"""The glossary is in order and says where terms are taught; references are whole."""

import re
import unicodedata

import execute

ENTRY = re.compile(r"^\[\*\*(.+?)\*\*\]\{#([\w-]+)\}(.*)$", re.M)


def read(name):
    return (execute.ROOT / name).read_text(encoding="utf-8")


def order(term):
    """Return what a term is sorted by: its letters and spaces."""
    plain = unicodedata.normalize("NFD", term.lower().replace("-", " "))
    return re.sub(r"[^a-z ]", "", plain)


def linked_from_notebooks(page):
    """Return the anchors of a page that notebooks link to."""
    link = re.compile(rf"\]\((?:\.\./)?{page}\.qmd#([\w-]+)\)")
    notebooks = [
        path.read_text(encoding="utf-8") for path in execute.stored_notebooks()
    ]
    return {anchor for text in notebooks for anchor in link.findall(text)}


def test_entries_are_in_order_below_their_letters():
    letters = re.compile(r"^## (\w) \{#sec-glossary-\w\}$", re.M)
    _, *parts = letters.split(read("glossary.qmd"))
    found = []
    for letter, text in zip(parts[::2], parts[1::2], strict=True):
        terms = [match[1] for match in ENTRY.finditer(text)]
        assert terms, letter
        assert {term[0].upper() for term in terms} == {letter}
        found += terms
    assert found == sorted(found, key=order)
    assert len(found) == len(set(found)) > 80


def test_each_entry_says_where_it_is_taught():
    for term, _, text in ENTRY.findall(read("glossary.qmd")):
        said, _, links = text.rpartition(" See ")
        assert said.endswith("."), term
        assert re.search(r"\]\([\w/]+\.ipynb#sec-[\w-]+\)", links), term


def test_each_entry_is_linked_from_a_notebook():
    entries = {anchor for _, anchor, _ in ENTRY.findall(read("glossary.qmd"))}
    assert linked_from_notebooks("glossary") == entries


def test_each_helper_of_the_reference_is_linked_from_a_notebook():
    entries = re.findall(
        r"^## .*\{#(sec-reference-[\w-]+)\}$", read("reference.qmd"), re.M
    )
    functions = {entry for entry in entries if "-class-" not in entry}
    assert linked_from_notebooks("reference") == functions


def test_every_source_says_what_to_read_it_for():
    keys = re.findall(r"^@\w+\{([^,]+),", read("references.bib"), re.M)
    assert [key for key in keys if f"@{key}" not in read("reading.qmd")] == []


def test_the_changes_name_the_version():
    [version] = re.findall(r'^version = "(.+)"', read("pyproject.toml"), re.M)
    assert f"Version {version}, " in read("changes.qmd")
