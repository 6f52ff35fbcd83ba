"""The home page promises minutes: they are those of the notebooks."""

import re

import pytest

import execute

HOME = (execute.ROOT / "index.qmd").read_text("utf-8")
READING = re.compile(r"\*\*Time\*\* (\d+) minutes? to read")
PATH = re.compile(r"^\| \*\*([^*]+)\*\* \| (.*) \| (\d+) min \|$", re.M)
LINK = re.compile(r"\]\(([\w/]+\.ipynb)\)")


def minutes(name):
    """Return the minutes that it takes to read a notebook, by its own words."""
    cells = execute.read(execute.ROOT / name)["cells"]
    [found] = [at for cell in cells if (at := READING.search(cell["source"]))]
    return int(found[1])


def test_the_map_has_the_minutes_of_the_notebooks():
    rows = re.findall(r"^\| \d\w* \| \[.*?\]\((.*?)\).* \| (\d+) min \|$", HOME, re.M)
    assert len(rows) == len(execute.course_order())
    for name, said in rows:
        assert int(said) == minutes(name), name
    total = sum(int(said) for _, said in rows)
    assert 7.5 * 60 < total < 8.5 * 60, "about eight hours"
    texts = "".join(path.read_text("utf-8") for path in execute.course_order())
    exercises = re.findall(r"Exercise \d · \w+ · (\d+) minutes", texts)
    assert 0.9 < sum(map(int, exercises)) / total < 1.1, "as long again"


@pytest.mark.parametrize(("who", "steps", "said"), PATH.findall(HOME))
def test_a_path_takes_what_it_says(who, steps, said):
    names = LINK.findall(steps)
    assert len(names) >= 5, who
    assert int(said) == sum(map(minutes, names)), who


def test_there_are_three_paths():
    assert len(PATH.findall(HOME)) == 3


def test_all_four_uses_start_on_the_first_screen():
    first = HOME.split("{#eq-home-identity}")[0]
    for use in ("read", "run", "present", "teach"):
        assert re.search(rf"\*\*{use}\*\* \[[^]]+\]\([\w/.]+\)", first), use
