"""One command runs all benchmarks; children and targets do what they say."""

import pytest

from benchmarks import run
from benchmarks.shared import child, record
from benchmarks.shared.targets import Goal, holds, target

PARTS = {"measure.production_fit", "measure.production_server", "frameworks.worker"}
PARTS |= {f"frameworks.couriers_{name}" for name in ("pymc", "pyro", "stan")}


def test_the_command_runs_every_script():
    scripts = {
        f"{path.parent.name}.{path.stem}"
        for path in (record.ROOT / "benchmarks").glob("*/*.py")
        if "\nif __name__ ==" in path.read_text(encoding="utf-8")
    }
    assert set(run.SCRIPTS) == scripts - PARTS


def test_it_goes_on_after_a_failure(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "good.py").write_text("import sys; print('ran', *sys.argv[1:])")
    (folder / "bad.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(run.record, "ROOT", tmp_path)
    monkeypatch.setattr(run, "SCRIPTS", {"bad": "", "good": "--quick"})
    out = tmp_path / "elsewhere"
    with pytest.raises(SystemExit, match="1 of 2 failed"):
        run.main(["--quick", f"--out={out}"])
    shown = capfd.readouterr().out
    assert f"ran --quick --out={out}" in shown
    assert "FAILED" in shown
    with pytest.raises(SystemExit) as ended:
        run.main(["good", f"--out={out}"])
    assert not ended.value.code


def test_a_child_that_fails_says_why(tmp_path, monkeypatch):
    text = "def fail():\n    raise ValueError('too bad')\n"
    text += "from benchmarks.shared import child\n"
    text += "child.serve({'fail': fail, 'works': lambda n: {'n': n}})\n"
    (tmp_path / "script_of_a_test.py").write_text(text)
    env = {"PYTHONPATH": str(tmp_path)}
    failed = child.run("script_of_a_test", "fail", env=env)
    assert failed == {"failed": "ValueError: too bad"}
    assert child.run("script_of_a_test", "works", env=env, n=3)["n"] == 3
    with pytest.raises(RuntimeError, match="No module named"):
        child.expect("no_such_script", "fail")


def test_a_goal_is_reached_if_it_is_in_all_cases():
    cases = {"small": target(0.8, at_least=0.7), "large": target(0.6, at_least=0.7)}
    found = Goal("Speed", cases)
    assert (found.result, found.measured) == ("**reached in part**", "0.600 to 0.800")
    assert (found.limit, list(found.missed)) == ("≥ 0.7", ["large"])
    assert Goal("Speed", {"small": cases["small"]}).result == "reached"
    assert Goal("Speed", {"large": cases["large"]}).result == "**not reached**"
    small = Goal("Error", {"all": target(2.6e-7, at_most=1e-6)})
    assert small.limit == "≤ 10⁻⁶"
    assert small.measured == "2.6 × 10⁻⁷"
    bits = Goal("Bits", {"a": holds(True), "b": holds(False)})
    assert (bits.measured, bits.limit) == ("in 1 of 2 cases", "yes")
    with pytest.raises(ValueError, match="expected one target"):
        _ = Goal("Both", cases | {"other": target(1, at_least=0.9)}).limit
