"""The stored reference of notebook 04 is the one that its script makes."""

import json

import jax
import nbformat
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer.util import log_density

from benchmarks.measure.bnn_reference import predict, run_ensemble, run_nuts
from benchmarks.shared.bnn_model import make_data, model
from benchmarks.shared.record import RESULTS, ROOT

TRAIN, VALIDATION, TEST = make_data()
SIDE = np.linspace(-2, 3, 9, dtype="float32")
GRID = np.stack(np.meshgrid(SIDE, SIDE - 0.25), axis=-1).reshape(-1, 2)


def stored(kind):
    with np.load(RESULTS / "bnn_reference.npz") as file:
        names = [name for name in file if name.startswith(kind)]
        return {name.removeprefix(kind): file[name] for name in names}


def mean_and_variance(p):
    """Mean over chains and draws, and the variance of that mean, of each column."""
    ess = np.clip(effective_sample_size(p), 4, p.shape[0] * p.shape[1])
    return p.mean(axis=(0, 1)), p.var(axis=(0, 1)) / ess


def test_the_facts_belong_to_the_stored_weights():
    path = RESULTS / "bnn_reference.json"
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
    assert (RESULTS / "bnn_reference.npz").stat().st_size < 300_000


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
    path = ROOT / "notebooks" / "04_bayesian_neural_network.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]

    def cell_with(text):
        (source,) = (source for source in sources if text in source)
        return source

    imports = cell_with("import numpyro\n").split("\nplotting.use_style()")[0]
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
