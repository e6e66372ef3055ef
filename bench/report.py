#!/usr/bin/env python3
"""Prints the tables of raw results again, of several runs together:  report.py FILE.jsonl..."""
import json
import sys
from statistics import median

STEPS = ("init", "first", "unchanged", "changed", "restore", "check", "recheck")
OURS = "backstay"
# A peer counts as of our kind when its repository is at most this much larger than ours.
SIZE_ALLOWANCE = 1.10


def chosen(runs):
    """The quiet runs; where there are none, all, which the cell then says."""
    return [run for run in runs if not run["noisy"]] or runs


def typical(runs, key):
    return median(run[key] for run in chosen(runs))


def cell(runs):
    if not runs:
        return "–"
    wall, user, system, peak = (typical(runs, key) for key in ("wall", "user", "sys", "peak_mib"))
    used = chosen(runs)
    noisy = " *noisy*" if used[0]["noisy"] else ""
    return f"{wall:.2f} / {user:.2f}+{system:.2f} / {peak:.0f} [{len(used)}]{noisy}"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def size(runs, step):
    """MiB of the repository after a step; noise has no say in it."""
    return median(run["repo_mib"] for run in runs[step])


def added(runs):
    return size(runs, "changed") - size(runs, "first")


def against_peers(ours, peers):
    """Rows of ratios: ours against the fastest peer, and against the fastest of those that store as little.

    What a peer stores is judged by the first state: after the second one the sizes differ by what each deduplicates,
    and a peer would no longer count for being worse at that.
    """
    small = {name: runs for name, runs in peers.items()
             if "first" in runs and "first" in ours and size(runs, "first") <= SIZE_ALLOWANCE * size(ours, "first")}
    rows = []
    for step in STEPS:
        if step in ours:
            rows.append([f"{step}, wall s", f"{typical(ours[step], 'wall'):.2f}",
                         against_least(ours, peers, step, "wall"), against_least(ours, small, step, "wall")])
            rows.append([f"{step}, user s", f"{typical(ours[step], 'user'):.2f}",
                         against_least(ours, peers, step, "user"), against_least(ours, small, step, "user")])
    for what, value, step in (("repository v1, MiB", lambda runs: size(runs, "first"), "first"),
                              ("added by v2, MiB", added, "changed")):
        if step in ours:
            sizes = {name: value(runs) for name, runs in peers.items() if step in runs}
            rows.append([what, f"{value(ours):.1f}", ratio(value(ours), sizes), ""])
    return rows


def against_least(ours, peers, step, key):
    mine = typical(ours[step], key)
    theirs = {name: typical(runs[step], key) for name, runs in peers.items() if step in runs}
    noisy = any(chosen(runs[step])[0]["noisy"] for runs in [ours, *peers.values()] if step in runs)
    return ratio(mine, theirs) + (" *noisy*" if noisy else "")


def ratio(mine, theirs):
    if not theirs:
        return "–"
    name = min(theirs, key=theirs.get)
    return f"{mine / theirs[name]:.2f} × {name} ({theirs[name]:.2f})"


def render(records):
    runs = {}
    for record in records:
        if "step" in record:
            runs.setdefault(record["set"], {}).setdefault(record["contender"], {}) \
                .setdefault(record["step"], []).append(record)
    text = []
    for head in [record for record in records if "machine" in record]:
        text.append(f"{head['date']}: {head['machine']}. " + "; ".join(head["versions"].values()) + ".\n")
    text.append("Cells: wall s / user+sys s / peak MiB [runs the medians are of]; sizes in MiB.\n")
    for name, contenders in runs.items():
        steps = [step for step in STEPS if any(runs.get(step) for runs in contenders.values())]
        rows = []
        for contender, its in sorted(contenders.items(), key=lambda item: item[0] != OURS):
            sizes = [f"{size(its, 'first'):.1f}" if its.get("first") else "–",
                     f"{size(its, 'changed'):.1f} (+{added(its):.1f})" if its.get("changed") else "–"]
            rows.append([contender] + [cell(its.get(step)) for step in steps] + sizes)
        text.append(f"### {name}\n\n" + table(["contender", *steps, "repo v1", "repo v2"], rows) + "\n")
        peers = {contender: its for contender, its in contenders.items() if not contender.startswith(OURS)}
        if OURS in contenders and peers:
            head = [name, OURS, "against the least of all peers", f"of those that store ≤ {SIZE_ALLOWANCE:.2f} × as much"]
            text.append(table(head, against_peers(contenders[OURS], peers)) + "\n")
    for record in records:
        if "failed" in record:
            text.append(f"FAILED: {record}\n")
    return "\n".join(text)


if __name__ == "__main__":
    print(render([json.loads(line) for path in sys.argv[1:] for line in open(path)]))
