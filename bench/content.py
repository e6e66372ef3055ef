#!/usr/bin/env python3
"""Makes and edits benchmark data. Everything is drawn from a seed: the same input gives the same bytes.

  content.py random FILE MIB               incompressible bytes
  content.py documents TREE ROWS           rows for a text/jsonb table, as CSV on standard output
  content.py edit-tree TREE [NUMBER]       the second state of the small files, or a further one, in place
  content.py edit-image IMAGE DONOR N      the N-th scattered rewrite of a disk image, in place
"""
import base64
import csv
import json
import os
import random
import sys

MIB = 1 << 20
PAGE = 4096

# The share of the small files that each kind of change touches.
EDITED, REMOVED, ADDED = 0.015, 0.004, 0.004
# The directory that edit-tree moves; its siblings stay.
MOVED = ("linux/drivers/staging", "linux/drivers/retired")

# One rewrite of the image: 1,001 extents, 61.6 MiB in all, 3.0 % of 2 GiB.
EXTENTS, REWRITTEN = 1001, 15770 * PAGE


def make_random(path, mib):
    rng = random.Random("backstay rand")
    with open(path, "wb") as out:
        for _ in range(mib):
            out.write(rng.randbytes(MIB))


def regular_files(top):
    """All regular files below `top` with their sizes, in an order that does not depend on the file system."""
    found = []
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                found.append((path, os.path.getsize(path)))
    return found


def make_documents(tree, rows):
    """Real text in rows short enough (under 2 KB) that PostgreSQL does not compress it itself."""
    rng = random.Random("backstay documents")
    out = csv.writer(sys.stdout)
    tags = ["net", "fs", "mm", "docs", "arch", "driver", "sound", "crypto", "block", "tools"]
    number = 0
    for path, size in regular_files(os.path.join(tree, "linux")):
        if not path.endswith((".c", ".h", ".rst", ".txt")):
            continue
        # Only the head of each file, so that the rows come from all over the tree.
        with open(path, encoding="utf-8", errors="ignore") as source:
            text = source.read(6000).replace("\0", "")
        for start in range(0, len(text) - 800, 1350):
            number += 1
            attrs = {
                "path": os.path.relpath(path, tree),
                "size": size,
                "views": rng.randrange(100000),
                "score": round(rng.random(), 6),
                "author": f"user{rng.randrange(2000)}@example.org",
                "tags": rng.sample(tags, 3),
                "digest": rng.randbytes(32).hex(),
                "signature": base64.b64encode(rng.randbytes(160)).decode(),
            }
            out.writerow([number, f"{os.path.basename(path)} part {start // 1350 + 1}",
                          text[start:start + 1350], json.dumps(attrs)])
            if number == rows:
                return
    raise SystemExit(f"the tree has text for {number} rows only")


def edit_file(path, rng):
    """One small edit, as a person or a program makes it; the file stays the same inode."""
    with open(path, "r+b") as file:
        data = file.read()
        lines = data.splitlines(keepends=True)
        if b"\0" in data or len(lines) < 4:
            at = rng.randrange(len(data))
            data = data[:at] + rng.randbytes(min(64, len(data) - at)) + data[at + 64:]
        else:
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(lines))
                change = rng.choice(["replace", "insert", "delete"])
                if change == "delete":
                    lines[at] = b""
                else:
                    new = b"revised %d: " % rng.randrange(10**9) + rng.choice(lines)
                    lines[at] = new if change == "replace" else new + lines[at]
            data = b"".join(lines)
        file.seek(0)
        file.write(data)
        file.truncate()


def edit_tree(tree, number=None):
    """Makes v2, or, with a number, one of any further states (in which nothing moves)."""
    rng = random.Random(f"backstay tree {number or 'v2'}")
    files = [(path, size) for path, size in regular_files(tree) if size > 0]
    share = lambda part: round(part * len(files))
    chosen = rng.sample(files, share(EDITED) + share(REMOVED) + share(ADDED))
    edited = chosen[:share(EDITED)]
    removed = chosen[len(edited):len(edited) + share(REMOVED)]
    models = chosen[len(edited) + len(removed):]
    for path, _ in edited:
        edit_file(path, rng)
    for path, _ in removed:
        os.unlink(path)
    # A new file resembles its neighbour but is not its copy: the lines in another order.
    for path, _ in models:
        with open(path, "rb") as model:
            lines = model.read().splitlines(keepends=True)
        rng.shuffle(lines)
        stem, end = os.path.splitext(path)
        with open(f"{stem}-new{number or ''}{end}", "xb") as new:
            new.write(b"".join(lines))
    if not number:
        os.rename(*(os.path.join(tree, end) for end in MOVED))


def extents(total_pages, rng):
    """EXTENTS disjoint extents, on page bounds, of 4 KiB to about half a MiB, REWRITTEN bytes in all."""
    weights = [rng.expovariate(1) for _ in range(EXTENTS)]
    spare = REWRITTEN // PAGE - EXTENTS
    sizes = [1 + int(spare * weight / sum(weights)) for weight in weights]
    for place in rng.sample(range(EXTENTS), REWRITTEN // PAGE - sum(sizes)):
        sizes[place] += 1
    # The free pages are dealt out between the extents, which keeps those disjoint.
    free = total_pages - sum(sizes)
    gaps = sorted(rng.randrange(free + 1) for _ in range(EXTENTS))
    used = 0
    for gap, size in zip(gaps, sizes):
        yield (gap + used) * PAGE, size * PAGE
        used += size


def edit_image(image, donor, number):
    """Overwrites extents with pieces of real files.

    The donor's first half holds programs, its second half media that is compressed already; drawn
    evenly, the new content shrinks to about 0.65, as what a running machine writes (logs, databases, archives) does.
    Its pieces start at odd offsets, so that no two rewrites bring the same pages.
    """
    rng = random.Random(f"backstay image {number}")
    half = os.path.getsize(donor) // 2
    with open(image, "r+b") as disk, open(donor, "rb") as source:
        for at, size in extents(os.path.getsize(image) // PAGE, rng):
            source.seek(rng.randrange(2) * half + rng.randrange(half - size))
            disk.seek(at)
            disk.write(source.read(size))


def main():
    match sys.argv[1:]:
        case ["random", path, mib]:
            make_random(path, int(mib))
        case ["documents", tree, rows]:
            make_documents(tree, int(rows))
        case ["edit-tree", tree, *number]:
            edit_tree(tree, *number)
        case ["edit-image", image, donor, number]:
            edit_image(image, donor, int(number))
        case _:
            raise SystemExit(__doc__)


main()
