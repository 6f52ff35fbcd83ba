"""The deck of the whole talk keeps its time, skips no stop and shows notebooks' code.

The page that lists all decks counts as they do.
"""

import json
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

import execute

SLIDES = execute.ROOT / "slides"
DECKS = sorted(SLIDES.glob("*.qmd"), key=lambda path: path.name)
SHORT, LONG = 20, 35  # minutes of the two paths through the talk
TIME = re.compile(r"(\d+(?:\.5)?) min\. Short path: (keep|skip)\.")

# What the talk has, in its order, and the slide that has it here.
STOPS = [
    ("Outline", "outline"),
    ("Motivating examples: demand", "demand"),
    ("Motivating examples: cohorts", "cohorts"),
    ("What is variational inference?", "what-is-vi"),
    ("Bayes' rule", "bayes-rule"),
    ("Variational inference as optimization", "idea"),
    ("Variational inference in PyMC", "pymc"),
    ("The JAX ecosystem", "jax"),
    ("Variational inference in a nutshell", "notation"),
    ("ELBO", "identity"),
    ("Estimating the concentration of a gamma distribution", "gamma-model"),
    ("Model of the gamma distribution", "gamma-model"),
    ("Guide of the gamma distribution", "gamma-guide"),
    ("Inference with SVI", "gamma-svi"),
    ("Results of the approximation", "gamma-result"),
    ("A Bayesian neural network", "bnn-problem"),
    ("Structure of the model", "bnn-structure"),
    ("Components of the model", "bnn-structure"),
    ("Neural network", "bnn-network"),
    ("NumPyro model", "bnn-numpyro"),
    ("Prior predictive checks", "bnn-prior"),
    ("SVI in NumPyro", "bnn-svi"),
    ("ELBO curve", "bnn-elbo"),
    ("Custom guide", "bnn-guide"),
    ("Custom optimizer", "bnn-optimizer"),
    ("Custom loop", "bnn-loop"),
    ("Early stopping", "bnn-stopping"),
    ("Posterior of the AUC", "bnn-auc"),
    ("Posterior predictive mean", "bnn-predictive"),
    ("Posterior predictive uncertainty", "bnn-predictive"),
    ("Predictions outside the data", "bnn-outside"),
    ("Tips and tricks", "tips"),
    ("SVI or MCMC", "svi-or-mcmc"),
    ("SVI in production", "production"),
    ("Other inference methods", "other-methods"),
    ("References", "references"),
    ("Thank you", "thank-you"),
]
# What this course adds.
ADDED = ["identity", "check-report", "check-khat", "check-nuts", "scaling-cost"]


class Slide(NamedTuple):
    """A slide of a deck: its name, its speaker notes, and its code."""

    name: str
    notes: str
    code: list[str]


def slides_of(path: Path) -> list[Slide]:
    """Return all slides of a deck but its title."""
    slides, code = [], None
    for line in path.read_text(encoding="utf-8").split("\n---\n", 1)[1].split("\n"):
        if line.startswith("```"):
            if code is None:
                code = []
            else:
                slides[-1].code.append("\n".join(code))
                code = None
        elif code is not None:
            code.append(line)
        elif re.match("##? ", line):
            name = re.search(r"\{#([\w-]+)", line)
            slides.append(Slide(name[1] if name else line, "", []))
        elif slides:
            slides[-1] = slides[-1]._replace(notes=f"{slides[-1].notes}{line}\n")
    notes = re.compile(r"::: \{\.notes\}\n(.*?)\n:::", re.DOTALL)
    return [s._replace(notes="".join(notes.findall(s.notes)).strip()) for s in slides]


TALK = slides_of(SLIDES / "talk.qmd")


def code_of_notebooks() -> list[list[str]]:
    """Return the lines of each code cell of the course."""
    return [
        "".join(cell["source"]).split("\n")
        for path in execute.course_order()
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]


def is_part(part: str, cells: list[list[str]]) -> bool:
    """Return whether these lines follow each other in a cell, at any indentation."""
    wanted = textwrap.dedent(part)
    count = wanted.count("\n") + 1
    return any(
        textwrap.dedent("\n".join(cell[at : at + count])) == wanted
        for cell in cells
        for at in range(len(cell) - count + 1)
    )


def test_each_slide_has_its_minutes():
    assert [s.name for s in TALK if not TIME.match(s.notes)] == []
    assert [s.name for s in TALK if len(TIME.findall(s.notes)) != 1] == []
    times = [TIME.match(slide.notes).groups() for slide in TALK]
    assert sum(float(minutes) for minutes, _ in times) == LONG
    assert sum(float(minutes) for minutes, path in times if path == "keep") == SHORT


def test_no_stop_of_the_talk_is_skipped():
    names = [slide.name for slide in TALK]
    assert len(set(names)) == len(names)
    assert [stop for stop, name in STOPS if name not in names] == []
    places = [names.index(name) for _, name in STOPS]
    assert places == sorted(places)
    assert [name for name in ADDED if name not in names] == []


def test_the_talk_has_about_forty_slides():
    assert 35 <= 1 + len(TALK) <= 45


def test_its_code_is_that_of_the_notebooks():
    cells = code_of_notebooks()
    parts = [
        (slide.name, part)
        for slide in TALK
        for code in slide.code
        for part in code.split("\n\n")
    ]
    assert len(parts) > 10
    assert [(name, part) for name, part in parts if not is_part(part, cells)] == []


def test_other_code_is_noticed():
    cells = [["def f():", "    a = 1", "    b = 2"]]
    assert is_part("a = 1\nb = 2", cells)
    assert not is_part("a = 1\nb = 3", cells)
    assert not is_part("def f():\n    b = 2", cells)


def listed(path: Path) -> list[str]:
    """Return minutes and number of slides that the list of decks gives for one."""
    text = (execute.ROOT / "slides.qmd").read_text(encoding="utf-8")
    [row] = re.findall(rf"^\| \[.*\]\(slides/{path.name}\) \|.*$", text, re.MULTILINE)
    return [part.strip() for part in row.split("|")[2:4]]


@pytest.mark.parametrize("path", DECKS, ids=lambda path: path.stem)
def test_the_list_of_decks_counts_as_the_deck_does(path):
    slides, (minutes, number) = slides_of(path), listed(path)
    assert int(number) == 1 + len(slides)  # and the title
    said = re.match(
        r"About (\d+) minutes(?:.*? and (\d+) more for the appendix)?", slides[0].notes
    )
    if path.stem == "talk":
        planned = [SHORT, LONG]
    else:
        parts = [int(part) for part in said.groups() if part]
        planned = sorted({parts[0], sum(parts)})
    assert [int(number) for number in re.findall(r"\d+", minutes)] == planned
