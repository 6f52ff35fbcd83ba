"""The interactive figures compute what the notebooks compute."""

import functools

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import optimize, stats
from scipy.special import logsumexp

import execute

ASSETS = execute.ROOT / "assets"
NAMES = ["identity", "noise", "khat"]
PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>T</title>
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="{assets}/course.css">{head}</head>
<body class="quarto-light"><main>{places}</main></body></html>"""

# Moves sliders and switches as a reader does.
MOVE = """([box, values]) => {
  for (const [name, value] of Object.entries(values)) {
    const input = box.querySelector(`[name=${name}]`);
    if (input.type === "checkbox" && input.checked !== value) input.click();
    if (input.type !== "range") continue;
    input.value = value;
    input.dispatchEvent(new Event("input"));
  }
}"""


def open_page(folder, browser, **options):
    places = "".join(f'<div class="interactive-{n}"><p>Try.</p></div>' for n in NAMES)
    head = (ASSETS / "head.html").read_text(encoding="utf-8")
    text = PAGE.format(assets=ASSETS.as_uri(), head=head, places=places)
    (folder / "page.html").write_text(text, encoding="utf-8")
    page = browser.new_page(reduced_motion="reduce", **options)
    page.goto((folder / "page.html").as_uri())
    return page


class Figure:
    """An interactive figure of the page: its controls and its numbers."""

    def __init__(self, page, name):
        self.page = page
        self.box = page.wait_for_selector(f".interactive-{name}.ready")

    def press(self, name):
        self.box.query_selector(f"[name={name}]").click()

    def move(self, **values):
        self.page.evaluate(MOVE, [self.box, values])

    def numbers(self):
        found = self.box.evaluate("(box) => ({...box.dataset})")
        return {k: np.array([*map(float, v.split())]) for k, v in found.items() if v}

    def __getitem__(self, name):
        return float(self.box.get_attribute(f"data-{name}"))


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A page with all figures, opened as a file and as wide as a phone."""
    folder = tmp_path_factory.mktemp("interactive")
    opened = open_page(folder, browser, viewport={"width": 360, "height": 800})
    faults = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    yield opened
    assert faults == []
    opened.close()


def log_joint(theta):
    """The joint density of notebook 02: nine of ten said yes."""
    likelihood = stats.binom.logpmf(9, 10, 1 / (1 + np.exp(-theta)))
    return stats.norm.logpdf(theta, 0, 1.5) + likelihood


def integral(function, center=1.0, width=1.5):
    """Integrate over nine widths to each side, by the rule of Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return 9 * width * weights @ function(center + 9 * width * nodes)


LOG_EVIDENCE = np.log(integral(lambda theta: np.exp(log_joint(theta))))


def elbo(phi):
    center, width = phi[0], np.exp(phi[1])

    def weighted(theta):
        log_q = stats.norm.logpdf(theta, center, width)
        return np.exp(log_q) * (log_joint(theta) - log_q)

    return integral(weighted, center, width)


def forward_kl(phi):
    def weighted(theta):
        log_p = log_joint(theta) - LOG_EVIDENCE
        log_q = stats.norm.logpdf(theta, phi[0], np.exp(phi[1]))
        return np.exp(log_p) * (log_p - log_q)

    return integral(weighted)


def slope(function, phi, step=1e-4):
    sides = step * np.eye(2)
    return np.array([function(phi + s) - function(phi - s) for s in sides]) / (2 * step)


@pytest.mark.parametrize(("center", "width"), [(-1.0, 1.6), (3.2, 0.25)])
def test_elbo_and_divergences_are_those_of_the_guide(page, center, width):
    figure = Figure(page, "identity")
    figure.move(forward=False, center=center, width=width)
    phi = np.array([center, np.log(width)])
    assert figure["elbo"] == pytest.approx(elbo(phi), abs=1e-6)
    assert figure["reverse"] == pytest.approx(LOG_EVIDENCE - elbo(phi), abs=1e-6)
    assert figure["sum"] == pytest.approx(LOG_EVIDENCE, abs=1e-6)
    assert figure["forward"] == pytest.approx(forward_kl(phi), abs=1e-6)


@pytest.mark.parametrize("forward", [False, True])
def test_the_button_takes_a_gradient_step(page, forward):
    figure = Figure(page, "identity")
    figure.move(forward=forward, center=0.5, width=1.2)
    phi = np.array([0.5, np.log(1.2)])
    uphill = -slope(forward_kl, phi) if forward else slope(elbo, phi)
    figure.press("step")
    found = [figure["center"], np.log(figure["width"])]
    assert found == pytest.approx(phi + 0.05 * uphill, abs=1e-6)
    figure.press("climb")
    assert figure["reverse"] < 0.02


def test_the_keyboard_moves_a_slider_and_the_numbers_follow(page):
    figure = Figure(page, "identity")
    figure.move(center=0)
    before = figure["elbo"]
    page.press(".interactive-identity [name=center]", "ArrowRight")
    assert figure["center"] == pytest.approx(0.01)
    assert figure["elbo"] > before
    words = page.text_content(".interactive-identity .readout")
    assert f"{-figure['elbo']:.3f}" in words


def random_numbers(seed):
    """The generator of the page: uniform and normal numbers, one by one."""

    def uniform():
        nonlocal seed
        seed ^= (seed << 13) & 0xFFFFFFFF
        seed ^= seed >> 17
        seed ^= (seed << 5) & 0xFFFFFFFF
        return seed / 2**32

    def normal():
        return np.sqrt(-2 * np.log(uniform())) * np.cos(2 * np.pi * uniform())

    return uniform, normal


def divergence(center, covariance, target):
    """KL divergence of a Gaussian from Normal(0, target)."""
    precision = np.linalg.inv(target)
    ratio = np.linalg.slogdet(target)[1] - np.linalg.slogdet(covariance)[1]
    away = center @ precision @ center
    return (np.trace(precision @ covariance) + away - len(center) + ratio) / 2


def root(phi):
    return np.array([[np.exp(phi[2]), 0], [phi[4], np.exp(phi[3])]])


@functools.cache
def rows():
    _, normal = random_numbers(5)
    values = np.array([normal() for _ in range(2_000)]).reshape(-1, 2)
    return values - values.mean(0)


def adam_path(target, rate, particles, size, full, decay, seed, steps=1_000):
    """SVI on a thousand rows with the posterior Normal(0, target)."""
    uniform, normal = random_numbers(seed)
    data = np.sqrt(1_000) * rows() @ np.linalg.cholesky(target).T
    precision = np.linalg.inv(target)
    phi = np.array([-2.5, 1.5, np.log(0.3), np.log(0.3), 0.0])
    first, second, path = np.zeros(5), np.zeros(5), [phi]
    for t in range(1, steps + 1):
        batch = [int(1_000 * uniform()) for _ in range(size)] if size < 1_000 else ...
        epsilon = np.array([normal() for _ in range(2 * particles)]).reshape(-1, 2)
        theta = phi[:2] + epsilon @ root(phi).T
        uphill = (data[batch].mean(0) - theta) @ precision
        by_root = uphill.T @ epsilon / particles
        diagonal = by_root.diagonal() * np.exp(phi[2:4]) + 1
        gradient = np.array([*uphill.mean(0), *diagonal, full * by_root[1, 0]])
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        now = rate * (1 + np.cos(np.pi * (t - 1) / steps)) / 2 if decay else rate
        mean, square = first / (1 - 0.9**t), second / (1 - 0.999**t)
        phi = phi + now * mean / (np.sqrt(square) + 1e-8)
        path.append(phi)
    return np.array(path)


@pytest.mark.parametrize(
    ("rho", "full", "decay", "particles", "size", "rate"),
    [(0.9, False, False, 1, 30, -1.5), (0.6, True, True, 4, 1_000, -1.0)],
)
def test_svi_on_a_gaussian(page, rho, full, decay, particles, size, rate):
    figure = Figure(page, "noise")
    place = [10, 30, 100, 300, 1_000].index(size)
    figure.move(rho=rho, full=full, decay=decay, rate=rate)
    figure.move(particles=particles.bit_length() - 1, size=place)
    target = np.array([[1, rho], [rho, 1]])
    path = adam_path(target, 10**rate, particles, size, full, decay, 11)
    missing = [divergence(p[:2], root(p) @ root(p).T, target) for p in path]
    found = figure.numbers()
    assert found["phi"] == pytest.approx(path[-1], abs=1e-6)
    assert found["elbo"] == pytest.approx(-missing[-1], abs=1e-6)
    assert found["missing"] == pytest.approx(np.mean(missing[-100:]), abs=1e-6)

    def family(logs):
        """The divergence of the best center, by the logs of scales and the corner."""
        spread = root([0, 0, *logs[:2], logs[2] if full else 0])
        return divergence(np.zeros(2), spread @ spread.T, target)

    best = optimize.minimize(family, [-0.5, -0.5, 0.1], tol=1e-10).fun
    assert found["family"] == pytest.approx(best, abs=1e-6)


@functools.cache
def draws(seed, count=20_000):
    _, normal = random_numbers(seed)
    return np.array([normal() for _ in range(count)])


@pytest.mark.parametrize(
    ("center", "width", "second"),
    [(0, 0.5, False), (0, 1.5, False), (1, 1, False), (0.2, 0.9, True)],
)
def test_khat_is_that_of_psis(page, center, width, second):
    figure = Figure(page, "khat")
    figure.move(center=center, width=width, second=second)
    at = center + width * draws(4)
    modes = [stats.norm.logpdf(at, mode) for mode in ([0, 7] if second else [0])]
    log_p = logsumexp(modes, axis=0) - np.log(len(modes))
    logs = log_p - stats.norm.logpdf(at, center, width)
    _, khat = array_stats.psislw(-logs)  # it takes minus the log weights
    total = logsumexp(logs)
    ess = np.exp(2 * total - logsumexp(2 * logs)) / len(logs)
    assert figure["khat"] == pytest.approx(float(khat), abs=1e-3)
    assert figure["ess"] == pytest.approx(ess, abs=1e-6)
    assert figure["evidence"] == pytest.approx(total - np.log(len(logs)), abs=1e-6)


def test_equal_weights_have_no_tail(page):
    figure = Figure(page, "khat")
    figure.move(center=0, width=1, second=False)
    assert figure.numbers()["ess"] == 1
    assert "not defined" in page.text_content(".interactive-khat .readout")


def test_a_phone_does_not_scroll_sideways(page):
    for name in NAMES:
        Figure(page, name)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_without_scripts_there_is_no_empty_place(browser, tmp_path):
    page = open_page(tmp_path, browser, java_script_enabled=False)
    shown = [page.is_visible(f".interactive-{name}") for name in NAMES]
    page.close()
    assert shown == [False] * 3
