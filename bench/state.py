#!/usr/bin/env python3
"""Switches a live copy of benchmark data between its states v1 and v2, in place.

A backup program recognises an unchanged file by size, mtime, ctime and inode, at the same path. Two copies
side by side would therefore measure nothing real. So there is one live copy, and a delta beside it that
touches only what differs: everything else keeps its inode and ctime across any number of switches.

  state.py diff LIVE NEW DELTA [FROM TO]   records how LIVE (v1) becomes NEW (v2) and back; FROM was moved TO
  state.py apply LIVE DELTA v1|v2          switches; a switch that was interrupted is completed first

A delta is a directory: v1.ops and v2.ops (one JSON operation per line, applied in order), v1.data and v2.data
(the bytes they refer to), and `state` (the state of LIVE, with a * while it is being switched).
"""
import json
import os
import shutil
import stat
import sys

BLOCK = 4096


def entries(top):
    """Path below `top` (with "" for itself) → lstat, for everything there."""
    found = {"": os.lstat(top)}
    for folder, folders, names in os.walk(top):
        for name in folders + names:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top)] = os.lstat(path)
    return found


class Way:
    """The operations that lead to one state."""

    def __init__(self, top, delta, state):
        self.top = top
        self.ops = open(os.path.join(delta, f"{state}.ops"), "w")
        self.data = open(os.path.join(delta, f"{state}.data"), "wb")

    def add(self, op, path, info=None, **more):
        if info is not None:
            more |= {"mode": stat.S_IMODE(info.st_mode), "uid": info.st_uid, "gid": info.st_gid,
                     "mtime": info.st_mtime_ns}
        self.ops.write(json.dumps({"op": op, "path": path, **more}) + "\n")

    def store(self, content):
        at = self.data.tell()
        self.data.write(content)
        return at

    def create(self, path, source, info):
        if stat.S_ISDIR(info.st_mode):
            self.add("mkdir", path, info)
        elif stat.S_ISLNK(info.st_mode):
            self.add("link", path, info, target=os.readlink(source))
        elif stat.S_ISREG(info.st_mode):
            with open(source, "rb") as file:
                self.add("file", path, info, size=info.st_size, blocks=[[0, info.st_size, self.store(file.read())]])
        else:
            raise SystemExit(f"{source}: neither file, directory nor link")

    def close(self):
        self.ops.close()
        self.data.close()


def changed_runs(old, new):
    """Runs [offset, length] of whole blocks that differ, up to the end of the longer file."""
    runs, at = [], 0
    while True:
        a, b = old.read(1 << 20), new.read(1 << 20)
        if not a and not b:
            return runs
        if a != b:
            for start in range(0, max(len(a), len(b)), BLOCK):
                if a[start:start + BLOCK] != b[start:start + BLOCK]:
                    if runs and sum(runs[-1]) == at + start:
                        runs[-1][1] += BLOCK
                    else:
                        runs.append([at + start, BLOCK])
        at += 1 << 20


def diff_file(path, old_path, old, new_path, new, to_v1, to_v2):
    with open(old_path, "rb") as a, open(new_path, "rb") as b:
        runs = changed_runs(a, b)
        same_meta = all(getattr(old, key) == getattr(new, key) for key in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"))
        if not runs and same_meta:
            return
        for file, info, way in ((a, old, to_v1), (b, new, to_v2)):
            blocks = []
            for at, length in runs:
                file.seek(at)
                content = file.read(length)
                if content:
                    blocks.append([at, len(content), way.store(content)])
            way.add("file", path, info, size=info.st_size, blocks=blocks)


def diff(live, new, delta, moved):
    os.makedirs(delta)
    to_v1, to_v2 = Way(live, delta, "v1"), Way(new, delta, "v2")

    def after_move(path):
        if moved and (path == moved[0] or path.startswith(moved[0] + "/")):
            return moved[1] + path[len(moved[0]):]
        return path

    # Paths are those of v2's layout: a move comes first on the way to v2 and last on the way back.
    before = {after_move(path): (path, info) for path, info in entries(live).items()}
    after = entries(new)
    if moved:
        to_v2.add("move", moved[0], to=moved[1])
        to_v1.add("move", moved[0], to=moved[1])
    for path in sorted(before.keys() | after.keys()):
        if path in before and path in after:
            original, old = before[path]
            if stat.S_IFMT(old.st_mode) != stat.S_IFMT(after[path].st_mode):
                raise SystemExit(f"{path}: changes its type")
            if stat.S_ISREG(old.st_mode):
                diff_file(path, os.path.join(live, original), old, os.path.join(new, path), after[path], to_v1, to_v2)
        elif path in after:
            to_v2.create(path, os.path.join(new, path), after[path])
    for path in sorted(before.keys() - after.keys()):
        original, old = before[path]
        to_v1.create(path, os.path.join(live, original), old)
    # Deepest first: a directory is empty when its turn comes.
    for path in sorted(before.keys() - after.keys(), reverse=True):
        to_v2.add("remove", path)
    for path in sorted(after.keys() - before.keys(), reverse=True):
        to_v1.add("remove", path)
    if moved:
        to_v1.add("move", moved[1], to=moved[0])
    # Last, because all of the above changes the times of directories.
    for way, layout in ((to_v2, {path: (path, info) for path, info in after.items()}), (to_v1, before)):
        for path, (own, info) in sorted(layout.items(), reverse=True):
            old, new_info = before.get(path), after.get(path)
            if stat.S_ISDIR(info.st_mode) and (
                    not old or not new_info or old[1].st_mtime_ns != new_info.st_mtime_ns):
                way.add("times", own, info)
        way.close()
    set_state(delta, "v1")


def set_state(delta, state):
    path = os.path.join(delta, "state")
    with open(path + ".tmp", "w") as file:
        file.write(state)
    os.rename(path + ".tmp", path)


def run(live, delta, state):
    """Carries the operations out. Each may have been done before, by a run that was interrupted."""
    set_state(delta, state + "*")
    with open(os.path.join(delta, f"{state}.ops")) as ops, open(os.path.join(delta, f"{state}.data"), "rb") as data:
        for line in ops:
            op = json.loads(line)
            path = os.path.join(live, op["path"]) if op["path"] else live
            match op["op"]:
                case "move":
                    if os.path.lexists(path):
                        os.rename(path, os.path.join(live, op["to"]))
                    continue
                case "remove":
                    if os.path.islink(path) or os.path.isfile(path):
                        os.unlink(path)
                    elif os.path.isdir(path):
                        os.rmdir(path)
                    continue
                case "mkdir":
                    os.makedirs(path, exist_ok=True)
                case "link":
                    if not os.path.lexists(path):
                        os.symlink(op["target"], path)
                case "file":
                    # Not O_TRUNC: the file keeps its inode and the blocks that are the same in both states.
                    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                        for at, length, where in op["blocks"]:
                            data.seek(where)
                            file.seek(at)
                            file.write(data.read(length))
                        file.truncate(op["size"])
            os.chown(path, op["uid"], op["gid"], follow_symlinks=False)
            if op["op"] != "link":
                os.chmod(path, op["mode"])
            os.utime(path, ns=(op["mtime"], op["mtime"]), follow_symlinks=False)
    set_state(delta, state)


def current(delta):
    with open(os.path.join(delta, "state")) as file:
        return file.read()


def apply(live, delta, state):
    now = current(delta)
    if now.endswith("*"):
        run(live, delta, now[:-1])
        now = now[:-1]
    if now != state:
        run(live, delta, state)


def main():
    match sys.argv[1:]:
        case ["diff", live, new, delta, *moved] if len(moved) in (0, 2):
            # Under another name until it is complete: half a delta must not look like one.
            shutil.rmtree(delta + ".new", ignore_errors=True)
            diff(live, new, delta + ".new", moved)
            os.rename(delta + ".new", delta)
        case ["apply", live, delta, ("v1" | "v2") as state]:
            apply(live, delta, state)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
