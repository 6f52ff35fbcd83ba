"""Notebook 07: its script serves other data, its models are those of the benchmarks."""

import ast
from functools import partial

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pandas as pd
import pytest
from numpyro.handlers import seed, trace
from numpyro.infer.util import log_density

from benchmarks.measure import panels
from benchmarks.shared import flight_model, panel_model, record

NOTEBOOK = record.ROOT / "notebooks" / "07_hierarchical_models.ipynb"
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def taught():
    """Imports and definitions of the notebook, without what it computes."""
    names = {"PHI": 5.0}
    for cell in nbformat.read(NOTEBOOK, 4)["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse(cell["source"])
            if cell["id"] != "imports":
                tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
            exec(compile(tree, cell["id"], "exec"), names)
    return names


def visits(count=6_000, spread=0.8):
    """Other data: missed visits by clinic, doctor and day, in another shape."""
    rng = np.random.default_rng(8)
    frame = pd.DataFrame(
        {
            "clinic": rng.integers(0, 12, count),
            "doctor": rng.choice([f"Dr. {i}" for i in range(200)], count),
            "day": rng.choice(["Mo", "Tu", "We"], count),
        }
    )
    of_clinic, of_doctor = rng.normal(0, spread, 12), rng.normal(0, spread / 2, 200)
    number = frame["doctor"].str[4:].astype(int)
    logit = -0.5 + of_clinic[frame["clinic"]] + of_doctor[number]
    frame["missed"] = rng.random(count) < 1 / (1 + np.exp(-logit))
    frame.loc[::50, "doctor"] = None
    return frame, of_clinic


def test_the_script_serves_other_data(taught, tmp_path):
    frame, of_clinic = visits()
    path, groups = tmp_path / "missed.npz", ["clinic", "doctor", "day"]
    report = taught["fit_groups"](KEY, frame, "missed", groups, path, steps=3_000)
    assert min(report["log scores"]) > report["base rate"] + 0.02
    saved = np.load(path)
    clinics = saved["levels of clinic"].tolist()  # in the order of text
    assert clinics == ["other", *sorted(map(str, range(12)))]
    assert len(saved["levels of doctor"]) == 201
    raw, share = saved["effect_decentered_auto_loc"], saved["share"]
    scale = np.exp(saved["scale_auto_loc"])[saved["group"]]
    effect = scale ** (1 - share) * raw
    true_effect = of_clinic[[int(name) for name in clinics[1:]]]
    assert np.corrcoef(effect[1:13], true_effect)[0, 1] > 0.97
    chance = taught["predict_groups"](KEY, frame[groups], path)
    by_clinic = pd.Series(chance).groupby(frame["clinic"]).mean()
    assert np.corrcoef(by_clinic, of_clinic)[0, 1] > 0.97
    assert abs((frame["missed"] - chance).mean()) < 0.02
    new = frame[groups].head(3).assign(clinic=99, doctor="Dr. New")
    [first, *others] = taught["predict_groups"](KEY, new, path)
    assert 0.25 < first < 0.5
    assert len(others) == 2


def test_the_script_saves_no_fit_whose_keys_differ(taught, tmp_path):
    frame, _ = visits()
    path, groups = tmp_path / "early.npz", ["clinic", "doctor", "day"]
    with pytest.raises(RuntimeError, match="not saved: keys differ; take more steps"):
        taught["fit_groups"](KEY, frame, "missed", groups, path, steps=300)
    assert not path.exists()


@pytest.mark.parametrize("outcome", [["yes", "no"], [1, 2], [1, None]])
def test_the_script_wants_zeros_and_ones(taught, tmp_path, outcome):
    frame = pd.DataFrame({"missed": outcome, "doctor": ["a", "b"]})
    with pytest.raises(ValueError, match="outcome: expected 0 and 1 without gaps"):
        taught["fit_groups"](KEY, frame, "missed", ["doctor"], tmp_path / "x.npz")


def test_the_script_saves_no_fit_that_predicts_nothing(taught, tmp_path):
    frame, _ = visits(600)
    frame["missed"] = np.random.default_rng(1).random(len(frame)) < 0.3
    path = tmp_path / "nothing.npz"
    with pytest.raises(RuntimeError, match="not saved: no better"):
        taught["fit_groups"](KEY, frame, "missed", ["doctor"], path, steps=30)
    assert not path.exists()


def test_shops_are_those_of_the_benchmark(taught):
    tables, _ = panel_model.make_panel(1, 20, 10)
    point = {
        "mu": 1.0,
        "sigma": 0.5,
        "beta": 0.1,
        "tau": 0.2,
        "season": jnp.array([0.1, -0.2]),
        "phi": 4.0,
        "level": jnp.linspace(0, 2, 20)[:, None],
        "slope": jnp.linspace(-1, 1, 20)[:, None],
    }
    one = partial(panel_model.shop_model, size=20)
    [measured, _] = log_density(one, (), tables, point)
    rows = {k: v for k, v in tables.items() if k != "shop"}
    rows["week"] = np.tile(np.arange(rows["seen"].shape[1]), (20, 1))
    [shown, _] = log_density(taught["model"], (), rows, point)
    assert shown == pytest.approx(float(measured), rel=1e-5)


def test_shops_integrated_out_are_those_of_the_benchmark(taught):
    tables, _ = panel_model.make_panel(1, 20, 30)
    point = {"mu": 1.0, "sigma": 0.5, "beta": 0.1, "tau": 0.2, "phi": 4.0}
    point["season"] = jnp.array([0.1, -0.2])
    one = partial(panel_model.integrated_model, size=20)
    [measured, _] = log_density(one, (), tables, point)
    taught["of_all_shops"] = jax.vmap(taught["log_evidence"], (None, 0, 0, 0, 0))
    rows = {k: v for k, v in tables.items() if k != "shop"}
    rows["week"] = np.tile(np.arange(rows["seen"].shape[1]), (20, 1))
    [shown, _] = log_density(taught["integrated_model"], (), rows, point)
    assert shown == pytest.approx(float(measured), rel=1e-5)


def test_laplace_integrates_a_shop(taught):
    tables, _ = panel_model.make_panel(4, 1, 30)
    shared = {"mu": 1.0, "sigma": 0.5, "beta": 0.1, "tau": 0.2, "phi": 4.0}
    shared = jax.tree.map(jnp.float32, shared) | {"season": jnp.array([0.1, -0.2])}
    rows = [tables["seen"][0], np.arange(tables["seen"].shape[1])]
    rows += [tables["promotion"][0], tables["sales"][0]]
    levels, slopes = np.meshgrid(np.linspace(-1, 4, 300), np.linspace(-1, 1.5, 300))
    grid = jnp.stack([levels.ravel(), slopes.ravel()], -1)
    logs = jax.vmap(lambda at: taught["log_joint"](at, shared, *rows))(grid)
    cell = (5 / 299) * (2.5 / 299)
    exact = float(jax.nn.logsumexp(logs) + np.log(cell))
    found = float(taught["log_evidence"](shared, *rows))
    assert found == pytest.approx(exact, abs=0.02)


def test_flights_are_those_of_the_benchmark(taught):
    rng = np.random.default_rng(2)
    group = np.repeat([0, 1, 2], [3, 4, 5])
    levels = np.stack([rng.integers(0, 3, 50), rng.integers(3, 7, 50)], -1)
    late = rng.integers(0, 2, 50)
    point = {"intercept": -1.0, "scale": jnp.array([0.5, 0.4, 0.3])}
    point["effect"] = jnp.linspace(-1, 1, 12)
    sizes = {"group": group, "num_rows": 50}
    one = partial(flight_model.flight_model, **sizes)
    [measured, _] = log_density(one, (levels, late), {}, point)
    [shown, _] = log_density(taught["pooled_effects"], (levels, late), sizes, point)
    assert shown == pytest.approx(float(measured), rel=1e-5)


def test_shares_follow_the_rows(taught):
    rng = np.random.default_rng(0)
    shops = rng.normal(0, 1, 4_000)
    for noise in (0.1, 1.0, 4.0):
        estimates = shops + rng.normal(0, noise**0.5, 4_000)
        for share in (taught["share"], panel_model.share):
            found = share(estimates, np.full(4_000, noise))
            assert found == pytest.approx(1 / (1 + noise), abs=0.04)
    assert panel_model.share(np.zeros(1), np.ones(1)) == 0


def test_the_script_of_panels_judges_a_fit():
    tables, truth = panel_model.make_panel(5, 16, 10)
    ways = panels.methods(tables, 16, 20, 8)
    way = ways["shops integrated out"]
    result, seconds = panels.run(way, jax.random.split(KEY, 2), tables)
    params = jax.tree.map(lambda value: value[0], result.params)
    drawn = panels.draws_of(way, KEY, params, tables)
    assert seconds > 0
    assert drawn["level"].shape[:2] == (1_000, 16)
    means, sds = panels.moments(drawn)
    assert np.isfinite([means, sds]).all()
    assert all(0 <= share <= 1 for share in panels.coverage(drawn, truth).values())
    with seed(rng_seed=0):
        sites = trace(ways["encoder, batches"].guide).get_trace(**tables)
    assert sites["level"]["value"].shape == (16, 1)
