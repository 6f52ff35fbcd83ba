"""Write reference.qmd, the page of what readers take to work of their own.

It holds what the docstrings say. A test fails where the page says something else.
"""

import ast
import re
import textwrap
from pathlib import Path

import execute

# What to import it from: the names, and the file that defines them.
CONTENTS = {
    "helpers.training": {
        "helpers/training.py": ["fit"],
        "fitting/endings.py": ["FitResult"],
        "helpers/prediction.py": ["predict", "predictions", "log_predictive_density"],
    },
    "helpers.diagnostics": {
        "helpers/diagnostics.py": [
            "log_weights",
            "importance_summary",
            "ImportanceSummary",
            "report",
            "Report",
        ],
    },
    "helpers.panels": {
        "helpers/panels.py": ["number_groups", "to_panel", "Panel"],
    },
    "helpers.forecasts": {
        "helpers/forecasts.py": [
            "sales_and_plan",
            "weighted_interval_score",
            "naive_scale",
        ],
    },
    "helpers.cohorts": {
        "helpers/cohorts.py": ["cohort_table", "to_cells", "Cells"],
    },
    "helpers.chain_ladder": {
        "helpers/chain_ladder.py": ["to_triangle", "chain_ladder", "Ladder"],
    },
}
HEAD = """---
title: "Reference: fits, diagnostics, forecasts, cohorts"
description: "What `fit`, `predict`, the diagnostics of a fit and the helpers for \
panels, forecasts and cohorts take and return, for work of your own."
keywords: [API, arguments of fit, docstring, signature, help, StoppedFitError, \
cohort table, chain ladder]
number-sections: false
---

Use these in work of your own: [how to install them](running.qmd#sec-running-code). \
In Python, `help(fit)` says the same.

## A whole fit

A regression with minibatches, from data to predictions. The plate gets the number of \
rows in all, `size`, and how many of them are here: each row counts for as many as it \
stands for.

```python
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from helpers.diagnostics import importance_summary, log_weights
from helpers.training import fit, predict

rng = np.random.default_rng(0)
x = rng.normal(size=(10_000, 3)).astype("float32")
y = (x @ [1.0, -2.0, 0.5] + rng.normal(size=10_000)).astype("float32")


def model(x, y=None, size=None):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", size or len(x), subsample_size=len(x)):
        numpyro.sample("y", dist.Normal(x @ w, 1), obs=y)


fit_key, weight_key, predict_key = jax.random.split(jax.random.key(0), 3)
guide = AutoNormal(model)
optimizer = optax.adam(optax.cosine_decay_schedule(0.03, 2_000), b2=0.95)
svi = SVI(model, guide, optimizer, Trace_ELBO())
result = fit(fit_key, svi, 2_000, x, y, size=len(x), batch_size=256)

weights = log_weights(weight_key, model, guide, result.params, x, y)
print(importance_summary(weights))  # how good is it?
new_y = predict(predict_key, model, guide, result.params, 1_000, x[:5])["y"]
```
"""
SECTION = re.compile(r"^(\w+)\n-+$", re.M)


def listed(text: str, title: str) -> str:
    """Turn a numpydoc list of names and what they are into a list of Markdown."""
    items = []
    for block in re.split(r"^(?=\S)", text, flags=re.M):
        head, _, told = block.partition("\n")
        if not head.strip():
            continue
        names, _, kind = head.strip().partition(" : ")
        if title not in ("Returns", "Yields"):  # these begin with a type
            names = ", ".join(f"`{name}`" for name in names.split(", "))
        term = f"{names} ({kind})" if kind else names
        told = " ".join(textwrap.dedent(told).split())
        items.append(f"- {term}: {told}" if told else f"- {term}")
    return "\n".join(items)


def entry(module: str, node: ast.FunctionDef | ast.ClassDef) -> str:
    """Return the section of a function or class."""
    summary, *sections = SECTION.split(ast.get_docstring(node))
    prefix = "class-" if isinstance(node, ast.ClassDef) else ""
    label = f"sec-reference-{prefix}{node.name.lower().replace('_', '-')}"
    lines = [f"## `{node.name}` {{#{label}}}"]
    code = f"from {module} import {node.name}"
    if isinstance(node, ast.FunctionDef):
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        names = ast.unparse(node.args)
        code += f"\n\n{node.name}(\n" + textwrap.fill(
            names, 80, initial_indent="    ", subsequent_indent="    "
        )
        code += "\n)"
    lines += [f"```python\n{code}\n```", summary.strip()]
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        plain = title in ("Notes", "References", "Examples")
        lines += [f"**{title}**", text.strip() if plain else listed(text, title)]
    return "\n\n".join(lines)


def page(root: Path) -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for module, files in CONTENTS.items():
        for file, names in files.items():
            tree = ast.parse((root / "src" / file).read_text(encoding="utf-8"))
            found = {getattr(node, "name", ""): node for node in tree.body}
            parts += [entry(module, found[name]) + "\n" for name in names]
    return "\n".join(parts)


if __name__ == "__main__":
    target = execute.ROOT / "reference.qmd"
    target.write_text(page(execute.ROOT), encoding="utf-8")
