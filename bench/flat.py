#!/usr/bin/env python3
"""Thirty changed backups in a row: does a backup's growth, and the restore of the newest, stay flat? See README.md.

The data is changed by mutate.sh between the backups, on a copy; each contender saves each state. The newest
snapshot is restored, and compared, after the first changed backup and after the last.
"""
import argparse
import shutil
import subprocess
import sys
from statistics import median

from harness import HERE, Bench, Failed, add_common_options, measure, read_all, restore_and_compare, size_below
from report import chosen, table, typical

SETS = ("pgdata", "vm")
# The number of the first change set; v2 of the data is number 1.
FIRST = 101


def save(bench, contender, where, copy):
    before = size_below(contender.repo)
    read_all(copy)
    took = measure(contender, contender.save(copy))
    bench.record({**where, "step": "save", **took, "added_mib": (size_below(contender.repo) - before) / (1 << 20)})


def flat(bench, name):
    options = bench.options
    copy = options.work / "flat" / name
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir()
    bench.switch(name, "v1")
    subprocess.run(["cp", "-a", options.data / name, copy], check=True)
    alive = {contender: bench.start(contender, f"flat-{contender}") for contender in bench.contenders}
    for number in range(options.runs + 1):
        if number:
            subprocess.run([HERE / "mutate.sh", name, copy, str(FIRST + number), options.data / "donor.bin"],
                           check=True, stdout=subprocess.DEVNULL)
        turn = number % max(1, len(alive))
        for contender_name in [*alive][turn:] + [*alive][:turn]:
            contender = alive[contender_name]
            where = {"set": name, "contender": contender_name, "run": number}
            try:
                if number == 0:
                    measure(contender, contender.init())
                save(bench, contender, where, copy)
                for _ in range(options.restores if number in (1, options.runs) else 0):
                    bench.record({**where, "step": "restore", **restore_and_compare(contender, copy, False)})
            except Failed as failure:
                bench.fail(where, failure)
                del alive[contender_name]
        print(f"{name}: backup {number} of {options.runs}", file=sys.stderr)
    for contender_name in bench.contenders:
        shutil.rmtree(options.work / f"flat-{contender_name}")
    shutil.rmtree(copy.parent)


def render(records, last):
    text = []
    runs = [record for record in records if "step" in record]
    for name in dict.fromkeys(run["set"] for run in runs):
        rows = []
        for contender in dict.fromkeys(run["contender"] for run in runs if run["set"] == name):
            its = [run for run in runs if run["set"] == name and run["contender"] == contender]
            saves = [run for run in its if run["step"] == "save" and run["run"] > 0]
            restores = [[run for run in its if run["step"] == "restore" and run["run"] == number] for number in (1, last)]
            if not saves or not all(restores):
                continue
            added = [run["added_mib"] for run in saves]
            walls = [typical(some, "wall") for some in restores]
            noisy = " *noisy*" if any(chosen(some)[0]["noisy"] for some in restores) else ""
            rows.append([contender, f"{added[0]:.1f}", f"{median(added):.1f}", f"{max(added):.1f}", f"{added[-1]:.1f}",
                         f"{typical(saves, 'wall'):.2f}", f"{walls[0]:.2f}", f"{walls[1]:.2f}",
                         f"{walls[1] / walls[0]:.2f}{noisy}"])
        head = ["contender", "added by the 1st, MiB", "median", "most", "by the last", "save, s",
                "restore after the 1st, s", f"after the last ({last}), s", "ratio"]
        text.append(f"### {name}\n\n{table(head, rows)}\n")
    return "\n".join(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--sets", default=",".join(SETS), help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=30, help="changed backups; default: %(default)s")
    parser.add_argument("--restores", type=int, default=3, help="restores measured each time; default: %(default)s")
    options = parser.parse_args()
    if unknown := set(options.sets.split(",")) - set(SETS):
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(SETS)}")
    if options.runs < 2:
        parser.error("at least 2 runs: the first and the last are compared")
    bench = Bench(options, "flat")
    for name in options.sets.split(","):
        flat(bench, name)
    print(render(bench.records, options.runs))
    print(f"raw results: {bench.out}", file=sys.stderr)
    sys.exit(1 if bench.failures else 0)


main()
