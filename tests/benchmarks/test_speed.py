"""Stored speeds of loops and frameworks are complete; short runs make such files."""

import json

import numpy as np
import pytest
from scipy.special import polygamma
from scipy.stats import lognorm

from benchmarks.frameworks import compare as frameworks
from benchmarks.measure import loops
from benchmarks.shared.record import RESULTS


def origin_of(path):
    facts = json.loads(path.read_text(encoding="utf-8"))
    for key in ("command", "date", "hardware", "versions", "device"):
        assert facts[key]
    return facts


def ratios_follow(facts, ratios, to):
    """Ratios are medians over turns, each recorded."""
    runs = facts["steps_per_second_of_each_run"]
    for name, ratio in ratios.items():
        expected = np.median(np.divide(runs[name], runs[to]))
        assert ratio == pytest.approx(expected, rel=0.05, abs=2e-3)


def loops_are_complete(facts):
    evaluated = {name for name in facts["times_scan"] if "evaluated" in name}
    assert evaluated
    names = evaluated | {"python_loop", "fit", "scan"}
    assert set(facts["steps_per_second"]) == names
    assert set(facts["times_python_loop"]) == names - {"python_loop"}
    assert set(facts["times_scan"]) == names - {"scan"}
    assert facts["largest_relative_difference_of_losses"] < 1e-4
    for runs in facts["steps_per_second_of_each_run"].values():
        assert len(runs) == facts["repeats"]
    draws = {f"fit_evaluated_{n}_draws" for n in facts["test_log_scores"]}
    assert draws == evaluated
    assert f"fit_evaluated_{facts['draws_in_notebook']}_draws" in evaluated
    ratios_follow(facts, facts["times_python_loop"], "python_loop")
    ratios_follow(facts, facts["times_scan"], "scan")


def models_are_complete(facts):
    for name, at in facts["models"].items():
        assert set(at["steps_per_second"]) == set(facts["frameworks"])
        if name in frameworks.SITES:
            assert set(at["fits"]) == set(facts["frameworks"])
            assert len(at["reference"]["mean"]) == len(at["reference"]["sd"])
        for ratios in at["times_others"].values():
            others = {n for n in facts["frameworks"] if not n.startswith("numpyro")}
            assert set(ratios) == others
        for runs in at["steps_per_second_of_each_run"].values():
            assert len(runs) == facts["repeats"]
    for described in facts["frameworks"].values():
        assert set(described) == {"compiled_by", "precision", "versions"}


def test_the_stored_loops_are_complete():
    facts = origin_of(RESULTS / "loops.json")
    loops_are_complete(facts)
    assert facts["command"] == "python -m benchmarks.measure.loops"
    # Notebook 04 says that 1 or 64 draws in an evaluation choose states as good.
    scores = {int(n): np.median(s) for n, s in facts["test_log_scores"].items()}
    few = facts["draws_in_notebook"]
    assert set(scores) == {1, few, 64}
    assert np.ptp([*scores.values()]) < 0.01
    rates = {n: facts["steps_per_second"][f"fit_evaluated_{n}_draws"] for n in scores}
    assert rates[64] < 0.95 * rates[few]


def test_the_stored_frameworks_are_complete_and_agree():
    facts = origin_of(RESULTS / "frameworks.json")
    models_are_complete(facts)
    assert facts["command"] == "python -m benchmarks.frameworks.compare"
    assert set(facts["frameworks"]) == set(frameworks.WORKERS)
    assert set(facts["models"]) == set(frameworks.MODELS)
    frameworks.check(facts["models"])
    for at in facts["models"].values():
        assert min(min(ratios.values()) for ratios in at["times_others"].values()) > 1


def test_a_short_run_of_the_loops(tmp_path):
    loops.main(["--quick", f"--out={tmp_path}"])
    facts = origin_of(tmp_path / "loops.json")
    loops_are_complete(facts)
    besides = facts["seconds_besides_steps"]
    assert set(besides) == set(facts["times_scan"]) - {"python_loop"}
    assert min(besides.values()) > 0


def test_a_short_run_of_numpyro_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(frameworks, "ROOT", tmp_path)  # nothing is installed there
    one = {"numpyro": frameworks.WORKERS["numpyro"]}
    monkeypatch.setattr(frameworks, "WORKERS", one)
    quick = ["--quick", "--no-install", "--models", "gamma"]
    frameworks.main([*quick, f"--out={tmp_path}"])
    facts = origin_of(tmp_path / "frameworks.json")
    models_are_complete(facts)
    assert facts["left_out"] == ["pymc", "pyro"]
    assert set(facts["models"]) == {"gamma"}
    assert set(facts["frameworks"]) == {"numpyro"}


@pytest.mark.parametrize("name", ["pyro", "pymc_c"])
def test_the_other_frameworks_fit(name, tmp_path):
    framework = frameworks.WORKERS[name][0]
    folder = frameworks.ROOT / f".env-{framework}"
    if not (folder / ".installed").exists():
        pytest.skip(f"{folder.name} is not there: run make benchmarks")
    np.savez(tmp_path / "data.npz", **frameworks.all_data())
    files = tmp_path / "data.npz", tmp_path / "log.txt"
    worker = frameworks.Worker(name, folder / "bin" / "python", *files)
    try:
        request = {"model": "gamma", "learning_rate": 0.01}
        assert worker.ask("run", **request, steps=5)["seconds"] > 0
        reference = frameworks.references(frameworks.all_data())["gamma"]
        assert frameworks.describe(worker, "gamma", 1_200, reference)["steps"] == 1_200
        with pytest.raises(RuntimeError, match="KeyError"):
            worker.ask("run", **request | {"model": "none"}, steps=5)
    finally:
        worker.stop()


def test_references_are_the_posteriors():
    data = frameworks.all_data()
    known = frameworks.references(data)
    (mean,), (sd,) = known["gamma"]
    assert abs(mean - 2) < 4 * sd
    assert sd == pytest.approx((polygamma(1, mean) * 1_000) ** -0.5, rel=0.02)
    mode, sds = known["logistic"]
    assert np.all(abs(mode - np.linspace(-1, 1, 10)) < 4 * sds)
    log_mean, log_sd = 0.5, 0.3
    moments = frameworks.moments("gamma", [log_mean], [log_sd])
    exact = lognorm(log_sd, scale=np.exp(log_mean))
    np.testing.assert_allclose(np.ravel(moments), [exact.mean(), exact.std()])


def test_the_fits_must_agree_with_the_references():
    fit = {"largest_error_of_mean_in_sd": 0.5, "sd_over_reference": [1, 1]}
    frameworks.check({"gamma": {"fits": {"a": fit}}})
    for wrong in (
        {"largest_error_of_mean_in_sd": np.nan},
        {"largest_error_of_mean_in_sd": 3.0},
        {"sd_over_reference": [0.2, 1.0]},
    ):
        with pytest.raises(AssertionError, match="gamma, a"):
            frameworks.check({"gamma": {"fits": {"a": fit | wrong}}})
