"""The page of results is what the stored JSON files say, and says it well."""

import copy
import re
import shutil

import pytest
import record
import report
from bars import bar, holds
from report_bars import Bar, all_bars
from report_text import SPACE, number, origin, scaled, seconds, span, table

import run


@pytest.fixture(scope="module")
def results():
    return report.read(record.HERE)


def test_the_stored_page_is_made_of_the_stored_results(results):
    stored = report.PAGE.read_text(encoding="utf-8")
    assert stored == report.page(results), "run `python benchmarks/report.py`"


def test_every_script_has_its_section_which_says_where_it_comes_from(results):
    assert {f"{name}.py" for name in report.SECTIONS} == set(run.SCRIPTS)
    text = report.page(results)
    others = {k: each for k, each in results.items() if k != "accelerators"}
    for facts in (*others.values(), *results["accelerators"].values()):
        assert text.count(f"\n{origin(facts).partition(';')[0]};") == 1
        assert facts["date"] in text
    labels = re.findall(r"\{#(\S+)\}", text)
    assert len(labels) == len(set(labels))
    assert "None" not in text
    assert "nan" not in text


def test_every_bar_was_measured(results):
    for each in all_bars(results):
        assert each.cases, each.what
        assert each.limit
        shown = f"| {each.what} | {each.limit} | {each.measured} | {each.verdict} |"
        assert shown in report.page(results)


def test_a_bar_that_is_missed_says_where(results):
    cases = {"small": bar(0.8, at_least=0.7), "large": bar(0.6, at_least=0.7)}
    found = Bar("Speed", cases)
    assert (found.verdict, found.measured) == ("**reached in part**", "0.600 to 0.800")
    assert found.limit == f"≥{SPACE}0.7"
    assert found.explained() == (
        f"**Reached in part:** Speed, ≥{SPACE}0.7. Missed with: large (0.600). "
        "Reached with: small (0.800)."
    )
    assert Bar("Speed", {"small": cases["small"]}).verdict == "reached"
    assert Bar("Speed", {"large": cases["large"]}).verdict == "**not reached**"
    assert Bar("Speed", {}).verdict == "not measured"
    assert (
        Bar("Error", {"all": bar(1e-7, at_most=1e-6)}).limit == f"≤{SPACE}$10^{{-6}}$"
    )
    bits = Bar("Bits", {"a": holds(True), "b": holds(False)})
    assert (bits.measured, bits.limit) == ("in 1 of 2 cases", "yes")
    with pytest.raises(ValueError, match="expected one bar"):
        _ = Bar("Both", cases | {"other": bar(1, at_least=0.9)}).limit

    changed = copy.deepcopy(results)
    changed["processes"]["max_relative_difference"] = 0.01
    assert "**Not reached:** Losses on two processes" in report.page(changed)


def test_missing_results_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"no loops.json, .*accelerators.json in "):
        report.main([f"--out={tmp_path}"])


def test_devices_on_which_nothing_was_measured_are_named(results):
    cpu = results["accelerators"]["cpu"]
    write = report.SECTIONS["accelerators"]
    alone, both = write({"cpu": cpu}), write({"cpu": cpu, "gpu": cpu | {"device": "G"}})
    assert "Nothing was measured on a GPU." in alone
    assert "Nothing was measured" not in both
    assert both.count("GPU, measured") == 3


def test_a_page_of_other_results_lies_beside_them(tmp_path, results):
    for path in record.HERE.glob("*.json"):
        shutil.copy(path, tmp_path)
    report.main([f"--out={tmp_path}"])
    text = (tmp_path / report.PAGE.name).read_text(encoding="utf-8")
    assert text == report.page(results)


def plain(text):
    return text.replace(SPACE, " ")


def test_numbers_are_shown_with_sensible_digits():
    assert [number(x) for x in (15_285, 0.6034, 9.996, 1, 0, None, -2.5)] == [
        *("15,300", "0.603", "10.0", "1", "0", "–", "−2.50")
    ]
    assert number(2.646e-7) == r"$2.6 \times 10^{-7}$"
    assert [plain(seconds(x)) for x in (119.2, 0.9996, 0.0009691, 3.3e-8, None)] == [
        *("119 s", "1.00 s", "969 µs", "33.0 ns", "–")
    ]
    assert [plain(scaled(x, "B")) for x in (44, 49_156, 8e9)] == [
        "44 B",
        "49.2 kB",
        "8.00 GB",
    ]
    assert span([3, 1, 2]) == "1 to 3"
    assert span([0.5, 0.5]) == "0.500"
    lines = table([{"a": "x", "b": "1", "c": "y 1"}], "t", "Words.").splitlines()
    assert re.fullmatch(r"\| :-+ \| -+: \| :-+ \|", lines[1])
    assert lines[-2] == ": Words. {#tbl-results-t}"
