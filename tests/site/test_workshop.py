"""The plans of the workshop add up, and name exercises and slides as they are."""

import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest

import execute

LENGTHS = {  # minutes with breaks, without lunch
    "sec-workshop-half": 210,
    "sec-workshop-day-one": 390,
    "sec-workshop-day-two": 390,
}
LINK = re.compile(r"\[([^\]]+)\]\(([^)#]*)(?:#([\w-]+))?\)")
ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)
EXERCISE = re.compile(
    r"\[(\w+), exercise (\d+)\]\(([^)#]+)#([\w-]+)\) \((\w+), (\d+) min\)"
)
STATED = re.compile(r'title="Exercise (\d+) · (\w+) · (\d+) minutes"')
RANGE = re.compile(r'\]\(([^)]+)\), (?:all slides|from "([^"]+)" to "([^"]+)")')
WORDS = "one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {word: number for number, word in enumerate(WORDS.split(" "), start=1)}
NUMBERS["fifteen"] = 15


def read(name: str) -> str:
    """Return the text of a source."""
    return (execute.ROOT / name).read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Return the text below each heading, up to the next one, by anchor."""
    parts = re.split(r"^#{2,3} .*\{#([\w-]+)\}$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of tables but heads."""
    cells = [[cell.strip() for cell in row.split(" | ")] for row in ROW.findall(text)]
    rules = [at for at, row in enumerate(cells) if set("".join(row)) <= set(":-|")]
    heads = {*rules, *(at - 1 for at in rules)}
    return [row for at, row in enumerate(cells) if at not in heads]


# What the notebooks and the decks say --------------------------------------------


class Section(NamedTuple):
    """A section of a notebook: minutes to read it, and its exercises."""

    minutes: float
    exercises: dict[str, tuple[str, str]]  # number: level, minutes


@functools.cache
def notebook(name: str) -> dict[str, Section]:
    """Return the sections of a notebook by anchor.

    Each has that part of the notebook's minutes which it has of the words on view:
    text and code, without exercises, solutions and what is folded.
    """
    anchor, words, exercises = "", {}, {}
    for cell in json.loads(read(name))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            if found := STATED.search(source):
                exercises[anchor][found[1]] = (found[2], found[3])
                continue
            parts = re.split(r"^#{2,4} .*\{#(.+)\}$", source, flags=re.MULTILINE)
            for at, part in zip(["", *parts[1::2]], parts[::2], strict=True):
                anchor = at or anchor
                words.setdefault(anchor, 0)
                exercises.setdefault(anchor, {})
                if not part.startswith("<details>"):
                    words[anchor] += len(part.split())
        elif cell["cell_type"] == "code" and "code-fold: true" not in source:
            words[anchor] += len(source.split())
    [minutes] = re.findall(r"\*\*Time\*\* (\d+) minutes", read(name))
    share = int(minutes) / sum(words.values())
    return {at: Section(words[at] * share, exercises[at]) for at in words}


class Slide(NamedTuple):
    """A slide of a deck; ``part`` tells whether it opens one."""

    title: str
    part: bool
    notes: str


@functools.cache
def deck(name: str) -> list[Slide]:
    """Return all slides of a deck but its title."""
    parts = re.split(r"^(##?) (.*)$", read(name), flags=re.MULTILINE)[1:]
    found = []
    for level, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if notes := re.search(r"::: \{\.notes\}\n(.*?)\n:::", body, re.DOTALL):
            plain = re.sub(r" *\{[^}]*\}$", "", title)
            found.append(Slide(plain, level == "#", notes[1].strip()))
    return found


def minutes_of_slides(name: str, first: str, last: str) -> float | None:
    """Return the minutes that the notes plan for a range; None if they do not say."""
    slides = deck(name)
    if not first:
        [total] = re.findall(r"^About (\d+) minutes", slides[0].notes)
        return int(total)
    titles = [slide.title for slide in slides]
    start, end = titles.index(first), titles.index(last) + 1
    chosen = slides[start:end]
    each = [re.match(r"([\d.]+) min\.", slide.notes) for slide in chosen]
    if all(each):
        return sum(float(found[1]) for found in each)
    whole = chosen[0].part and (end == len(slides) or slides[end].part)
    planned = [re.search(r"(\w+) minutes", s.notes) for s in chosen if s.part]
    if whole and all(planned):
        return sum(NUMBERS[found[1].lower()] for found in planned)
    return None


# Each check takes the text of the page and yields one sentence per fault. -----------


def clock(text: str) -> int:
    """Return the minutes since midnight."""
    hours, minutes = text.split(":")
    return 60 * int(hours) + int(minutes)


def plans_add_up(text: str) -> Iterator[str]:
    """Starts follow from minutes, and minutes from the rows of each block."""
    blocks = sections(text)
    for plan, length in LENGTHS.items():
        total, now = 0, None
        for start, what, minutes in rows(blocks[plan]):
            if now not in (None, clock(start)):
                yield f"{plan}: {what} starts at {start}"
            now = clock(start) + int(minutes)
            if not what.startswith("Lunch"):
                total += int(minutes)
            for _, _, anchor in LINK.findall(what):
                inside = sum(int(row[0]) for row in rows(blocks.get(anchor, "")))
                if inside != int(minutes):
                    yield f"{anchor}: {inside} minutes instead of {minutes}"
        if total != length:
            yield f"{plan}: {total} minutes instead of {length}"
        breaks = [int(row[2]) for row in rows(blocks[plan]) if row[1] == "Break"]
        said = re.search(r": .*: (\d+) minutes.*, (\d+) of them breaks", blocks[plan])
        if [int(number) for number in said.groups()] != [length, sum(breaks)]:
            yield f"{plan}: breaks of {sum(breaks)} minutes, but '{said[0]}'"


def all_blocks_are_planned(text: str) -> Iterator[str]:
    """Each block with minutes stands in one plan, and says what goes wrong."""
    blocks = sections(text)
    planned = [
        anchor
        for plan in LENGTHS
        for row in rows(blocks[plan])
        for _, _, anchor in LINK.findall(row[1])
    ]
    for anchor, body in blocks.items():
        if "| min | what |" in body:
            if planned.count(anchor) != 1:
                yield f"{anchor} is in {planned.count(anchor)} plans"
            for part in ("**Goal.**", "**What may go wrong.**"):
                if part not in body:
                    yield f"{anchor}: no {part}"


def activities(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield each row of a block with its anchor and its minutes."""
    for anchor, body in sections(text).items():
        if "| min | what |" in body:
            for minutes, what in rows(body):
                yield anchor, int(minutes), what


def exercises_are_as_they_say(text: str) -> Iterator[str]:
    """Section, level and minutes of every exercise named are those of its notebook."""
    for short, number, name, anchor, *said in EXERCISE.findall(text):
        known = notebook(name).get(anchor, Section(0, {})).exercises.get(number)
        if known != tuple(said) or f"/{short}_" not in name:
            yield f"{short}, exercise {number} in {anchor}: {said}, not {known}"
    if len(re.findall(r"\w, exercise \d", text)) != len(EXERCISE.findall(text)):
        yield "an exercise without link, level and minutes"
    for anchor, minutes, what in activities(text):
        if what.startswith("**Exercise") and f", {minutes} min)" not in what:
            yield f"{anchor}: {minutes} minutes for {what}"


def slides_are_as_they_say(text: str) -> Iterator[str]:
    """Decks and titles exist, and the minutes are those of the notes."""
    for anchor, minutes, what in activities(text):
        if what.startswith("**Slides"):
            name, *titles = RANGE.search(what).groups(default="")
            if not (execute.ROOT / name).is_file():
                yield f"{anchor}: no deck {name}"
            elif missing := {*titles} - {slide.title for slide in deck(name)} - {""}:
                yield f"{anchor}: no slide {missing}"
            elif (planned := minutes_of_slides(name, *titles)) != minutes:
                yield f"{anchor}: {minutes} minutes for slides of {planned}"


def there_is_time_to_read(text: str) -> Iterator[str]:
    """Nobody has to read faster than the notebook says."""
    for anchor, minutes, what in activities(text):
        if what.startswith("**Run and read"):
            parts = [(name, at) for _, name, at in LINK.findall(what) if at]
            wanted = sum(notebook(name)[at].minutes for name, at in parts)
            if not 0 < wanted <= minutes:
                yield f"{anchor}: {minutes} minutes to read {wanted:.1f}"


def links_lead_somewhere(text: str) -> Iterator[str]:
    """Each link has its page, and each anchor stands there."""
    for _, name, anchor in LINK.findall(text):
        if name.startswith("https:"):
            continue
        path = execute.ROOT / name
        if name and not path.is_file():
            yield f"no file {name}"
        elif anchor and f"#{anchor}}}" not in (read(name) if name else text):
            yield f"no anchor {name}#{anchor}"


CHECKS: list[Callable[[str], Iterator[str]]] = [
    plans_add_up,
    all_blocks_are_planned,
    exercises_are_as_they_say,
    slides_are_as_they_say,
    there_is_time_to_read,
    links_lead_somewhere,
]

# What somebody may get wrong, and the check that has to notice.
MISTAKES = [
    (plans_add_up, "| 9:40 | [One identity]", "| 9:45 | [One identity]"),
    (plans_add_up, "(#sec-workshop-half-identity) | 35 |", "(#sec-x) | 35 |"),
    (plans_add_up, "| 5 | **Talk** How would you", "| 6 | **Talk** How would you"),
    (plans_add_up, "where to read on | 10 |", "where to read on | 15 |"),
    (plans_add_up, "210 minutes, 25 of them", "210 minutes, 30 of them"),
    (all_blocks_are_planned, "[Groups](#sec-workshop-groups)", "Groups"),
    (all_blocks_are_planned, "**What may go wrong.**", ""),
    (exercises_are_as_they_say, "[01, exercise 2]", "[01, exercise 3]"),
    (exercises_are_as_they_say, "(hard, 25 min)", "(hard, 20 min)"),
    (exercises_are_as_they_say, "(medium, 15 min)", "(easy, 15 min)"),
    (exercises_are_as_they_say, "[04, exercise 1]", "[05, exercise 1]"),
    (exercises_are_as_they_say, " (easy, 5 min)", ""),
    (exercises_are_as_they_say, "| 10 | **Exercise**", "| 12 | **Exercise**"),
    (slides_are_as_they_say, 'from "Bayes\' rule"', 'from "Bayes rule"'),
    (slides_are_as_they_say, "slides/checking.qmd), all", "slides/check.qmd), all"),
    (slides_are_as_they_say, "| 25 | **Slides** [Check", "| 20 | **Slides** [Check"),
    (slides_are_as_they_say, "| 3 | **Slides**", "| 4 | **Slides**"),
    (slides_are_as_they_say, "| 22 | **Slides**", "| 20 | **Slides**"),
    (slides_are_as_they_say, 'from "Rows"', 'from "Larger than memory"'),
    (slides_are_as_they_say, 'to "References"', 'to "The guide"'),
    (there_is_time_to_read, "| 15 | **Run and read**", "| 5 | **Run and read**"),
    (links_lead_somewhere, "#sec-vi-by-hand)", "#sec-vi-by-foot)"),
    (links_lead_somewhere, "(handout.qmd)", "(hand-out.qmd)"),
    (links_lead_somewhere, "(#sec-workshop-questions)", "(#sec-workshop-quiz)"),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_plans(check):
    assert list(check(read("workshop.qmd"))) == []


@pytest.mark.parametrize(("check", "right", "wrong"), MISTAKES)
def test_a_mistake_in_a_plan_is_noticed(check, right, wrong):
    text = read("workshop.qmd")
    assert right in text
    assert list(check(text.replace(right, wrong)))


def test_sums_of_whole_notebooks():
    def all_of(slides, *names):
        parts = [part for name in names for part in notebook(name).values()]
        exercises = [known for part in parts for known in part.exercises.values()]
        reading = sum(part.minutes for part in parts)
        solving = sum(int(minutes) for _, minutes in exercises)
        return round(reading) + solving + minutes_of_slides(slides, "", "")

    groups = all_of("slides/hierarchical_models.qmd", *notebooks("07"))
    real = all_of("slides/real_work.qmd", *notebooks("10", "11"))
    said = f"notebook 07 takes {groups} minutes, and notebooks 10 and 11 together take"
    assert f"{said} {real}." in read("workshop.qmd")


# The handout ------------------------------------------------------------------------


def notebooks(*numbers: str) -> list[str]:
    """Return the names of notebooks by number."""
    paths = execute.course_order()
    found = [path for path in paths if path.name.split("_")[0] in numbers]
    return [path.relative_to(execute.ROOT).as_posix() for path in found]


def test_the_links_of_the_handout():
    assert list(links_lead_somewhere(read("handout.qmd"))) == []


def test_its_eight_lines_fit_a_line():
    [code] = re.findall(r"^```python\n(.*?)^```$", read("handout.qmd"), re.M | re.S)
    imports, lines = code.split("\n\n")
    assert len(lines.splitlines()) == 8
    rng = np.random.default_rng(3)
    x = rng.normal(size=400)
    x = (x - x.mean()) / x.std()
    y = 0.5 - 1.5 * x + rng.normal(size=400)
    scope = {"x": x, "y": y}
    exec(f"{imports}\n{lines}", scope)
    draws = np.asarray(scope["draws"]["w"])
    mean = np.array([y.sum(), x @ y]) / 401  # 400 rows, and a prior worth one
    assert np.allclose(draws.mean(0), mean, atol=0.02)
    assert np.allclose(draws.std(0), 401**-0.5, rtol=0.2)


def test_its_symptoms_are_those_of_the_troubleshooting():
    cells = json.loads(read("troubleshooting.ipynb"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    entries = sections(text)
    found = rows(sections(read("handout.qmd"))["sec-handout-symptoms"])
    assert len(found) > 8
    for row in found:
        [(_, _, anchor)] = LINK.findall(row[0])
        for code in re.findall(r"`([^`]+)`", " ".join(row)):
            assert code in entries[anchor], (anchor, code)
