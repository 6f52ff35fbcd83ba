"""The plans of the workshop add up, and name exercises and slides as they are."""

import functools
import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

import execute

LENGTHS = {  # minutes with breaks, without lunch
    "sec-workshop-half": 210,
    "sec-workshop-day-one": 390,
    "sec-workshop-day-two": 390,
}
LINK = re.compile(r"\[([^\]]+)\]\(([^)#]*)(?:#([\w-]+))?\)")
ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)
EXERCISE = re.compile(r"\[(\w+), exercise (\d+)\]\(([^)#]+)#([\w-]+)\) \((\w+), (\d+) min\)")
STATED = re.compile(r'title="Exercise (\d+) · (\w+) · (\d+) minutes"')
RANGE = re.compile(r'\]\(([^)]+)\), (?:all slides|from "([^"]+)" to "([^"]+)")')
NUMBERS = {
    word: number
    for number, word in enumerate(
        "one two three four five six seven eight nine ten eleven twelve thirteen "
        "fourteen fifteen".split(),
        start=1,
    )
}


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
        if what.startswith("**Exercise") and int(EXERCISE.search(what)[6]) != minutes:
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


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_plans(check):
    assert list(check(read("workshop.qmd"))) == []
