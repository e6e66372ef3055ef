"""What run.py and flat.py share: the contenders, the measuring of one step, the comparing of what came back."""
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import state

HERE = Path(__file__).resolve().parent

# Data sets that are directories; `stream` is two files that go in through standard input.
TREES = ("tree", "pgdata", "vm", "rand")
SETS = ("tree", "pgdata", "vm", "stream", "rand")

# A run is noisy when other programs took more processor time than this share of its wall time, plus a constant
# for what the kernel does in the background and for the coarse clock in /proc/stat.
NOISE_SHARE, NOISE_SECONDS = 0.15, 0.3


class Failed(Exception):
    """A step ended with an error status, or brought back something else than went in."""


class Contender:
    """A backup program with a fresh repository. Encryption is on, everything else as it comes."""

    # Whether mode, owner and time of the saved directory itself come back.
    keeps_root = True

    def __init__(self, work, programs):
        self.work = Path(work)
        self.programs = Path(programs)
        self.repo, self.home, self.cache = self.work / "repo", self.work / "home", self.work / "cache"
        shutil.rmtree(self.work, ignore_errors=True)
        for folder in (self.work, self.home, self.cache):
            folder.mkdir(parents=True)
        # A home of its own, so that nobody's settings or caches have a say.
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LC_ALL": "C.UTF-8", **self.settings()}

    def command(self, program, *arguments):
        return [str(self.programs / program), *map(str, arguments)]

    @classmethod
    def missing(cls, programs):
        return [name for name in cls.needs if not (Path(programs) / name).exists()]

    @classmethod
    def version(cls, programs):
        output = subprocess.run([str(Path(programs) / cls.needs[0]), *cls.asks_version], capture_output=True, text=True)
        return output.stdout.strip().splitlines()[0] if output.stdout.strip() else "unknown"


class Backstay(Contender):
    name, needs, asks_version = "backstay", ("snapshot", "restore"), ("--version",)

    def settings(self):
        return {"BACKSTAY_REPO": str(self.repo), "BACKSTAY_KEY_FILE": str(self.home / "key"),
                "BACKSTAY_CACHE_DIR": str(self.cache)}

    # No peer stores parity.
    parity = "off"

    def init(self):
        return self.command("snapshot", "init", "--parity", self.parity)

    def save(self, path):
        return self.command("snapshot", "save", path)

    def save_stream(self):
        return self.command("snapshot", "save", "--stdin", "dump")

    def restore(self, to):
        # No peer waits until what it restored is on the disk.
        return self.command("restore", "run", "latest", "--to", to, "--no-sync")

    def check(self):
        return self.command("snapshot", "verify", "--level", "full")


class BackstayParity(Backstay):
    """As it comes: with parity beside each pack."""

    name, parity = "backstay-parity", "6"


class Restic(Contender):
    name, needs, asks_version = "restic", ("restic",), ("version",)

    def settings(self):
        return {"RESTIC_REPOSITORY": str(self.repo), "RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": str(self.cache)}

    def init(self):
        return self.command("restic", "init")

    def save(self, path):
        return self.command("restic", "backup", path)

    def save_stream(self):
        return self.command("restic", "backup", "--stdin", "--stdin-filename", "dump")

    def restore(self, to):
        return self.command("restic", "restore", "latest", "--target", to)

    def check(self):
        return self.command("restic", "check", "--read-data")


class Rustic(Contender):
    name, needs, asks_version = "rustic", ("rustic",), ("--version",)
    keeps_root = False

    def settings(self):
        return {"RUSTIC_REPOSITORY": str(self.repo), "RUSTIC_PASSWORD": "benchmark", "RUSTIC_CACHE_DIR": str(self.cache)}

    def init(self):
        return self.command("rustic", "init")

    def save(self, path):
        return self.command("rustic", "backup", path)

    def save_stream(self):
        # Without --force, rustic 0.11.4 stores the first stream's content again, whatever comes in.
        return self.command("rustic", "backup", "--force", "--stdin-filename", "dump", "-")

    def restore(self, to):
        return self.command("rustic", "restore", "latest", to)

    def check(self):
        return self.command("rustic", "check", "--read-data")


class Borg(Contender):
    name, needs, asks_version = "borg", ("borg",), ("--version",)
    compression = "lz4"

    def settings(self):
        self.saved = 0
        return {"BORG_REPO": str(self.repo), "BORG_PASSPHRASE": "benchmark", "BORG_BASE_DIR": str(self.home)}

    def init(self):
        return self.command("borg", "init", "--encryption", "repokey")

    def create(self, *arguments):
        self.saved += 1
        return self.command("borg", "create", "--compression", self.compression, *arguments[:-1],
                            f"::{self.saved}", arguments[-1])

    def save(self, path):
        return self.create(path)

    def save_stream(self):
        return self.create("--stdin-name", "dump", "-")

    def restore(self, to):
        # It has no option for the target: it writes into the current directory.
        return ["sh", "-c", 'cd "$1" && exec "$2" extract "$3"', "sh", str(to), str(self.programs / "borg"),
                f"::{self.saved}"]

    def check(self):
        return self.command("borg", "check", "--verify-data")


class BorgZstd(Borg):
    name, compression = "borg-zstd3", "zstd,3"


CONTENDERS = {kind.name: kind for kind in (Backstay, BackstayParity, Restic, Rustic, Borg, BorgZstd)}


def measure(contender, command, stdin=os.devnull):
    """Runs one step; returns what it took. The page cache holds what the caller read before; dirty pages are gone."""
    os.sync()
    touch_memory("MemFree", 4 << 30)
    result, log = contender.work / "measured.json", contender.work / "log"
    with open(log, "wb") as out:
        subprocess.run([sys.executable, "-I", "-S", str(HERE / "measure.py"), str(result), str(stdin), *command],
                       env=contender.environment, stdout=out, stderr=subprocess.STDOUT, check=True)
    took = json.loads(result.read_text())
    if took.pop("status") != 0:
        raise Failed(f"{' '.join(command)}\n{log.read_text(errors='replace')[-2000:]}")
    took["noisy"] = took["foreign"] > NOISE_SHARE * took["wall"] + NOISE_SECONDS
    return took


def files_below(top):
    for folder, _, names in os.walk(top):
        for name in names:
            yield os.path.join(folder, name)


def read_all(path):
    """Brings a file or a tree into the page cache."""
    buffer = bytearray(1 << 20)
    for name in files_below(path) if os.path.isdir(path) else [path]:
        if stat.S_ISREG(os.lstat(name).st_mode):
            with open(name, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def size_below(top):
    return sum(os.lstat(name).st_size for name in files_below(top))


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def differences(original, restored):
    """What differs between two trees, as (what, path): type, mode, owner, mtime, target of links, size, SHA-256."""
    a, b = os.lstat(original), os.lstat(restored)
    for what in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
        if getattr(a, what) != getattr(b, what):
            yield what, original
    if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
        return
    if stat.S_ISDIR(a.st_mode):
        names = [set(os.listdir(path)) for path in (original, restored)]
        for name in sorted(names[0] ^ names[1]):
            yield "existence", os.path.join(original, name)
        for name in sorted(names[0] & names[1]):
            yield from differences(os.path.join(original, name), os.path.join(restored, name))
    elif stat.S_ISLNK(a.st_mode):
        if os.readlink(original) != os.readlink(restored):
            yield "link's target", original
    elif a.st_size != b.st_size or digest(original) != digest(restored):
        yield "content", original


def restore_and_compare(contender, original, is_stream):
    """Measures the restore of the newest snapshot; fails unless exactly `original` came back."""
    target = contender.work / "restored"
    target.mkdir()
    read_all(contender.repo)
    took = measure(contender, contender.restore(target))
    if is_stream:
        came = list(files_below(target))
        same = len(came) == 1 and digest(came[0]) == digest(original)
        wrong = [] if same else [f"content of {original}, back as {came}"]
    else:
        # All contenders write the absolute path below the target.
        place = target / Path(original).relative_to("/")
        found = differences(original, place) if place.exists() else [("existence", place)]
        wrong = [f"{what} of {path}" for what, path in found
                 if contender.keeps_root or path != original or not what.startswith("st_")]
    shutil.rmtree(target)
    if wrong:
        raise Failed(f"{contender.name}: {len(wrong)} differences in what came back:\n" + "\n".join(wrong[:5]))
    return took


def add_common_options(parser):
    parser.add_argument("--data", type=Path, default=Path("/tmp/bench-data"), help="made by make-data.sh")
    parser.add_argument("--work", type=Path, default=Path("/tmp/bench-work"), help="repositories and restored data")
    parser.add_argument("--peers-bin", type=Path, default=Path("/tmp/bench-peers/bin"), help="made by install-peers.sh")
    parser.add_argument("--backstay-bin", type=Path, default=HERE.parent / "target" / "release")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="raw results, JSON lines (default: WORK/run-DATE.jsonl)")


def touch_memory(figure="MemAvailable", most=1 << 62):
    """Makes the hypervisor give this machine its memory before anything is timed.

    Memory of a virtual machine that was never used, or was given back, costs a fault in the host at its first use:
    the first program that fills the page cache would pay for all that follow (measured: a copy of 1 GiB took 4.3 s
    of system time, repeated 0.4 s). A process of its own takes most of it, so that it is free again afterwards.

    Where the machine reports free pages to its hypervisor they are gone again within seconds, so each step has a part
    of what is free touched anew just before it (a restore of 2 GiB took 0.5 to 2.4 s of system time without that).
    """
    script = ("import mmap, re, sys; "
              "free = int(re.search(sys.argv[1] + ': *([0-9]+)', open('/proc/meminfo').read())[1]) * 1024; "
              "size = min(free * 7 // 10, int(sys.argv[2])) & ~0xFFF; memory = mmap.mmap(-1, size); "
              "[memory.__setitem__(at, 1) for at in range(0, size, 4096)]")
    subprocess.run([sys.executable, "-c", script, figure, str(most)], check=False)


class Bench:
    """One run of a benchmark: its options, its contenders and its file of results."""

    def __init__(self, options, kind):
        self.options = options
        options.data, options.work = options.data.resolve(), options.work.resolve()
        options.work.mkdir(parents=True, exist_ok=True)
        # The live copies change in place: one benchmark at a time.
        self.lock = open(options.data / ".lock", "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another benchmark is using {options.data}") from None
        touch_memory()
        self.contenders = []
        versions = {}
        for name in options.contenders.split(","):
            if name not in CONTENDERS:
                raise SystemExit(f"unknown contender {name}; there are: {', '.join(CONTENDERS)}")
            missing = CONTENDERS[name].missing(self.programs(name))
            if missing:
                print(f"skipped: {name}, for {self.programs(name)} has no {' and no '.join(missing)}", file=sys.stderr)
                continue
            self.contenders.append(name)
            versions[name] = CONTENDERS[name].version(self.programs(name))
        self.out = options.out or options.work / f"{kind}-{time.strftime('%Y%m%dT%H%M%S')}.jsonl"
        self.records = []
        self.failures = 0
        self.record({"kind": kind, "machine": machine(), "versions": versions, "date": time.strftime("%Y-%m-%d")})

    def programs(self, name):
        return self.options.backstay_bin.resolve() if name.startswith("backstay") else self.options.peers_bin.resolve()

    def start(self, name, folder):
        return CONTENDERS[name](self.options.work / folder, self.programs(name))

    def record(self, values):
        self.records.append(values)
        with open(self.out, "a") as out:
            out.write(json.dumps(values) + "\n")

    def fail(self, where, failure):
        self.failures += 1
        self.record({**where, "failed": str(failure)})
        print(f"FAILED: {where}: {failure}", file=sys.stderr)

    def switch(self, name, to):
        """Brings the live copy of a data set into state v1 or v2."""
        delta = self.options.data / "delta" / name
        if delta.exists() and state.current(str(delta)) != to:
            state.apply(str(self.options.data / name), str(delta), to)
            # Programs distrust files that changed a moment ago and read them again, which is not what is measured here.
            time.sleep(2)


def machine():
    with open("/proc/cpuinfo") as info:
        cpu = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} × {cpu}, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"
