#!/usr/bin/env python3
"""Runs one command and writes what it took, as JSON:  measure.py RESULT INPUT COMMAND [ARGUMENT...]

INPUT comes to the command through a pipe, as a dump does. This is a program of its own because the kernel hands
a parent's peak memory down to its child: started from a small process (`python3 -I -S`, about 10 MiB), the child's
own peak is what is seen.
"""
import json
import os
import resource
import signal
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")


def machine_busy():
    """Seconds of processor time spent on this machine so far, by anyone, over all cores."""
    with open("/proc/stat", "rb") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


def own_busy():
    """Seconds spent by this process and those that it waited for, with all their descendants."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def spawn(command, stdin, stdout=None):
    moves = [(os.POSIX_SPAWN_DUP2, stdin, 0)]
    if stdout is not None:
        moves.append((os.POSIX_SPAWN_DUP2, stdout, 1))
    # Python ignores SIGPIPE, and children would inherit that.
    return os.posix_spawnp(command[0], command, os.environ, file_actions=moves, setsigdef=[signal.SIGPIPE])


def main():
    result, source, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    # Python's pipes are closed on exec; only the ends that spawn() duplicates are passed on.
    out_end, in_end = os.pipe()
    busy, own = machine_busy(), own_busy()
    start = time.monotonic()
    feeder = spawn(["cat", source], out_end, in_end)
    pid = spawn(command, out_end)
    os.close(out_end)
    os.close(in_end)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - start
    os.waitpid(feeder, 0)
    busy, own = machine_busy() - busy, own_busy() - own
    with open(result, "w") as out:
        json.dump({
            "status": os.waitstatus_to_exitcode(status),
            "wall": wall,
            "user": usage.ru_utime,
            "sys": usage.ru_stime,
            "peak_mib": usage.ru_maxrss / 1024,
            "foreign": max(0.0, busy - own),
            "disk_read_mib": usage.ru_inblock / 2048,
        }, out)


main()
