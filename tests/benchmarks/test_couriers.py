"""The programs on the page for newcomers are those that the benchmark ran."""

import json
import re

import nbformat
import numpy as np
import pytest

from benchmarks.frameworks import compare, couriers
from benchmarks.shared import record

FOLDER = record.ROOT / "benchmarks" / "frameworks"
PAGE = nbformat.read(record.ROOT / "coming_from.ipynb", as_version=4)
STORED = json.loads((record.RESULTS / "couriers.json").read_text(encoding="utf-8"))


def shown(language):
    """The program in a fence of the page."""
    text = "\n".join(c["source"] for c in PAGE["cells"] if c["cell_type"] == "markdown")
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)
    return found


def source(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def test_the_page_shows_the_programs_that_ran():
    assert shown("stan") == source("couriers.stan")
    assert shown("python") in source("couriers_pyro.py")
    [cell] = (cell["source"] for cell in PAGE["cells"] if cell["id"] == "pymc-model")
    assert f"{cell}\n" in source("couriers_pymc.py")


def test_the_data_are_those_of_the_script():
    assert STORED["data"] == couriers.make_data()


def test_all_libraries_were_run():
    assert STORED["left_out"] == []
    assert set(STORED["libraries"]) == set(couriers.PACKAGES)
    for name, found in STORED["libraries"].items():
        assert set(found["versions"]) == {"python", *couriers.PACKAGES[name]}
        assert {way for way in found if way != "versions"} == (
            {"nuts"} if name == "stan" else {"nuts", "mean-field"}
        )
        assert min(found["nuts"]["a"]["effective_draws"]) > 300


def test_moments_are_those_of_the_draws():
    draws = np.random.default_rng(1).normal([2, 5], [1, 3], (2, 5_000, 2))
    found = couriers.moments(draws, "nuts")
    assert found["mean"] == pytest.approx([2, 5], abs=0.15)
    assert found["sd"] == pytest.approx([1, 3], rel=0.05)
    assert found["effective_draws"] == pytest.approx([10_000] * 2, rel=0.2)
    assert couriers.moments(draws, "mean-field")["effective_draws"] == [10_000] * 2


def test_a_short_run_has_data_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "ROOT", tmp_path)  # nothing is installed there
    couriers.main(["--quick", "--no-install", f"--out={tmp_path}"])
    facts = json.loads((tmp_path / "couriers.json").read_text(encoding="utf-8"))
    assert facts["left_out"] == ["pyro", "stan"]
    assert facts["data"] == STORED["data"]
    assert facts["libraries"] == {}
