"""report, second version: one compilation of the chains, wide starts stopped at the guide's level."""
import time, jax, jax.numpy as jnp, numpy as np, numpyro
from functools import partial
from jax import lax, random
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import potential_energy, unconstrain_fn, constrain_fn
CHAINS, WIDE, STEPS, LEAPS, ROUNDS, CLIMB = 64, 16, 16, 6, 6, 150

def report(key, model, guide, params, *args, num_draws=2000, rounds=ROUNDS, **kwargs):
    t0 = time.perf_counter()
    kq, kc, ks, kp = random.split(key, 4)
    fm = seed(substitute(model, data=params), ks); fg = substitute(guide, data=params)
    shape = trace(fm).get_trace(*args, **kwargs)
    names = [n for n, s in shape.items() if s["type"] == "sample" and not s["is_observed"]]
    det = [n for n, s in shape.items() if s["type"] == "deterministic"]
    def latents(fn):
        def draw(k):
            tr = trace(seed(fn, k)).get_trace(*args, **kwargs)
            return unconstrain_fn(fm, args, kwargs, {n: tr[n]["value"] for n in names})
        return draw
    template = jax.eval_shape(latents(fg), key)
    _, unravel = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), template))
    flat = lambda fn: jax.jit(jax.vmap(lambda k: ravel_pytree(latents(fn)(k))[0]))
    uq = flat(fg)(random.split(kq, num_draws)); d = uq.shape[1]
    logp = lambda u: -potential_energy(fm, args, kwargs, unravel(u))
    value_grad = jax.value_and_grad(logp)
    mean, scale = uq.mean(0), uq.std(0)
    prior = flat(fm if False else substitute(model, data=params))(random.split(kp, WIDE))

    @jax.jit
    def climb(u0, level):
        rate = jnp.maximum(abs(u0 - mean) / 10, scale)
        def step(c, i):
            u, m, v = c; lp, g = jax.vmap(value_grad)(u)
            ok = jnp.isfinite(g).all(1, keepdims=True) & jnp.isfinite(lp)[:, None]; g = jnp.where(ok, g, 0)
            m = .9*m + .1*g; v = .95*v + .05*g**2
            move = rate * .5*(1+jnp.cos(jnp.pi*i/CLIMB)) * (m/(1-.9**(i+1)))/(jnp.sqrt(v/(1-.95**(i+1)))+1e-12)
            there = (lp > level)[:, None]
            return (jnp.where(there, u, u + move), m, v), None
        u, _, _ = lax.scan(step, (u0, 0*u0, 0*u0), jnp.arange(float(CLIMB)))[0]
        return u, jax.vmap(logp)(u)

    @jax.jit
    def run(key, u, chol, log_eps, adapt):
        vg = jax.vmap(lambda z: jax.value_and_grad(lambda z: logp(chol @ z if chol.ndim == 2 else chol * z))(z))
        z0 = jax.scipy.linalg.solve_triangular(chol, u.T, lower=True).T if chol.ndim == 2 else u / chol
        to_u = lambda z: z @ chol.T if chol.ndim == 2 else z * chol
        def one(carry, key):
            z, lp, g, log_eps = carry
            k1, k2, k3 = random.split(key, 3)
            e = jnp.exp(log_eps) * random.uniform(k3, (len(z), 1), minval=0.4, maxval=1.2)
            p = random.normal(k1, z.shape)
            def step(c, _):
                z, p, _, g = c
                p = p + e / 2 * g; z = z + e * p; lp, g = vg(z)
                return (z, p + e / 2 * g, lp, g), None
            (z1, p1, lp1, g1), _ = lax.scan(step, (z, p, lp, g), None, LEAPS)
            a = lp1 - lp - (p1**2).sum(1) / 2 + (p**2).sum(1) / 2
            prob = jnp.where(jnp.isfinite(a), jnp.exp(jnp.minimum(a, 0)), 0)
            ok = random.uniform(k2, a.shape) < prob
            z, g = (jnp.where(ok[:, None], new, old) for new, old in ((z1, z), (g1, g)))
            lp = jnp.where(ok, lp1, lp)
            log_eps = log_eps + adapt * 0.15 * (prob[:CHAINS].mean() - 0.75)
            return (z, lp, g, log_eps), (to_u(z), lp, prob[:CHAINS].mean())
        lp0, g0 = vg(z0)
        (z, lp, g, le), out = lax.scan(one, (z0, lp0, g0, log_eps), random.split(key, STEPS))
        return *out, le
    lpq = jax.jit(jax.vmap(logp))(uq[:200]); level = lpq.mean() - lpq.std()
    wide, lpw = climb(prior, level)
    arrived = np.asarray(lpw > lpq.mean() - 3*lpq.std() - 1)
    wide = jnp.where(arrived[:, None], wide, uq[CHAINS:CHAINS+WIDE])
    t1 = time.perf_counter()
    u = jnp.concatenate([uq[:CHAINS], wide]); full = d <= 300
    chol = jnp.diag(scale) if full else scale; le = jnp.log(jnp.float32(0.5 / d**.25)); kept, lps, accs, ts = [], [], [], []
    for r in range(rounds):
        t = time.perf_counter()
        us_, lp_, acc, le = run(random.fold_in(kc, r), u, chol, le, jnp.float32(1.0))
        u = us_[-1]; kept.append(np.asarray(us_)); lps.append(np.asarray(lp_)); accs.append(float(acc.mean()))
        ts.append(time.perf_counter() - t)
        x = jnp.concatenate(kept[-2:])[:, :CHAINS].reshape(-1, d)
        if full:
            C = jnp.cov(x.T).reshape(d, d); n = 2*CHAINS*(1 + (r > 0)); w = n / (n + d)
            C = w * C + (1 - w + 1e-6) * jnp.diag(jnp.diag(C)); chol = jnp.linalg.cholesky(C)
            le = jnp.minimum(le, jnp.log(jnp.float32(1.2/d**.25))) if r == 0 else le
        else: chol = x.std(0)
    t2 = time.perf_counter()
    last = np.concatenate(kept[rounds//2:])
    sub = last[:: max(1, len(last)//24)]; S = len(sub)
    def values(u):
        c = constrain_fn(fm, args, kwargs, unravel(u), return_deterministic=True)
        return {n: c[n].ravel().astype(float) for n in names + det}
    to_x = jax.jit(jax.vmap(values))
    every = np.concatenate([np.asarray(uq), sub.reshape(-1, d)])
    x = to_x(jnp.asarray(every)); rows = {}
    for n, v in x.items():
        v = np.asarray(v, float); q = v[:num_draws]; v = v[num_draws:].reshape(S, CHAINS + WIDE, -1)
        c, w = v[:, :CHAINS], v[:, CHAINS:]
        if c.std((0, 1)).max() == 0: continue
        m, s = c.mean((0, 1)), c.std((0, 1)); var_c = ((c - m)**2).mean(0)
        rows[n] = dict(shift=(q.mean(0) - m)/s, width=q.std(0)/s, se=c.mean(0).std(0)/np.sqrt(CHAINS)/s,
            se_width=.5*var_c.std(0)/np.sqrt(CHAINS)/s**2, far=(abs(w.mean(0) - m)/s)[arrived].max(1) if arrived.any() else np.zeros(0), m=m, s=s)
    lp = np.concatenate(lps[rounds//2:])
    t3 = time.perf_counter()
    return dict(rows=rows, accs=accs, eps=float(jnp.exp(le)), lp=lp[:, :CHAINS].mean(), lp_sd=lp[:, :CHAINS].std(), lp_w=lp[:, CHAINS:].mean(0), arrived=int(arrived.sum()), times=(t1-t0, t2-t1, t3-t2), ts=ts, d=d)
