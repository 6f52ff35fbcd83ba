"""Posteriors whose means and sds are known: exactly, or from published long runs."""
import importlib.util, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam
from jax import lax

GYM = Path("/work/n08/gym/inference_gym")
def load(path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), GYM / f"{path}.py")
    m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m); return m
def published(name, sites):
    m = load(f"targets/ground_truth/{name}")
    out = {}
    for site, label in sites.items():
        out[site] = (getattr(m, f"IDENTITY_{label}MEAN"), getattr(m, f"IDENTITY_{label}STANDARD_DEVIATION"))
    return out

def ar1(d, rho):
    i = np.arange(d); return rho ** np.abs(i[:, None] - i[None])
def gaussian(cov):
    d = len(cov)
    def model(): numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(d), jnp.asarray(cov)))
    return model, {"x": (np.zeros(d), np.sqrt(np.diag(cov)))}
def funnel(d=9):
    def model():
        v = numpyro.sample("v", dist.Normal(0, 3))
        with numpyro.plate("d", d): numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)))
    return model, {"v": (0., 3.), "x": (np.zeros(d), np.full(d, np.exp(9/4)))}
def banana():
    def model():
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("b", dist.Normal(a**2, 0.5))
    return model, {"a": (0., 1.), "b": (1., np.sqrt(2 + .25))}
def modes(apart, weight=0.5):
    def model():
        x = numpyro.sample("x", dist.Normal(0, 20).expand([2]).to_event(1))
        two = dist.MixtureSameFamily(dist.Categorical(probs=jnp.array([weight, 1-weight])), dist.Normal(jnp.array([-apart, apart]), 1.))
        numpyro.factor("f", (two.log_prob(x[0]) + dist.Normal(0, 1).log_prob(x[1]) - dist.Normal(0, 20).log_prob(x).sum()))
    m = apart*(1-2*weight); return model, {"x": (np.array([m, 0]), np.array([np.sqrt(1 + apart**2 - m**2), 1]))}
def student(df, d=10):
    def model(): numpyro.sample("x", dist.StudentT(df, 0, 1).expand([d]).to_event(1))
    return model, {"x": (np.zeros(d), np.full(d, np.sqrt(df / (df - 2))))}
def gammas():
    a = np.array([0.5, 1, 2, 8.])
    def model(): numpyro.sample("x", dist.Gamma(jnp.asarray(a), 1.).to_event(1))
    return model, {"x": (a, np.sqrt(a))}
def betas():
    a, b = np.array([1., 3, 30]), np.array([9., 3, 4])
    def model(): numpyro.sample("p", dist.Beta(jnp.asarray(a), jnp.asarray(b)).to_event(1))
    return model, {"p": (a/(a+b), np.sqrt(a*b/(a+b)**2/(a+b+1)))}
def dirichlet():
    a = np.array([1., 2, 5, 10])
    def model(): numpyro.sample("p", dist.Dirichlet(jnp.asarray(a)))
    m = a/a.sum(); return model, {"p": (m, np.sqrt(m*(1-m)/(a.sum()+1)))}
def regression(n=100, d=8, rho=0.0, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    x = rng.multivariate_normal(np.zeros(d), ar1(d, rho), n); y = x @ rng.normal(size=d) + rng.normal(size=n) * noise
    def model():
        w = numpyro.sample("w", dist.Normal(0, 10).expand([d]).to_event(1))
        with numpyro.plate("rows", n): numpyro.sample("y", dist.Normal(jnp.asarray(x) @ w, noise), obs=jnp.asarray(y))
    prec = x.T @ x / noise**2 + np.eye(d) / 100; cov = np.linalg.inv(prec)
    return model, {"w": (cov @ x.T @ y / noise**2, np.sqrt(np.diag(cov)))}
def intercept_slope(center=10., n=50):
    rng = np.random.default_rng(1); x = center + rng.normal(size=n); y = 1 + .5*x + rng.normal(size=n)
    X = np.stack([np.ones(n), x], 1)
    def model():
        a = numpyro.sample("a", dist.Normal(0, 10)); b = numpyro.sample("b", dist.Normal(0, 10))
        with numpyro.plate("rows", n): numpyro.sample("y", dist.Normal(a + b*jnp.asarray(x), 1), obs=jnp.asarray(y))
    cov = np.linalg.inv(X.T@X + np.eye(2)/100); m = cov@X.T@y; s = np.sqrt(np.diag(cov))
    return model, {"a": (m[0], s[0]), "b": (m[1], s[1])}
def eight_schools(share):
    y = jnp.array([28., 8, -3, 7, -1, 1, 18, 12]); s = jnp.array([15., 10, 16, 11, 9, 11, 10, 18])
    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 10)); t = numpyro.sample("log_tau", dist.Normal(5, 1))
        with numpyro.plate("schools", 8), reparam(config={"theta": LocScaleReparam(share)}):
            theta = numpyro.sample("theta", dist.Normal(mu, jnp.exp(t)))
        with numpyro.plate("schools", 8): numpyro.sample("y", dist.Normal(theta, s), obs=y)
    return model, published("eight_schools", {"mu": "AVG_EFFECT_", "log_tau": "LOG_STDDEV_", "theta": "SCHOOL_EFFECTS_"})
Y = np.array([0.21592641, 0.118771404, -0.07945447, 0.037677474, -0.27885845, -0.1484156, -0.3250906, -0.22957903, -0.44110894, -0.09830782, *[np.nan]*10, -0.8786016, -0.83736074, -0.7384849, -0.8939254, -0.7774566, -0.70238715, -0.87771565, -0.51853573, -0.6948214, -0.6202789])
def brownian(known):
    try: obs = load("internal/datasets/brownian_motion_missing_middle_observations").OBSERVED_LOC
    except Exception: obs = Y
    obs = np.asarray(obs, float); seen = ~np.isnan(obs); filled = jnp.asarray(np.where(seen, obs, 0))
    def model():
        inn = .1 if known else numpyro.sample("inn", dist.LogNormal(0, 2)); noise = .15 if known else numpyro.sample("noise", dist.LogNormal(0, 2))
        x = numpyro.sample("x", dist.GaussianRandomWalk(inn, num_steps=30))
        with numpyro.handlers.mask(mask=jnp.asarray(seen)): numpyro.sample("y", dist.Normal(x, noise), obs=filled)
    if known: return model, published("brownian_motion_missing_middle_observations", {"x": ""})
    return model, published("brownian_motion_unknown_scales_missing_middle_observations", {"inn": "INNOVATION_NOISE_SCALE_", "noise": "OBSERVATION_NOISE_SCALE_", "x": "LOCS_"})
def volatility():
    prices = load("internal/datasets/sp500_closing_prices").CLOSING_PRICES
    r = np.diff(np.log(prices))[-100:]; r = jnp.asarray(r - r.mean())
    def model(n=100):
        phi = numpyro.sample("p", dist.Beta(20, 1.5)); per = numpyro.deterministic("persistence", 2*phi - 1)
        mean = numpyro.sample("mean", dist.Cauchy(0, 5)); shock = numpyro.sample("shock", dist.HalfCauchy(2))
        z = numpyro.sample("z", dist.Normal(0, 1).expand([n]).to_event(1))
        first = z[0] * shock / jnp.sqrt(1 - per**2)
        def step(h, e): h = per*h + shock*e; return h, h
        _, rest = lax.scan(step, first, z[1:])
        h = numpyro.deterministic("h", mean + jnp.concatenate([first[None], rest]))
        numpyro.sample("r", dist.Normal(0, jnp.exp(h/2)).to_event(1), obs=r)
    return model, published("stochastic_volatility_log_sp500_small", {"persistence": "PERSISTENCE_OF_VOLATILITY_", "mean": "MEAN_LOG_VOLATILITY_", "shock": "WHITE_NOISE_SHOCK_SCALE_", "h": "LOG_VOLATILITY_"})
def item_response():
    d = load("internal/datasets/synthetic_item_response_theory")
    i, q, c = (np.asarray(getattr(d, n)) for n in ("STUDENT_IDS", "QUESTION_IDS", "CORRECT"))
    S, Q = 400, 100
    def model():
        m = numpyro.sample("m", dist.Normal(.75, 1)); a = numpyro.sample("a", dist.Normal(0, 1).expand([S]).to_event(1)); b = numpyro.sample("b", dist.Normal(0, 1).expand([Q]).to_event(1))
        numpyro.sample("c", dist.Bernoulli(logits=m + a[i] - b[q]).to_event(1), obs=jnp.asarray(c))
    return model, published("synthetic_item_response_theory", {"m": "MEAN_STUDENT_ABILITY_", "b": "QUESTION_DIFFICULTY_", "a": "CENTERED_STUDENT_ABILITY_"})
def cox():
    d = load("internal/datasets/synthetic_log_gaussian_cox_process")
    names = [n for n in dir(d) if n.isupper()]
    loc, ext, cnt = (np.asarray(getattr(d, n)) for n in ("LOCATIONS", "EXTENTS", "COUNTS"))
    dm = np.sqrt(((loc[:, None] - loc[None])**2).sum(-1)); mean = np.mean(np.log(cnt) - np.log(ext))
    def model():
        amp = numpyro.sample("amp", dist.LogNormal(-1, .5)); ls = numpyro.sample("ls", dist.LogNormal(-1, 1))
        a, l = amp + .001, ls + .001; r = jnp.sqrt(3.)*dm/l
        K = a**2*(1+r)*jnp.exp(-r) + 1e-5*jnp.eye(len(loc)); L = jnp.linalg.cholesky(K)
        z = numpyro.sample("z", dist.Normal(0, 1).expand([len(loc)]).to_event(1))
        f = numpyro.deterministic("f", mean + L @ z)
        numpyro.sample("c", dist.Poisson(jnp.exp(f)*ext).to_event(1), obs=jnp.asarray(cnt))
    return model, published("synthetic_log_gaussian_cox_process", {"amp": "AMPLITUDE_", "ls": "LENGTH_SCALE_", "f": "LOG_INTENSITY_"})

TARGETS = {
 "independent, scales 0.01 to 100": lambda: gaussian(np.diag(10.0**np.linspace(-4, 4, 50))),
 "AR(1) 0.5, 30": lambda: gaussian(ar1(30, .5)),
 "AR(1) 0.7, 30": lambda: gaussian(ar1(30, .7)),
 "AR(1) 0.9, 30": lambda: gaussian(ar1(30, .9)),
 "equal correlation 0.2, 100": lambda: gaussian(np.full((100,100), .2) + .8*np.eye(100)),
 "funnel": funnel, "banana": banana,
 "two modes, 3 sds": lambda: modes(3.), "two modes, 6 sds": lambda: modes(6.), "two modes, 0.9 and 0.1": lambda: modes(4., .1),
 "student 4": lambda: student(4.), "student 3": lambda: student(3.), "gammas": gammas, "betas": betas, "dirichlet": dirichlet,
 "regression": regression, "regression, features 0.9": lambda: regression(rho=.9), "intercept and slope": intercept_slope,
 "schools centered": lambda: eight_schools(1.0), "schools non-centered": lambda: eight_schools(0.0),
 "brownian": lambda: brownian(True), "brownian, scales unknown": lambda: brownian(False),
 "volatility": volatility, "item response": item_response, "cox": cox,
}
