"""Draw the two references of notebook 04: NUTS for its model, and a deep ensemble.

Writes ``bnn_reference.npz`` (weights) and ``bnn_reference.json`` (how they came about).
Run it from the root of the project; options make a shorter run:

    python -m benchmarks.measure.bnn_reference
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC, NUTS, Predictive

from benchmarks.shared import record
from benchmarks.shared.bnn_model import NETWORK, Rows, make_data, make_network, model

Weights = dict[str, np.ndarray]

# Above the usual 0.8: shorter steps, and a fifth of the divergences.
TARGET_ACCEPT = 0.95


def run_nuts(
    rng_key: jax.Array, train: Rows, *, chains: int, warmup: int, draws: int
) -> tuple[Weights, int]:
    """Return draws of the weights, (chains, draws, ...) each, and the divergences."""
    mcmc = MCMC(
        NUTS(model, target_accept_prob=TARGET_ACCEPT),
        num_warmup=warmup,
        num_samples=draws,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(rng_key, *train, extra_fields=("diverging",))
    samples = mcmc.get_samples(group_by_chain=True)
    weights = {name: np.asarray(w) for name, w in samples.items() if name != "p"}
    return weights, int(mcmc.get_extra_fields()["diverging"].sum())


def run_ensemble(
    rng_key: jax.Array,
    train: Rows,
    validation: Rows,
    *,
    members: int,
    steps: int = 8_000,
    every: int = 50,
    learning_rate: float = 0.01,
) -> tuple[Weights, np.ndarray]:
    """Fit networks by maximum likelihood, each from its own random initial weights.

    Adam on all rows; a member is the network of the lowest validation loss among those
    seen `every` so many steps. Returns weights, (members, ...) each, and the steps at
    which they were taken.
    """
    optimizer = optax.adam(learning_rate)
    graph = nnx.graphdef(NETWORK)  # the structure alone, no weights

    def loss(params, x, y):
        p = nnx.merge(graph, params)(x).squeeze(-1)
        p = jnp.clip(p, 1e-7, 1 - 1e-7)
        return -jnp.where(y == 1, jnp.log(p), jnp.log1p(-p)).mean()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, *train), state)
        return (optax.apply_updates(params, updates), state), None

    def look(carry, index):
        current, best = carry
        current, _ = jax.lax.scan(step, current, length=every)
        seen = (loss(current[0], *validation), index * every, current[0])
        better = seen[0] < best[0]
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), seen, best)
        return (current, best), None

    def fit(params):
        start = ((params, optimizer.init(params)), (jnp.inf, 0, params))
        (_, best), _ = jax.lax.scan(look, start, jnp.arange(1, steps // every + 1))
        return best

    networks = [make_network(key) for key in jax.random.split(rng_key, members)]
    params = [nnx.state(network, nnx.Param) for network in networks]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    _, when, best = jax.jit(jax.vmap(fit))(stacked)
    weights = {
        "nn/" + ".".join(map(str, path)): np.asarray(leaf[...])
        for path, leaf in nnx.to_flat_state(best)
    }
    return weights, np.asarray(when)


def predict(weights: Weights, x: jax.Array) -> np.ndarray:
    """Return the probability of class 1 by each network, (..., rows of `x`)."""
    batch_ndims = weights["nn/layers.0.bias"].ndim - 1
    predictive = Predictive(
        model, weights, batch_ndims=batch_ndims, return_sites=["p"], parallel=True
    )
    # The key would draw labels, which nobody looks at.
    return np.asarray(predictive(jax.random.key(0), x)["p"])


def timed(function, *args, **kwargs) -> tuple:
    """Return what a function returns, its seconds and its seconds of processor time."""
    began, cpu_began = time.perf_counter(), time.process_time()
    result = function(*args, **kwargs)
    spent = time.perf_counter() - began, time.process_time() - cpu_began
    return result, *(round(seconds, 1) for seconds in spent)


def main() -> None:
    """Make both references and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--thin", type=int, default=2, help="keep one draw of so many")
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--out", type=Path, default=record.RESULTS)
    options = parser.parse_args()

    train, validation, test = make_data()
    nuts_key, ensemble_key = jax.random.split(jax.random.key(0))
    (nuts, divergences), nuts_seconds, nuts_cpu = timed(
        run_nuts,
        nuts_key,
        train,
        chains=options.chains,
        warmup=options.warmup,
        draws=options.draws,
    )
    p = predict(nuts, test[0])
    logits = np.log(p) - np.log1p(-p)
    rhat_weights = max(split_gelman_rubin(w).max() for w in nuts.values())
    rhat_logits = split_gelman_rubin(logits).max()
    (ensemble, steps), ensemble_seconds, ensemble_cpu = timed(
        run_ensemble, ensemble_key, train, validation, members=options.members
    )

    kept = {f"nuts/{name}": w[:, :: options.thin] for name, w in nuts.items()}
    kept |= {f"ensemble/{name}": w for name, w in ensemble.items()}
    kept = {name: w.astype("float32") for name, w in kept.items()}
    np.savez_compressed(options.out / "bnn_reference.npz", **kept)
    packages = ("jax", "numpyro", "flax", "optax")
    facts = {
        **record.origin("measure.bnn_reference", parser, options, packages),
        "nuts": {
            "chains": options.chains,
            "warmup": options.warmup,
            "draws": options.draws,
            "target_accept_prob": TARGET_ACCEPT,
            "draws_kept": kept["nuts/nn/layers.0.bias"].shape[1],
            "seconds": nuts_seconds,
            "cpu_seconds": nuts_cpu,
            "divergences": divergences,
            "max_rhat_weights": round(float(rhat_weights), 3),
            "max_rhat_test_logits": round(float(rhat_logits), 3),
        },
        "ensemble": {
            "members": options.members,
            "best_steps": steps.tolist(),
            "seconds": ensemble_seconds,
            "cpu_seconds": ensemble_cpu,
        },
    }
    record.write(options.out / "bnn_reference.json", facts)


if __name__ == "__main__":
    main()
