"""Fit each target with each guide and key; store params and truth errors."""
import sys, time, pickle
import jax, jax.numpy as jnp, numpy as np, optax, numpyro
from jax import random
from numpyro.infer import SVI, Trace_ELBO, Predictive
from numpyro.infer.autoguide import *
from numpyro.infer.initialization import init_to_median, init_to_uniform
from truths import TARGETS

GUIDES = {"normal": AutoNormal, "mvn": AutoMultivariateNormal}
def fit(name, kind, seed, steps=5_000, rate=0.03, particles=1):
    model, truth = TARGETS[name]()
    guide = GUIDES[kind](model)
    svi = SVI(model, guide, optax.adam(optax.cosine_decay_schedule(rate, steps)), Trace_ELBO(num_particles=particles))
    t = time.perf_counter(); r = svi.run(random.key(seed), steps, progress_bar=False); jax.block_until_ready(r.params)
    return model, guide, truth, r, time.perf_counter() - t
def draws_of(model, guide, params, key, n=4000):
    lat = Predictive(guide, params=params, num_samples=n)(key)
    return lat | Predictive(model, posterior_samples=lat)(key)
def quality(truth, d):
    err, ratio = {}, {}
    for site, (m, s) in truth.items():
        x = np.asarray(d[site], float).reshape(len(d[site]), -1); m, s = np.ravel(m), np.ravel(s)
        err[site] = (x.mean(0) - m) / s; ratio[site] = x.std(0) / s
    e = max(abs(v).max() for v in err.values()); rr = np.concatenate([np.ravel(v) for v in ratio.values()])
    return e, rr.min(), rr.max(), {k: (abs(err[k]).max(), ratio[k].min(), ratio[k].max()) for k in truth}
if __name__ == "__main__":
    out = {}
    for name in TARGETS:
        for kind in GUIDES:
            if kind == "mvn" and name == "item response": continue
            model, guide, truth, r, sec = fit(name, kind, 0)
            d = draws_of(model, guide, r.params, random.key(1))
            e, lo, hi, by = quality(truth, d)
            print(f"{name:34s} {kind:7s} {sec:5.1f}s err {e:6.2f} ratio {lo:6.2f} {hi:6.2f}  {'GOOD' if e<.5 and lo>2/3 and hi<4/3 else 'bad'}", flush=True)
