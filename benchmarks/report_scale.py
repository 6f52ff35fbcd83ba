"""Sections of the page of results: more than one device, and more than memory holds.

Each function takes the facts of one JSON file and returns Markdown.
"""

from typing import Any

from report_text import (
    NONE,
    SPACE,
    millions,
    number,
    origin,
    scaled,
    seconds,
    section,
    several,
    table,
)

Facts = dict[str, Any]


def _sent(fit: Facts) -> str:
    return scaled(sum(each["bytes"] for each in fit.get("collectives", ())), "B")


def devices(facts: Facts) -> str:
    """Tell of one fit over several devices."""
    ways = {"one": "one device", "rows": "rows split", "width": "rows and width split"}
    fits = []
    for name, fit in facts["eight_devices"].items():
        problem, way = name.split("/")
        fits.append(
            {
                "model": f"{problem}, {ways.get(way, way)}",
                "parameters per device": f"{fit['parameters_per_device']:,}",
                "sent per step": _sent(fit) if "mesh" in fit else NONE,
                "one step": seconds(fit["step_seconds"]),
                "largest difference of losses": number(fit["max_relative_difference"]),
            }
        )
    paper = [
        {
            "rows": f"{each['rows']:,}",
            "network": each["link"],
            "computing": seconds(each["compute_seconds"]),
            "communicating": seconds(each["talk_seconds"]),
            "share spent computing": f"{number(100 * each['efficiency'])}%",
        }
        for each in facts["paper"]
    ]
    count = facts["paper"][0]["devices"]
    return section(
        "Eight devices",
        "devices",
        f"One fit of {facts['steps']:,} steps over eight devices, simulated by the "
        "cores of one CPU: that shows that the numbers are right and what is sent, "
        "not how fast eight real devices are. Differences are relative, to the same "
        "fit in a process with one device.",
        table(fits, "devices", "One fit in a process with eight simulated devices."),
        f"What to expect of {count} devices, on paper: the time per row measured here, "
        "and the usual formula for a ring of devices that add up their gradients.",
        table(paper, "devices-paper", f"A step on {count} devices; estimated."),
        origin(facts),
    )


def processes(facts: Facts) -> str:
    """Tell of one fit over several processes."""
    kinds = {k: v for k, v in facts.items() if k.endswith(("process", "processes"))}
    fits = [
        {
            "fit over": name.replace("_", " "),
            "one step": seconds(fit["step_seconds"]),
            "sent per step": _sent(fit) if "mesh" in fit else NONE,
            "communication per step": seconds(fit.get("talk_seconds")),
            "the same, estimated": seconds(fit.get("talk_seconds_estimated")),
        }
        for name, fit in kinds.items()
    ]
    return section(
        "Two processes",
        "processes",
        f"A logistic regression on {facts['rows']:,} rows, each process with its share "
        "of them, as hosts of a cluster would have theirs. They communicate over the "
        f"network of one machine ({facts['collectives']}), and share its cores. Over "
        f"{facts['steps']:,} steps, losses differ from those of one process by "
        f"{number(facts['max_relative_difference'], 2)}, relatively, at most.",
        table(fits, "processes", "One fit over two processes."),
        origin(facts),
    )


def streaming(facts: Facts) -> str:
    """Tell of data that are streamed from disk."""
    speeds = []
    for name, each in facts["throughput"].items():
        rates, times = each["rows_per_second"], each["times_memory"]
        row = {"table": name, "memory": millions(rates["memory"])}
        for kind, ratio in times.items():
            row[kind] = f"{millions(rates[kind])} ({number(ratio)})"
        speeds.append(row)
    peaks = [
        {
            "rows": n,
            **{
                kind: f"{number(run['peak_mib'])}{SPACE}MiB"
                for kind, run in kinds.items()
            },
        }
        for n, kinds in facts["one_epoch_in_a_fresh_process"].items()
    ]
    return section(
        "Streaming from disk",
        "streaming",
        f"A table of {facts['bytes_per_row']} bytes per row goes through `fit` in "
        "batches: from memory, from a memory map and from a Parquet file. The files "
        "were in the page cache of the system, as after a first epoch.",
        table(
            speeds,
            "streaming",
            "Rows per second, and in brackets the ratio to memory (median over turns, "
            "not the ratio of the medians).",
        ),
        "The most memory that a fresh process held in one epoch:",
        table(peaks, "streaming-memory", "Peak memory of a process that streams."),
        _beyond(facts),
        origin(facts),
    )


def _beyond(facts: Facts) -> str:
    limited, cold = facts["limited"], facts["from_disk_with_empty_cache"]
    said = ""
    if limited:
        runs = {k: each for k, each in limited.items() if isinstance(each, dict)}
        ends = {True: [], False: []}
        for kind, run in runs.items():
            name = "the table loaded whole" if kind == "memory" else kind
            ends["failed" in run].append(name)
        said = (
            f"Where a process may take {limited['allowed_mib']:,} MiB more for a table "
            f"of {limited['table_mib']:,} MiB, these work: {_listed(ends[False])}; "
            f"these fail: {_listed(ends[True])}. "
        )
    if cold:
        rates = [
            f"{millions(each['rows_per_second'])} rows per second ({kind})"
            for kind, each in cold.items()
            if isinstance(each, dict) and "failed" not in each
        ]
        if rates:
            said += f"From disk, with nothing in the cache: {several(rates)}."
    return said


def _listed(names: list[str]) -> str:
    return several(names) if names else "none"


def resume(facts: Facts) -> str:
    """Tell of fits that were killed."""
    fits = []
    for kind, run in facts["runs"].items():
        most = max((kill["steps_repeated"] for kill in run["kills"]), default=None)
        fits.append(
            {
                "fed by": kind,
                "steps": f"{run['steps']:,}",
                "between checkpoints": f"{run['checkpoint_every']:,}",
                "kills": str(len(run["kills"])),
                "most steps repeated": NONE if most is None else f"{most:,}",
                "same bits at the end": "yes" if run["bit_identical"] else "no",
            }
        )
    return section(
        "Killed and resumed",
        "resume",
        "Fits that were killed (`kill -9`) at random moments and started again until "
        "they were done, beside the same fit without a break.",
        table(fits, "resume", "Fits killed and resumed."),
        origin(facts),
    )


def prediction(facts: Facts) -> str:
    """Tell of predictions in batches."""
    at_once = facts["unbatched"]
    found = [
        {
            "rows": n,
            "rows per second": number(run["rows_per_second"]),
            "peak memory": f"{number(run['peak_mib'])}{SPACE}MiB",
            "peak memory, all at once": f"{number(at_once[n]['peak_mib'])}{SPACE}MiB"
            if n in at_once
            else NONE,
        }
        for n, run in facts["batched"].items()
    ]
    return section(
        "Prediction",
        "prediction",
        f"Mean and spread of {facts['draws']} draws for each row, from a mapped file "
        "to a mapped file by `predictions`, in a fresh process for each number of "
        "rows. Beside it, NumPyro's `Predictive`, which holds all draws of all rows.",
        table(
            found,
            "prediction",
            f"Predictions in batches, and all at once; “{NONE}”: not tried.",
        ),
        origin(facts),
    )


def production(facts: Facts) -> str:
    """Tell of fresh processes, and of a predictor that is served."""
    starts = [
        {
            "compiled code": kind,
            "import": seconds(run["seconds_import"]),
            "first steps of `fit`": seconds(run["seconds_fit"]),
            "once more": seconds(run["seconds_fit_again"]),
        }
        for kind, run in facts["starts"].items()
        if "cache" in kind and isinstance(run, dict) and "loss" in run
    ]
    server, made = facts["server"], facts["export"]
    requests = [
        {
            "rows in a request": f"{int(size):,}",
            "first": seconds(server["seconds_first_request"][size]),
            "median": seconds(found["median"]),
            "99 of 100 within": seconds(found["p99"]),
        }
        for size, found in server["seconds_request"].items()
    ]
    return section(
        "Cold starts, and serving",
        "production",
        f"The first steps of `fit` ({facts['model']}) in fresh processes: without a "
        "cache of compiled code; with one that is empty, and is filled; with one that "
        "keeps only what took a second to compile; with a full one; and with a full "
        "one and `PYTHONHASHSEED=0` (“unsalted”).",
        table(starts, "production-starts", "What a fresh process waits for."),
        _ahead(facts["ahead_of_time"]),
        f"A predictor with {made['draws']:,} posterior draws inside, exported "
        f"({number(made['kib'])} KiB) and served by a process that imports JAX alone; "
        f"it loads in {seconds(server['seconds_load'])}. Its answers differ from those "
        f"of NumPyro by {number(facts['largest_difference'], 2)} at most.",
        table(requests, "production-server", "Time to answer a request."),
        origin(facts),
    )


def _ahead(facts: Facts | None) -> str:
    if not facts:
        return ""
    kinds = ("no cache", "full cache", "full cache, unsalted")
    cold, warm, unsalted = (facts[kind]["seconds_compile"] for kind in kinds)
    traced = facts["no cache"]["seconds_trace_and_lower"]
    return (
        "Compiled ahead of time, a loop of updates takes "
        f"{seconds(traced)} to trace and {seconds(cold)} to compile; "
        f"{seconds(warm)} with a full cache, which rarely has that piece of code, "
        "since NumPyro's ELBO goes by an order that Python salts in each process; "
        f"{seconds(unsalted)} with one that was filled under the same hash seed."
    )
