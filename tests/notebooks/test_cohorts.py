"""Notebook 11: its script serves a log of another shape."""

import ast

import jax
import nbformat
import numpy as np
import pandas as pd
import pytest
from numpyro.infer import Predictive

import execute

NOTEBOOK = execute.ROOT / "notebooks" / "11_cohorts.ipynb"
CONSTANTS = {"CENTERS", "SITES", "PLACES", "WHAT"}


@pytest.fixture(scope="module")
def taught():
    """Imports and definitions of the notebook, without what it computes."""
    names = {}

    def kept(node):
        if isinstance(node, ast.Assign):
            return {getattr(target, "id", "") for target in node.targets} <= CONSTANTS
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
    settings = {"share": 0.0, "season_sd": 0.01}
    options = {"steps": 4, "days": 7, "periods_a_year": 365.25 / 7} | settings
    said = taught["forecast_log"](jax.random.key(0), past, path, **options)
    saved = np.load(path)
    assert saved["revenue"].shape == (1_000, 12 * 4)
    assert saved["age"].min() > 0
    assert saved["period"].max() == 19
    low, high = said["revenue"]
    came = log["revenue"].sum() - past["revenue"].sum()
    width = high - low
    assert low - width < came < high + width


def test_where_nobody_is_active_nothing_is_spent(taught):
    size, age = np.array([3, 4]), np.tile(np.arange(1, 6), 2)
    cohort = np.repeat([0, 1], 5)
    where = {"cohort": cohort, "age": age, "period": cohort + age}
    turn = np.arange(8) / 12
    drawing = Predictive(taught["cohort_model"], num_samples=50)
    drawn = drawing(jax.random.key(0), customers=size, turn=turn, **where)
    nobody = np.asarray(drawn["active"] == 0)
    assert nobody.any()
    assert not nobody.all()
    assert drawn["revenue"][nobody].max() < 1e-3
    assert drawn["revenue"][~nobody].mean() > 1
