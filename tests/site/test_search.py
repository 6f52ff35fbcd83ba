"""The search finds what the course treats, asked in the words of a learner."""

import pytest
from built import listed_pages

import search_index

# What learners ask, by the number of the notebook that answers (or a page's name).
QUESTIONS = {
    "01": [
        "bayes theorem",
        "A/B test",
        "conjugate prior",
        "marginal likelihood",
        "credible interval",
        "curse of dimensionality",
        "prior predictive",
        "how sensitive is the result to the prior",
        "MCMC too slow",
        "when should I use variational inference",
    ],
    "02": [
        "ADVI",
        "what is the ELBO",
        "KL divergence",
        "mean field",
        "reparameterization trick",
        "score function gradient",
        "how many particles",
        "posterior is too narrow",
        "variance underestimated",
        "multimodal posterior",
        "which autoguide",
        "importance sampling",
        "discrete latent variables",
        "mode seeking",
    ],
    "03": [
        "parameter recovery",
        "write a custom guide",
        "has my fit converged?",
        "SBC",
        "rank histogram",
        "coverage of intervals",
        "float64",
        "how far off is the approximation",
        "pareto k-hat",
    ],
    "04": [
        "bayesian neural network",
        "label switching",
        "over-pruning",
        "deep ensemble",
        "epistemic and aleatoric",
        "out of distribution",
        "abstain",
        "expected calibration error ECE",
        "prior predictive",
        "early stopping patience",
        "flax nnx",
        "save a trained model",
    ],
    "05": [
        "my loss is NaN",
        "loss not decreasing",
        "which learning rate should I use",
        "learning rate schedule",
        "gradient clipping",
        "exploding gradients",
        "rule of thumb batch size",
        "minibatch scale",
        "why is my training slow",
        "jit recompiles every step",
        "amortized inference",
        "variational autoencoder",
        "resume from a checkpoint",
        "warm start with new data",
    ],
    "06": [
        "data does not fit in memory",
        "millions of rows",
        "stream from parquet",
        "fit many models at once",
        "one model per customer",
        "batch prediction",
    ],
    "07": [
        "hierarchical model",
        "multilevel model",
        "random effects",
        "partial pooling",
        "centered or non-centered",
        "panel data",
        "negative binomial",
        "thousands of groups",
        "between-group standard deviation too narrow",
        "predict a new group",
        "cold start",
        "high-cardinality categorical",
    ],
    "08": [
        "is my fit good enough",
        "convergence diagnostics",
        "k-hat above 0.7",
        "Pareto-smoothed importance sampling",
        "simulation-based calibration",
        "rank histogram",
        "posterior predictive check",
        "leave-one-out cross-validation",
        "PSIS-LOO",
        "short MCMC chains",
        "iterate averaging",
        "eight schools",
    ],
    "09_": [
        "whitening",
        "Laplace approximation",
        "structured guide",
        "inverse autoregressive flow",
        "importance weighted ELBO",
        "Rényi divergence",
        "L-BFGS",
        "deterministic ADVI",
        "sticking the landing",
        "NeuTra",
        "full rank covariance",
    ],
    "09b": [
        "PyMC ADVI",
        "total_size minibatch",
        "BlackJAX",
        "FlowJAX",
        "Pathfinder",
        "Stein variational gradient descent",
        "HMCECS",
        "which method is fastest",
    ],
    "10": [
        "demand forecasting",
        "intermittent demand",
        "stock-outs",
        "negative binomial time series",
        "price elasticity",
        "newsvendor",
        "AutoETS",
        "cold start",
        "weighted interval score",
    ],
    "11": [
        "customer retention",
        "churn",
        "customer lifetime value",
        "chain ladder",
        "acquisition cost",
        "CDNOW",
        "cohort analysis",
    ],
    "12": [
        "out of memory",
        "multiple GPUs",
        "is a GPU worth it",
        "sharding",
        "distributed training",
        "compilation cache",
        "slow compilation",
        "export a model",
        "deploy to production",
        "roofline",
        "when to retrain",
    ],
    "svi_or_mcmc": [
        "SVI or MCMC",
        "when to use MCMC",
        "decision chart",
        "NUTS on a subset",
        "how many rows can NUTS handle",
    ],
    "coming_from": [
        "coming from PyMC",
        "Stan to NumPyro",
        "generated quantities",
        "pm.Potential",
        "missing values imputed",
        "Weibull parameterization",
    ],
    "troubleshooting": [
        "Cannot find valid initial parameters",
        "Found vars in model but not guide",
        "Missing a plate statement for batch dimension",
        "does not support models with discrete latent variables",
        "flat ELBO",
        "reduce_on_plateau",
        "key reuse",
        "nnx.List",
        "BatchNorm",
    ],
    "running": ["install", "windows", "conda", "ModuleNotFoundError", "cuda driver"],
    "results": ["benchmarks", "pymc stan comparison"],
    "workshop": ["teach", "facilitator", "lesson plan", "timetable", "survey"],
    "handout": ["handout", "cheat sheet"],
}

# Both engines keep their index in a `CourseSearch`, which is asked here.
ASK = """async (questions) => {
  let fuse;
  if (typeof readSearchData === 'function') fuse = await readSearchData();
  else {
    document.querySelector('#quarto-search input').focus();
    while (!window.courseIndex) await new Promise((go) => setTimeout(go, 50));
    fuse = new window.Fuse();
    for (const item of window.courseIndex) fuse.add(item);
  }
  return questions.map((question) =>
    fuse.search(question, { limit: 50 }).map(({ item }) => item));
}"""


def expected(page):
    """Return the address of a page by its number or name."""
    if page == "12" and not any("/12_" in name for name in listed_pages()):
        page = "06"  # what is to become the last notebook
    [found] = [x for x in listed_pages() if page in x and not x.startswith("slides")]
    return found


@pytest.fixture(scope="module")
def ask(site, serve, browser):
    """A function that asks the search of one engine several questions at once."""
    page = browser.new_page()
    page.goto(serve(site.folder) + "index.html")

    def answers(questions):
        return page.evaluate(ASK, questions)

    yield answers
    page.close()


def test_the_right_page_is_among_the_first_three(ask):
    asked = [(q, expected(page)) for page, all_ in QUESTIONS.items() for q in all_]
    faults = []
    for (question, page), hits in zip(asked, ask([q for q, _ in asked]), strict=True):
        pages = list(dict.fromkeys(hit["href"].split("#")[0] for hit in hits))
        if page not in pages[:3]:
            faults.append(f"{question}: {pages[:3]}, not {page}")
    assert len(asked) > 60
    assert faults == []


def test_a_learner_types_and_sees_it(site, serve, browser):
    page = browser.new_page()
    page.goto(serve(site.folder) + "index.html")
    page.locator("#quarto-search input").press_sequentially("my loss is NaN")
    link = page.locator(":is(.search-item, .search-results) a").first
    link.wait_for()
    assert "When it goes wrong" in link.inner_text()
    link.click()
    page.wait_for_url("**/troubleshooting.html*")
    page.close()


def test_the_index_holds_slides_and_callouts_and_formulas_once(ask):
    [hits, slides, boxes] = ask(["k-hat", "three signs notice", "Before you start"])
    assert not any("\\" in hit["text"] for hit in hits)
    assert any("#three-signs-notice" in hit["href"] for hit in slides)
    assert all("Before you start" in hit["callouts"] for hit in boxes[:3])
    decks = [hit["href"].startswith("slides/") for hit in slides]
    assert not decks[0]


PAGE = """<html><head><title>Page – Course</title>
<meta name="keywords" content="ADVI, a phrase"></head><main><h1>Page</h1><p>Early.</p>
<section id="a"><h2><span class="header-section-number">1</span> A</h2>
<div class="callout"><div class="callout-title-container">A box</div><p>In it</p></div>
<p><math><mi>k</mi><annotation>\\hat k</annotation></math> &lt; 1</p>
<section id="b"><h3>B</h3><p>Below.</p></section></section></main></html>"""
DECK = """<html><head><title>Deck</title></head><div class="reveal">
<section id="title-slide"><h1>Deck</h1></section><section><section id="one"><h2>One</h2>
<p>Text</p><aside class="notes">Said</aside></section></section></div></html>"""


def test_entries(tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "z.html").write_text(PAGE)
    (tmp_path / "slides" / "deck.html").write_text(DECK)
    (tmp_path / "moved.html").write_text("<meta http-equiv='refresh' content='0'>")
    pages = search_index.search_index(tmp_path)
    assert [(e["href"], e["title"], e["section"]) for e in pages] == [
        ("z.html", "Page", ""),
        ("z.html#a", "Page", "A"),
        ("z.html#b", "Page", "B"),
        ("slides/deck.html", "Slides: Deck", ""),
        ("slides/deck.html#one", "Slides: Deck", "One"),
    ]
    assert pages[0]["keywords"] == "ADVI, a phrase"
    assert pages[1]["text"] == "A box In it k &lt; 1"
    assert pages[1]["callouts"] == "A box"
    assert pages[4]["text"] == "Text"


def test_every_page_has_keywords_that_it_does_not_show(site):
    for name, soup in site.soups.items():
        keywords = soup.find("meta", attrs={"name": "keywords"})["content"]
        assert keywords.count(",") > 2, name
        assert not soup.select(".keywords"), name
