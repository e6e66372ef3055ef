#!/usr/bin/env python3
"""Does memory stay flat when the data grows tenfold? See README.md.

A set is saved and restored as it is and ten times as large: ten copies, each of them changed so that no chunk of one
is in another. Sizes, times and peaks are said; what came back is compared.
"""
import argparse
import os
import shutil
import stat
import sys

from harness import Bench, Failed, add_common_options, measure, restore_and_compare
from report import table

SETS = ("tree", "vm", "rand")
COPIES = 10


def turn(number):
    """Turns bytes into others, one by one: what repeats still does, and compresses as before."""
    return bytes(byte ^ number for byte in range(256))


def copy_file(original, to, number):
    change = turn(number)
    with open(original, "rb") as read, open(to, "ab") as write:
        while part := read.read(1 << 20):
            write.write(part.translate(change))


def tenfold(original, to):
    """Ten changed copies beside each other of a folder of small files; of the files of other sets, ten in one file."""
    if os.path.basename(original) != "tree":
        to.mkdir()
        for name in sorted(os.listdir(original)):
            for number in range(COPIES):
                copy_file(original / name, to / name, number)
        return
    for number in range(COPIES):
        for folder, _, names in os.walk(original):
            below = to / str(number) / os.path.relpath(folder, original)
            os.makedirs(below, exist_ok=True)
            for name in names:
                path = os.path.join(folder, name)
                if stat.S_ISREG(os.lstat(path).st_mode):
                    copy_file(path, below / name, number)
                else:
                    shutil.copyfile(path, below / name, follow_symlinks=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_common_options(parser)
    parser.add_argument("--sets", default=",".join(SETS), help="default: %(default)s")
    options = parser.parse_args()
    if unknown := set(options.sets.split(",")) - set(SETS):
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(SETS)}")
    bench = Bench(options, "tenfold")
    rows = []
    for name in options.sets.split(","):
        bench.switch(name, "v1")
        large = options.work / f"{name}-tenfold"
        shutil.rmtree(large, ignore_errors=True)
        tenfold(options.data / name, large)
        for times, source in ((1, options.data / name), (COPIES, large)):
            for contender_name in bench.contenders:
                contender = bench.start(contender_name, f"tenfold-{contender_name}")
                where = {"set": name, "contender": contender_name, "times": times}
                try:
                    measure(contender, contender.init())
                    steps = (("first", lambda: measure(contender, contender.save(source))),
                             ("unchanged", lambda: measure(contender, contender.save(source))),
                             ("restore", lambda: restore_and_compare(contender, source, False)))
                    for step, run in steps:
                        took = run()
                        bench.record({**where, "step": step, **took})
                        rows.append([name, contender_name, str(times), step, f"{took['wall']:.1f}",
                                     f"{took['peak_mib']:.0f}"])
                except Failed as failure:
                    bench.fail(where, failure)
                shutil.rmtree(contender.work)
        shutil.rmtree(large)
    print(table(["set", "contender", "times", "step", "wall, s", "peak, MiB"], rows))
    print(f"raw results: {bench.out}", file=sys.stderr)
    sys.exit(1 if bench.failures else 0)


main()
