#!/usr/bin/env python3
"""One of ten snapshots of the small files is forgotten: how long does it take to give its space back? See README.md.

A copy of the small files is edited by mutate.sh and saved nine times. Then the fifth of the ten snapshots is forgotten, which is not
measured, and pruned, which is: as it comes, or (--all) so that nothing unused stays. Behind that the newest is restored and compared.
"""
import argparse
import json
import shutil
import subprocess
import sys

from harness import HERE, Bench, Failed, add_common_options, measure, read_all, restore_and_compare, size_below
from report import table, typical

SNAPSHOTS = 10
FORGOTTEN = 5
# The number of the first change set, apart from those of flat.py.
FIRST = 201


def listed(contender, *command):
    """What a program prints on standard output."""
    return subprocess.run([str(part) for part in command], env=contender.environment, capture_output=True, text=True,
                          check=True).stdout


# What gives back all that is unused, and not only as much as is worth it by default.
ALL = {"backstay": ["--max-unused", "0"], "backstay-parity": ["--max-unused", "0"], "restic": ["--max-unused", "0"],
       "rustic": ["--max-unused", "0%", "--max-repack", "unlimited"], "borg": ["--threshold", "0"], "borg-zstd3": ["--threshold", "0"]}


def backstay(contender):
    lines = listed(contender, *contender.command("snapshot", "list", "--json")).splitlines()
    records = [record for record in map(json.loads, lines) if record["type"] == "snapshot"]
    ids = [record["id"] for record in sorted(records, key=lambda record: record["id"])]
    return contender.command("snapshot", "forget", ids[FORGOTTEN - 1]), contender.command("snapshot", "prune")


def restic(contender):
    ids = [one["id"] for one in json.loads(listed(contender, *contender.command("restic", "snapshots", "--json")))]
    return contender.command("restic", "forget", ids[FORGOTTEN - 1]), contender.command("restic", "prune")


def rustic(contender):
    groups = json.loads(listed(contender, *contender.command("rustic", "snapshots", "--json")))
    found = [one for group in groups for one in (group["snapshots"] if "snapshots" in group else group[1])]
    ids = [one["id"] for one in sorted(found, key=lambda one: one["time"])]
    # Without --instant-delete it only marks packs, and deletes them when it is called again a day later.
    return (contender.command("rustic", "forget", ids[FORGOTTEN - 1]),
            contender.command("rustic", "prune", "--instant-delete"))


def borg(contender):
    return contender.command("borg", "delete", f"::{FORGOTTEN}"), contender.command("borg", "compact")


WAYS = {"backstay": backstay, "backstay-parity": backstay, "restic": restic, "rustic": rustic, "borg": borg, "borg-zstd3": borg}


def one(bench, name, round_number):
    """All snapshots of a contender, one of them forgotten, pruned."""
    options = bench.options
    copy = options.work / "prune" / "tree"
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir()
    subprocess.run(["cp", "-a", options.data / "tree", copy], check=True)
    contender = bench.start(name, f"prune-{name}")
    where = {"set": "tree", "contender": name, "round": round_number}
    try:
        measure(contender, contender.init())
        for number in range(SNAPSHOTS):
            if number:
                subprocess.run([HERE / "mutate.sh", "tree", copy, str(FIRST + number)], check=True)
            measure(contender, contender.save(copy))
        forget, prune = WAYS[name](contender)
        if options.all:
            prune = [*prune, *ALL[name]]
        measure(contender, forget)
        before = size_below(contender.repo)
        read_all(contender.repo)
        took = measure(contender, prune)
        freed = (before - size_below(contender.repo)) / (1 << 20)
        bench.record({**where, "step": "prune", **took, "freed_mib": freed, "before_mib": before / (1 << 20)})
        if not options.no_restore:
            restore_and_compare(contender, copy, False)
    except Failed as failure:
        bench.fail(where, failure)
    shutil.rmtree(contender.work)
    shutil.rmtree(copy.parent)
    print(f"round {round_number}: {name}", file=sys.stderr)


def render(records):
    runs = [record for record in records if record.get("step") == "prune"]
    rows = []
    for name in dict.fromkeys(run["contender"] for run in runs):
        its = [run for run in runs if run["contender"] == name]
        noisy = " *noisy*" if all(run["noisy"] for run in its) else ""
        rows.append([name, f"{typical(its, 'wall'):.2f}{noisy}", f"{typical(its, 'user'):.2f}+{typical(its, 'sys'):.2f}",
                     f"{typical(its, 'peak_mib'):.0f}", f"{typical(its, 'before_mib'):.1f}",
                     f"{typical(its, 'freed_mib'):.1f}", str(len(its))])
    return table(["contender", "prune, s", "user + system, s", "peak, MiB", "repository, MiB", "freed, MiB", "runs"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--rounds", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--all", action="store_true", help="so that nothing unused stays")
    parser.add_argument("--no-restore", action="store_true", help="do not restore and compare the newest behind it")
    bench = Bench(parser.parse_args(), "prune")
    bench.switch("tree", "v1")
    for number in range(1, bench.options.rounds + 1):
        turn = number % max(1, len(bench.contenders))
        for name in bench.contenders[turn:] + bench.contenders[:turn]:
            one(bench, name, number)
    print(render(bench.records))
    print(f"raw results: {bench.out}", file=sys.stderr)
    sys.exit(1 if bench.failures else 0)


if __name__ == "__main__":
    main()
