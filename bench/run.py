#!/usr/bin/env python3
"""Backs the data sets up with each contender, restores them, and says what each step took. See README.md."""
import argparse
import shutil
import sys

import report
from harness import SETS, Bench, Failed, add_common_options, measure, read_all, restore_and_compare, size_below

STEPS = ("init", "first", "unchanged", "changed", "restore", "check", "recheck")


def life(bench, contender, name, steps):
    """Yields (step, measured values) for one contender's repository from init to recheck."""
    data = bench.options.data
    is_stream = name == "stream"
    bench.switch(name, "v1")
    source = data / "stream" / "v1.dump" if is_stream else data / name

    def save():
        read_all(source)
        if is_stream:
            return measure(contender, contender.save_stream(), stdin=source)
        return measure(contender, contender.save(source))

    yield "init", measure(contender, contender.init())
    yield "first", save()
    if "unchanged" in steps and not is_stream:
        yield "unchanged", save()
    if "changed" in steps and name != "rand":
        bench.switch(name, "v2")
        source = data / "stream" / "v2.dump" if is_stream else data / name
        yield "changed", save()
    if "restore" in steps:
        yield "restore", restore_and_compare(contender, source, is_stream)
    if "check" in steps:
        read_all(contender.repo)
        yield "check", measure(contender, contender.check())
    if "recheck" in steps:
        if "check" not in steps:
            measure(contender, contender.check())
        read_all(contender.repo)
        yield "recheck", measure(contender, contender.check())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--sets", default=",".join(SETS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", default=",".join(STEPS),
                        help="default: %(default)s; init and first are always done, the others need them")
    options = parser.parse_args()
    sets, steps = options.sets.split(","), options.steps.split(",")
    for given, known in ((sets, SETS), (steps, STEPS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}")
    bench = Bench(options, "run")

    for round_number in range(options.rounds):
        # Each round begins with another contender, so that none always follows the same one.
        turn = round_number % max(1, len(bench.contenders))
        for name in sets:
            for contender_name in bench.contenders[turn:] + bench.contenders[:turn]:
                where = {"round": round_number, "set": name, "contender": contender_name}
                contender = bench.start(contender_name, "life")
                try:
                    for step, took in life(bench, contender, name, steps):
                        took["repo_mib"] = size_below(contender.repo) / (1 << 20)
                        bench.record({**where, "step": step, **took})
                        print(f"{round_number} {name} {contender_name} {step}: {report.cell([took])}", file=sys.stderr)
                except Failed as failure:
                    bench.fail(where, failure)
                finally:
                    bench.switch(name, "v1")
                    shutil.rmtree(contender.work)

    print(report.render(bench.records))
    print(f"raw results: {bench.out}", file=sys.stderr)
    sys.exit(1 if bench.failures else 0)


main()
