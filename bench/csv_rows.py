"""As csv.sh, for the scripts in Python: results/NAME.csv gets a line for every measurement, after those that are there."""
import csv
import datetime
import os
import pathlib


def machine():
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else 'unknown'}".replace(",", "")


def add_row(name, **values):
    """The columns are date, machine, and the names of `values`."""
    path = pathlib.Path(__file__).parent / "results" / f"{name}.csv"
    row = {"date": datetime.date.today().isoformat(), "machine": machine(), **values}
    begins = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, row.keys(), lineterminator="\n")
        if begins:
            writer.writeheader()
        writer.writerow(row)
