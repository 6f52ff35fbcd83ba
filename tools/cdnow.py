"""Make the table of cohorts that `helpers.cohorts.cdnow` reads.

Run it from the root of the project, with the archive of the package Lifetimes 0.11.3:

    python -m pip download lifetimes==0.11.3 --no-deps --no-binary lifetimes
    python tools/cdnow.py Lifetimes-0.11.3.tar.gz
"""

import argparse
import io
import tarfile
from pathlib import Path

import pandas as pd

from helpers.cohorts import cohort_table

TABLE = Path(__file__).resolve().parents[1] / "src/helpers/data/cdnow.csv"
INSIDE = "Lifetimes-0.11.3/lifetimes/datasets/CDNOW_master.txt"
ORDERS, CUSTOMERS = 69_659, 23_570


def orders(text: str) -> pd.DataFrame:
    """Return the log of orders: customer, date, revenue."""
    names = ["customer", "date", "discs", "revenue"]
    log = pd.read_csv(io.StringIO(text), sep=r"\s+", skiprows=1, names=names)
    log["date"] = pd.to_datetime(log["date"].astype(str), format="%Y%m%d")
    return log[["customer", "date", "revenue"]]


def main() -> None:
    """Read the archive and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    archive = parser.parse_args().archive
    with tarfile.open(archive) as files:
        log = orders(files.extractfile(INSIDE).read().decode())
    found = len(log), log["customer"].nunique()
    if found != (ORDERS, CUSTOMERS):
        raise SystemExit(f"{archive}: expected {ORDERS} orders, got {found}")
    # Orders of the same sum on the same day: two baskets, as the file has them.
    table = cohort_table(log, days=7, duplicates="keep")
    table.round({"revenue": 2}).to_csv(TABLE, index=False)
    print(f"{TABLE}: {len(table)} rows, {TABLE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
