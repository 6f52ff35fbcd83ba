"""Notebook 10: its model is that of the benchmark, right, and serves other data."""

import ast
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pandas as pd
import pytest
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import Predictive
from scipy.stats import nbinom

from benchmarks.measure.demand import articles
from benchmarks.shared import demand_model, record

NOTEBOOK = record.ROOT / "notebooks" / "10_demand_forecasting.ipynb"
KEY = jax.random.key(4)
KINDS = (ast.FunctionDef, ast.ClassDef)


@pytest.fixture(scope="module")
def cells():
    """Code of the notebook's cells by their names."""
    found = nbformat.read(NOTEBOOK, 4)["cells"]
    return {c["id"]: c["source"] for c in found if c["cell_type"] == "code"}


@pytest.fixture(scope="module")
def definitions(cells):
    """Text of each function and class of the notebook."""
    found = {}
    for source in cells.values():
        for node in ast.parse(source).body:
            if isinstance(node, KINDS):
                found[node.name] = ast.get_source_segment(source, node)
    return found


def test_notebook_and_benchmark_have_one_model(definitions):
    source = (record.ROOT / "benchmarks/shared/demand_model.py").read_text()
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, KINDS):
            names.append(node.name)
            assert ast.get_source_segment(source, node) == definitions[node.name]
    assert len(names) == 11


@pytest.mark.parametrize("phi", [0.7, 4.0, 30.0])
def test_the_chance_to_reach_a_stock_is_exact(phi):
    stock = np.array([0, 1, 2, 7, 40, 3])
    mean = np.array([2.0, 0.1, 3.0, 5.0, 25.0, 60.0])
    found = demand_model.chance_to_reach(jnp.array(mean), jnp.full(6, phi), stock)
    exact = nbinom.sf(stock - 1, phi, phi / (phi + mean))
    np.testing.assert_allclose(found, np.clip(exact, 1e-6, 1 - 1e-6), atol=3e-5)


def test_what_is_expected_beyond_a_stock_is_near_the_exact_number():
    phi, counts = 4.0, np.arange(5_000)
    for mean, stock in ((1.0, 2), (4.0, 6), (20.0, 30), (20.0, 10), (60.0, 90)):
        mass = nbinom.pmf(counts, phi, phi / (phi + mean))
        above = counts >= stock
        exact = (counts * mass)[above].sum() / mass[above].sum()
        found = demand_model.expected_beyond(mean, phi, float(stock))
        assert found == pytest.approx(exact, rel=0.12)
        assert found > max(stock, mean)


def test_an_empty_shelf_says_nothing():
    assert demand_model.expected_beyond(0.5, 4.0, 0.0) == 0.5


def test_forecasts_go_on_as_a_longer_simulation_does():
    """Beside a loop in NumPy that knows nothing of scans and plates."""
    history, future, *_ = articles(5, 12)
    history = history._replace(sold_out=np.zeros_like(history.sold_out))
    values = {n: v[0] for n, v in _prior(history).items()}
    fixed = substitute(demand_model.demand_model, data=values)
    ahead = Predictive(fixed, num_samples=4_000)(KEY, history, future)["demand"]
    ahead = np.asarray(ahead)

    rng, num = np.random.default_rng(1), 4_000
    memory, group = float(values["memory"]), history.group
    effect = values["price_center"][group] + values["price_spread"] * values["own"]
    factors = [
        np.exp((values["season"] @ w.calendar)[group] + effect[:, None] * w.log_price)
        for w in (history, future)
    ]
    total = np.exp(values["level"]) / (1 - memory) + np.zeros((num, 12))
    weight = np.full(12, 1 / (1 - memory))
    for week in range(history.sales.shape[1]):
        seen, factor = history.seen[:, week], factors[0][:, week]
        total = np.where(seen, memory * total + history.sales[:, week], total)
        weight = np.where(seen, memory * weight + factor, weight)
    phi = values["phi"][group]
    for week in range(future.log_price.shape[1]):
        factor = factors[1][:, week]
        mean = factor * total / weight
        demand = rng.poisson(mean * rng.gamma(phi, 1 / phi, mean.shape))
        error = np.sqrt(2 * demand.var(0) / num)
        assert (abs(demand.mean(0) - ahead[:, week].mean(0)) < 5 * error + 1e-9).all()
        spread = demand.std(0) + 0.1
        np.testing.assert_allclose(ahead[:, week].std(0) + 0.1, spread, rtol=0.3)
        total, weight = memory * total + demand, memory * weight + factor


def _prior(history):
    """Return draws of the unknowns, near what the simulation uses."""
    model = substitute(
        demand_model.demand_model,
        data={"memory": jnp.array(0.95), "spread": jnp.array(0.5)},
    )
    names = ["memory", "spread", "price_spread", "center", "price_center", "phi"]
    names += ["season", "level", "own"]
    drawn = Predictive(model, num_samples=1)(KEY, history)
    drawn |= {"memory": jnp.array([0.95]), "spread": jnp.array([0.5])}
    return {name: np.asarray(drawn[name]) for name in names}


def test_weeks_before_the_start_change_nothing():
    history, *_ = articles(6, 4)
    late = history._replace(seen=history.seen & (np.arange(134) >= 100))
    values = {n: v[0] for n, v in _prior(late).items()}

    def mean(given):
        model = seed(substitute(demand_model.demand_model, data=values), KEY)
        site = trace(model).get_trace(given)["sales"]["fn"].base_dist.base_dist
        return np.asarray(site.mean)[:, 100:]

    other = late._replace(
        sales=np.where(late.seen, late.sales, 999),
        log_price=np.where(late.seen, late.log_price, -3.0),
    )
    np.testing.assert_allclose(mean(late), mean(other), rtol=1e-6)


def other_data():
    """Sales of another shop: names, fewer weeks, gaps, a single week, no order."""
    rng = np.random.default_rng(9)
    weeks = pd.date_range("2025-03-04", periods=60, freq="7D")
    parts = []
    for number in range(6):
        level = rng.uniform(0.5, 12)
        price = (number + 1) * np.where(rng.random(60) < 0.2, 0.8, 1.0)
        part = pd.DataFrame({"date": weeks, "price": price})
        part["series"] = f"tea {number:02}"
        part["group"] = ("green", "black", "herbal")[number % 3]
        part["sales"] = rng.poisson(level * (price / (number + 1)) ** -2)
        part["sold_out"] = part["sales"] >= 2 * level + 2
        parts.append(part)
    parts[0]["sales"] = 3  # constant
    parts[1] = parts[1].iloc[51:]  # a single week before the plan
    parts[2] = parts[2].drop(parts[2].index[10:14])  # a gap
    frame = pd.concat(parts).sample(frac=1, random_state=3)
    later = frame["date"] >= weeks[52]
    plan = frame[later].drop(columns=["sales", "sold_out"])
    launch = plan[plan["series"] == "tea 05"].assign(series="tea 99")  # no sales yet
    return frame[~later], pd.concat([plan, launch])


def test_the_script_serves_other_data_and_loads_what_it_saved(
    cells, definitions, tmp_path
):
    names = {}
    for cell, wanted in (
        ("module", "header"),
        ("script", "script"),
        ("script-2", "script"),
    ):
        for node in ast.parse(cells[cell]).body:
            if isinstance(node, ast.Assign) and node.targets[0].id == wanted:
                names[wanted] = ast.literal_eval(node.value)
            elif isinstance(node, ast.AugAssign) and cell == "script-2":
                names[wanted] += ast.literal_eval(node.value)
    header = "from typing import NamedTuple\n" + names["header"]
    listed = cells["module"] + cells["module-2"]
    parts = [text for name, text in definitions.items() if name in listed]
    (tmp_path / "demand_model.py").write_text("\n\n".join([header, *parts]))
    (tmp_path / "forecast.py").write_text(names["script"])
    sales, plan = other_data()
    sales.to_csv(tmp_path / "sales.csv", index=False)
    plan.to_csv(tmp_path / "plan.csv", index=False)
    tables = []
    run = [sys.executable, "forecast.py"]
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    where = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True}
    for _ in range(2):
        done = subprocess.run(run, **where)
        assert done.returncode == 0, done.stderr[-2_000:]
        tables.append(pd.read_csv(tmp_path / "forecast.csv"))
        assert ("Verdict" in done.stdout) == (len(tables) == 1)
    pd.testing.assert_frame_equal(*tables)
    first = tables[0]
    assert len(first) == 7 * 8
    assert first["date"].min() == "2026-03-03"
    middle = first.groupby("series")["0.5"].mean()
    assert middle["tea 99"] > 0
    middle = middle.drop("tea 99")
    before = sales.groupby("series")["sales"].mean()
    assert np.corrcoef(middle, before)[0, 1] > 0.9
    assert (first["0.1"] <= first["0.9"]).all()
    # The numbers of a fit belong to articles: others must not get them.
    sales["series"] = sales["series"].replace("tea 03", "tea 30")
    sales.to_csv(tmp_path / "sales.csv", index=False)
    done = subprocess.run(run, **where)
    assert "other articles, groups or first week" in done.stderr
