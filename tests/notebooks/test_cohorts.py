"""Notebook 11: its script serves a log of another shape."""

import ast

import jax
import nbformat
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from numpyro.infer import SVI, Predictive, Trace_ELBO, init_to_mean
from numpyro.infer.autoguide import AutoDiagonalNormal

import execute
from helpers import cohorts
from helpers.diagnostics import log_weights

NOTEBOOK = execute.ROOT / "notebooks" / "11_cohorts.ipynb"
CONSTANTS = {"SITES", "PLACES, WHAT"}


@pytest.fixture(scope="module")
def taught():
    """Imports and definitions of the notebook, without what it computes."""
    names = {}

    def kept(node):
        if isinstance(node, ast.Assign):
            return {
                ast.unparse(target).strip("()") for target in node.targets
            } <= CONSTANTS
        return isinstance(node, ast.FunctionDef | ast.ClassDef)

    for cell in nbformat.read(NOTEBOOK, 4)["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse(cell["source"])
            if not cell["id"].startswith("imports"):
                tree.body = [node for node in tree.body if kept(node)]
            exec(compile(tree, cell["id"], "exec"), names)
    return names


def orders(seed=3):
    """Orders of 1,500 customers in 20 weeks, acquired in the first twelve."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 12 * 7, 1_500)
    rows = []
    for customer, day in enumerate(first):
        again = day + np.cumsum(rng.exponential(25, 8)).astype(int)
        for each in (day, *again[again < 140]):
            rows.append((f"c{customer}", each, rng.gamma(2, 15)))
    log = pd.DataFrame(rows, columns=["customer", "date", "revenue"])
    log["date"] = pd.Timestamp("2025-03-03") + pd.to_timedelta(log["date"], unit="D")
    return log.sample(frac=1, random_state=seed)


def test_the_script_serves_another_log(taught, tmp_path):
    log, path = orders(), tmp_path / "weeks.npz"
    past = log[log["date"] < pd.Timestamp("2025-03-03") + pd.Timedelta(weeks=16)]
    settings = {"centered": 0.0, "season_sd": 0.01}
    options = {"steps": 4, "days": 7, "a_year": 365.25 / 7} | settings
    said = taught["forecast_log"](jax.random.key(0), past, path, **options)
    saved = np.load(path)
    assert saved["revenue"].shape == (1_000, 12 * 4)
    assert saved["age"].min() > 0
    assert saved["period"].max() == 19
    low, high = said["revenue"]
    came = log["revenue"].sum() - past["revenue"].sum()
    width = high - low
    assert low - width < came < high + width
    assert said["gap"] < 3
    # What was saved draws the same again, and each unknown has its own parameters.
    table = cohorts.cohort_table(past, days=7, duplicates="keep")
    data = taught["data_of"](table, 365.25 / 7) | {"season_sd": np.float32(0.01)}
    start = taught["start_of"](data, 0.0)
    params = {name: saved[name] for name in ("shift", "width")}
    found = {"center": saved["center"], "root": saved["root"], "params": params}
    inputs = taught["forecast_inputs"](data, pd.DataFrame(place_of(saved)), 365.25 / 7)
    _, draw_key = jax.random.split(jax.random.key(0))
    again = taught["draw_ahead"](draw_key, start, found, inputs)
    np.testing.assert_allclose(again["revenue"], saved["revenue"], rtol=1e-3)
    weights = log_weights(
        jax.random.key(1),
        start.model,
        taught["guide_of"](start, found),
        params,
        num_draws=500,
        **data,
    )
    assert abs(weights.mean() + said["loss"]) < 3


def place_of(saved):
    return {name: saved[name] for name in ("cohort", "age", "period")}


def test_where_nobody_is_active_nothing_is_spent(taught):
    size, age = np.array([3, 4]), np.tile(np.arange(6), 2)
    cohort = np.repeat([0, 1], 6)
    where = {"cohort": cohort, "age": age, "period": cohort + age}
    turn = np.arange(8) / 12
    drawing = Predictive(taught["cohort_model"], num_samples=50)
    drawn = drawing(jax.random.key(0), customers=size, turn=turn, oldest=5.0, **where)
    nobody = np.asarray(drawn["active"] == 0)
    assert nobody.any()
    assert not nobody.all()
    assert drawn["revenue"][nobody].max() == 0
    assert drawn["revenue"][~nobody].min() > 0
    assert (drawn["active"][:, age == 0] == size[cohort[age == 0]]).all()


def test_a_guide_that_meets_its_model_in_a_program_has_another_order():
    def model():
        numpyro.sample("z", dist.Normal(5, 1))
        numpyro.sample("a", dist.Normal(-5, 1))

    def start(key):
        guide = AutoDiagonalNormal(model, init_loc_fn=init_to_mean)
        svi = SVI(model, guide, optax.adam(0.1), Trace_ELBO())
        return svi.get_params(svi.init(key))["auto_loc"]

    outside, inside = start(jax.random.key(0)), jax.jit(start)(jax.random.key(0))
    np.testing.assert_allclose(outside, [5, -5])
    np.testing.assert_allclose(inside, [-5, 5])
