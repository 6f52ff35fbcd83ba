"""Stored results of `benchmarks/` are those that its scripts make."""

import json
from pathlib import Path

import jax
import nbformat
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer.util import log_density
from scipy.special import polygamma
from scipy.stats import lognorm

import frameworks
import loops
import run
from bnn_model import make_data, model
from bnn_reference import predict, run_ensemble, run_nuts

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
TRAIN, VALIDATION, TEST = make_data()
SIDE = np.linspace(-2, 3, 9, dtype="float32")
GRID = np.stack(np.meshgrid(SIDE, SIDE - 0.25), axis=-1).reshape(-1, 2)


def stored(kind):
    with np.load(FOLDER / "bnn_reference.npz") as file:
        names = [name for name in file if name.startswith(kind)]
        return {name.removeprefix(kind): file[name] for name in names}


def mean_and_variance(p):
    """Mean over chains and draws, and the variance of that mean, of each column."""
    ess = np.clip(effective_sample_size(p), 4, p.shape[0] * p.shape[1])
    return p.mean(axis=(0, 1)), p.var(axis=(0, 1)) / ess


def test_the_facts_belong_to_the_stored_weights():
    path = FOLDER / "bnn_reference.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    nuts, ensemble = facts["nuts"], facts["ensemble"]
    shapes = {name: w.shape for name, w in stored("nuts/").items()}
    assert shapes["nn/layers.0.kernel"] == (nuts["chains"], nuts["draws_kept"], 2, 4)
    assert sum(np.prod(shape[2:], dtype=int) for shape in shapes.values()) == 31
    members = stored("ensemble/")
    assert {name: w.shape[1:] for name, w in members.items()} == {
        name: shape[2:] for name, shape in shapes.items()
    }
    assert len(members["nn/layers.0.kernel"]) == ensemble["members"]
    assert len(ensemble["best_steps"]) == ensemble["members"]
    assert nuts["max_rhat_test_logits"] < 1.05
    assert set(facts["versions"]) == {"jax", "numpyro", "flax", "optax"}
    for key in ("command", "date", "hardware"):
        assert facts[key]
    assert (FOLDER / "bnn_reference.npz").stat().st_size < 300_000


@pytest.mark.parametrize("kind", ["nuts/", "ensemble/"])
def test_stored_networks_predict_the_test_data(kind):
    p = predict(stored(kind), TEST[0])
    p = p.reshape(-1, p.shape[-1]).mean(axis=0)
    assert ((p > 0.5) == TEST[1]).mean() > 0.9


def test_short_nuts_agrees_with_the_stored_draws():
    weights, _ = run_nuts(jax.random.key(1), TRAIN, chains=2, warmup=150, draws=100)
    new, new_variance = mean_and_variance(predict(weights, GRID))
    old, old_variance = mean_and_variance(predict(stored("nuts/"), GRID))
    z = (new - old) / np.sqrt(new_variance + old_variance + 1e-6)
    # The points of the grid go up and down together: judge them together, too.
    assert np.sqrt(np.mean(z**2)) < 2.5
    assert abs(z).max() < 6
    assert abs(new - old).max() < 0.2


def test_fresh_members_agree_with_the_stored_ensemble():
    weights, _ = run_ensemble(jax.random.key(1), TRAIN, VALIDATION, members=6)
    new, old = predict(weights, GRID), predict(stored("ensemble/"), GRID)
    # Pooled: where almost all networks are sure, it takes both to see the others.
    variance = np.concatenate([new, old]).var(axis=0, ddof=1)
    error = np.sqrt(variance * (1 / len(new) + 1 / len(old)) + 1e-6)
    z = (new.mean(axis=0) - old.mean(axis=0)) / error
    assert np.sqrt(np.mean(z**2)) < 2.5
    assert abs(z).max() < 6


def test_the_notebook_has_the_same_data_and_model():
    path = FOLDER.parent / "notebooks" / "04_bayesian_neural_network.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]

    def cell_with(text):
        (source,) = (source for source in sources if text in source)
        return source

    imports = cell_with("import numpyro\n").split("\nfigures.use_style()")[0]
    names = {"key": jax.random.key(0)}
    for source in (
        imports,
        cell_with("stratified_split(split_key"),
        cell_with("class MLP(nnx.Module)"),
        cell_with("\ndef model("),
    ):
        exec(source, names)
    for (x, y), part in zip((TRAIN, VALIDATION, TEST), names["parts"], strict=True):
        np.testing.assert_array_equal(x, part[0])
        np.testing.assert_array_equal(y, part[1])

    weights = {name: w[0, 0] for name, w in stored("nuts/").items()}
    densities = [
        log_density(each, TRAIN, {}, weights)[0] for each in (model, names["model"])
    ]
    assert densities[0] == densities[1]


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
    assert set(facts["times_scan_by_processor_time"]) == names - {"scan"}
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
    facts = origin_of(FOLDER / "loops.json")
    loops_are_complete(facts)
    assert facts["command"] == "python benchmarks/loops.py"
    # Notebook 04 says that 1 or 64 draws in an evaluation choose states as good.
    scores = {int(n): np.median(s) for n, s in facts["test_log_scores"].items()}
    few = facts["draws_in_notebook"]
    assert set(scores) == {1, few, 64}
    assert np.ptp([*scores.values()]) < 0.01
    rates = {n: facts["steps_per_second"][f"fit_evaluated_{n}_draws"] for n in scores}
    assert rates[64] < 0.95 * rates[few]


def test_the_stored_frameworks_are_complete_and_agree():
    facts = origin_of(FOLDER / "frameworks.json")
    models_are_complete(facts)
    assert facts["command"] == "python benchmarks/frameworks.py"
    assert set(facts["frameworks"]) == set(frameworks.WORKERS)
    assert set(facts["models"]) == set(frameworks.MODELS)
    frameworks.check(facts["models"])
    for at in facts["models"].values():
        assert min(min(ratios.values()) for ratios in at["times_others"].values()) > 1


def test_a_short_run_of_the_loops(tmp_path):
    loops.main(["--quick", f"--out={tmp_path}"])
    loops_are_complete(origin_of(tmp_path / "loops.json"))


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
        pytest.skip(f"{folder.name} is not there: run benchmarks/frameworks.py")
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


def test_one_command_runs_all_scripts_and_goes_on_after_a_failure(
    tmp_path, monkeypatch, capfd
):
    scripts = {
        path.name
        for path in FOLDER.glob("*.py")
        if "\nif __name__ ==" in path.read_text(encoding="utf-8")
    }
    parts = {"frameworks_worker.py", "production_fit.py", "production_server.py"}
    assert set(run.SCRIPTS) == scripts - {"run.py", "report.py", *parts}

    (tmp_path / "good.py").write_text("import sys; print('ran', *sys.argv[1:])")
    (tmp_path / "bad.py").write_text("raise SystemExit(3)")
    (tmp_path / "report.py").write_text("import sys; print('shown', *sys.argv[1:])")
    monkeypatch.setattr(run.record, "HERE", tmp_path)
    monkeypatch.setattr(run, "SCRIPTS", {"bad.py": "", "good.py": "--quick"})
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(SystemExit, match="1 of 3 failed"):
        run.main(["--quick", f"--out={elsewhere}"])
    shown = capfd.readouterr().out
    assert f"ran --quick --out={elsewhere}" in shown
    assert "FAILED" in shown
    assert f"shown --out={elsewhere}" in shown
    # A page of the results of one script: only where the others are stored.
    for out, has_page in ((elsewhere, False), (tmp_path, True)):
        with pytest.raises(SystemExit) as ended:
            run.main(["good.py", f"--out={out}"])
        assert not ended.value.code
        assert ("shown" in capfd.readouterr().out) == has_page
