"""Sections of the page of results: how fast fits are, and what they are compared with.

Each function takes the facts of one JSON file and returns Markdown.
"""

from statistics import median
from typing import Any

from report_text import NONE, number, origin, seconds, section, several, span, table

Facts = dict[str, Any]


def bnn_reference(facts: Facts) -> str:
    """Tell of the reference for the neural network."""
    nuts, ensemble = facts["nuts"], facts["ensemble"]
    draws = f"{nuts['chains']} chains, {nuts['warmup']:,} + {nuts['draws']:,} steps"
    rows = [
        {"method": "NUTS", "size": draws, **_spent(nuts)},
        {
            "method": "deep ensemble",
            "size": f"{ensemble['members']} networks",
            **_spent(ensemble),
        },
    ]
    return section(
        "Reference for the neural network",
        "bnn-reference",
        "Notebook 04 compares its fit with a long run of NUTS and with an ensemble of "
        "networks that were trained one by one. Hidden units can trade places, so "
        "chains of NUTS need agree on what the network predicts, not on its weights: "
        f"R-hat is at most {number(nuts['max_rhat_test_logits'], 4)} for the log odds "
        f"of the test data and {number(nuts['max_rhat_weights'], 4)} for the weights. "
        f"{nuts['divergences']} transitions diverged.",
        table(rows, "bnn-reference", "What the two references took."),
        origin(facts),
    )


def _spent(part: Facts) -> dict[str, str]:
    clock, processor = seconds(part["seconds"]), seconds(part["cpu_seconds"])
    return {"time": clock, "processor time": processor}


def loops(facts: Facts) -> str:
    """Tell of the training loops."""
    names = {"python_loop": "Python loop", "fit": "`fit`", "scan": "bare `lax.scan`"}
    rates, scores = facts["steps_per_second"], facts["test_log_scores"]
    shown, short = facts["draws_in_notebook"], facts["short_run"]
    draws = {f"fit_evaluated_{many}_draws": many for many in scores}
    rows = [
        {
            "loop": names.get(name) or f"`fit`, validated, draws: {draws[name]}",
            "steps per second": number(rate),
            "over the Python loop": _ratio(facts["times_python_loop"], name),
            "over the scan": _ratio(facts["times_scan"], name),
            "the same by processor time": _ratio(
                facts["times_scan_by_processor_time"], name
            ),
            "test log score": f"{number(median(scores[draws[name]]))} "
            f"({span(scores[draws[name]])})"
            if name in draws
            else NONE,
        }
        for name, rate in rates.items()
    ]
    turns = facts["steps_per_second_of_each_run"]["scan"]
    apart = facts["largest_relative_difference_of_losses"]
    return section(
        "Training loops",
        "loops",
        "The network of notebook 04 on "
        f"{facts['rows']['training']:,} rows, trained by four kinds of loops: one in "
        "Python that waits for a training loss and a validation loss at every step; "
        f"`fit` without validation, and with one every {facts['evaluate_every']} steps "
        "(of so many draws) and early stopping; and a bare `lax.scan` that does "
        "nothing but update. `fit` shows its progress bar. The largest relative "
        f"difference of their losses is {number(apart)}.",
        f"They took {facts['repeats']} turns. The scan's own speed went from "
        f"{span(turns)} steps per second, which says how much else the machine did. "
        f"Runs in the table take {facts['steps']:,} steps (of the Python loop, "
        f"{facts['steps_of_python_loop']:,}). In runs of {short['steps']:,}, as in "
        f"notebook 04, `fit` with {shown} draws makes "
        f"{_ratio(short['times_scan'], f'fit_evaluated_{shown}_draws')} of the scan's "
        "steps per second, with the first state made by both. Processor time is that "
        "of all threads together.",
        f"Notebook 04 validates with {shown} draws. More take "
        "longer; do they choose better states? The last column is the test log score "
        "of the best state of a run, the median of "
        f"{len(scores[str(shown)])} keys and, in brackets, the worst and the best. All "
        "evaluations of a run share their draws.",
        table(rows, "loops", "Training loops; medians over turns."),
        origin(facts),
    )


def _ratio(ratios: dict[str, float], name: str) -> str:
    return number(ratios[name]) if name in ratios else "1"


FRAMEWORKS = {
    "numpyro": "NumPyro",
    "numpyro_float64": "NumPyro",
    "pyro": "Pyro",
    "pymc": "PyMC",
    "pymc_c": "PyMC, C",
}


def frameworks(facts: Facts) -> str:
    """Tell of the other frameworks."""
    models, about = facts["models"], facts["frameworks"]
    versions = {}
    for each in (facts, *about.values()):
        for package, version in each["versions"].items():
            versions.setdefault(package, []).append(version)
    versions = {k: several(list(dict.fromkeys(v))) for k, v in versions.items()}
    speeds = [
        {
            "framework": FRAMEWORKS.get(name, name),
            "precision": each["precision"],
            "compiled by": each["compiled_by"],
            **{m: number(at["steps_per_second"][name]) for m, at in models.items()},
        }
        for name, each in about.items()
    ]
    ratios = [
        {
            "NumPyro against": FRAMEWORKS.get(other, other),
            "precision": f"{about[ours]['precision']}, {about[other]['precision']}",
            **{
                model: number(at["times_others"][ours][other])
                for model, at in models.items()
            },
        }
        for ours in about
        for other in about
        if all(other in at["times_others"].get(ours, {}) for at in models.values())
    ]
    fits = [fit for at in models.values() for fit in at.get("fits", {}).values()]
    off = [fit["largest_error_of_mean_in_sd"] for fit in fits]
    widths = [width for fit in fits for width in fit["sd_over_reference"]]
    agree = (
        "Posterior means of all fits are within "
        f"{number(max(off), 2)} standard deviations of those of a reference, and their "
        f"standard deviations {span(widths)} times its own. "
        if fits
        else ""
    )
    left_out = facts["left_out"]
    return section(
        "Other frameworks",
        "frameworks",
        "The same mean-field fits in NumPyro, Pyro and PyMC, each as its own "
        f"documentation does it ({facts['optimizer']}; {facts['draws_per_step']} draw "
        "per step): a gamma concentration, a logistic regression and the network of "
        f"notebook 04, on {several([f'{n:,}' for n in facts['rows'].values()])} rows.",
        agree + (f"Left out: {several(left_out)}." if left_out else ""),
        table(speeds, "frameworks", "Steps per second; medians over turns."),
        table(
            ratios,
            "frameworks-ratios",
            "How many times the steps per second NumPyro makes; medians over turns. "
            "Precision: NumPyro's, and the other one's.",
        )
        if ratios
        else "",
        origin({**facts, "versions": versions}),
    )


def rows(facts: Facts) -> str:
    """Tell of ever more rows."""
    one = ", 1 particle"
    steps = {
        f"a step, {kind}": by_size
        for kind, by_size in facts["step_seconds"].items()
        if kind.endswith(one)
    }
    target = {f"to the target, {k}": v for k, v in facts["seconds_to_target"].items()}
    crossed = [
        f"- {kind}: at {number(at, 2)} rows\n"
        for kind, at in facts["crossings"].items()
        if at is not None
    ]
    second = facts["rows"][1]
    return section(
        "More and more rows",
        "rows",
        "A logistic regression with ten coefficients, fitted with all rows at each "
        "step and with minibatches. The last line is the slope on logarithmic axes, "
        f"from {second:,} rows on: 1 is “in proportion to the rows”, 0 “not at all”.",
        table(
            _by_rows(facts, steps),
            "rows-steps",
            f"Time of one step of `fit`; “{NONE}”: fewer rows than a batch has.",
        ),
        "How long it takes to come within "
        f"{facts['target_nats']} nats of the best mean-field guide, compilation left "
        f"out (minibatches of {facts['batch_size']:,} rows; Adam's b2 is "
        f"{_by_kind(facts['adam_b2'])}), and how long NUTS takes "
        "for a hundred effective draws. Newton's method, which finds mode and "
        "curvature, is the reference that distances are measured from.",
        table(
            _by_rows(facts, target),
            "rows-target",
            f"Time to the target; “{NONE}”: not within the time allowed.",
        ),
        "Where these curves cross:\n\n" + "".join(crossed) if crossed else "",
        origin(facts),
    )


def _by_kind(values: dict[str, float]) -> str:
    return several([f"{value} for the {kind}" for kind, value in values.items()])


def _by_rows(facts: Facts, curves: dict[str, list]) -> list[dict[str, str]]:
    """Return a line for each number of rows, and one of slopes."""
    names = {
        curve: curve.partition(", ")[2].removesuffix(", 1 particle") for curve in curves
    }
    lines = [
        {"rows": f"{n:,}"} | {names[k]: seconds(each[i]) for k, each in curves.items()}
        for i, n in enumerate(facts["rows"])
    ]
    slopes = {names[k]: number(facts["slopes"][k], 2) for k in curves}
    return [*lines, {"rows": "slope"} | slopes]


def many_fits(facts: Facts) -> str:
    """Tell of many small fits."""
    names = {
        "vmap": "`vmap` of the whole fit",
        "loop": "Python loop over a compiled fit",
        "loop_of_fit": "Python loop over `fit`",
        "loop_that_compiles": "Python loop over `svi.run`",
    }
    ways = [
        {
            "way": names.get(way, way),
            "all groups": seconds(spent),
            "times longer": _ratio(facts["times_vmap"], way),
        }
        for way, spent in facts["seconds_of_all_groups"].items()
    ]
    accuracy = facts["accuracy"]
    kl, least = accuracy["kl_nats"], accuracy["kl_nats_of_best_normal"]
    return section(
        "Many small fits",
        "many-fits",
        f"{facts['groups']:,} posteriors of one parameter each, {facts['steps']:,} "
        "steps of SVI for every one of them. Loops do a few groups and are scaled up. "
        "`svi.run` compiles at each call.",
        f"Half of the fits are within {number(kl['median'], 2)} nats of their exact "
        f"posteriors, the worst within {number(kl['largest'], 2)}; of the best normals "
        f"that would be {number(least['median'], 2)} and "
        f"{number(least['largest'], 2)}.",
        table(ways, "many-fits", f"Time for {facts['groups']:,} fits."),
        origin(facts),
    )
