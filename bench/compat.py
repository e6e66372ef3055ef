#!/usr/bin/env python3
"""Does Backstay work with S3 servers of others? See README.md.

Each server is started by itself on a free port in a folder of its own, a repository is made in it, and everything that
touches a bucket is done there: the check of a tier, saves (one killed, two at once), forget, prune, verification, copies
there and back, restores that are compared. A step that fails is said with what it wrote; the run then ends with 1.
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

MOTO_SETUP = """
import sys, boto3
client = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1",
                      aws_access_key_id="key", aws_secret_access_key="secret")
client.create_bucket(Bucket="plain")
client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
"""

# Every current version that is locked for less than so many hours.
MOTO_UNLOCKED = """
import sys, datetime, boto3
client = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1",
                      aws_access_key_id="key", aws_secret_access_key="secret")
wanted = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=float(sys.argv[2]))
seen = 0
for page in client.get_paginator("list_objects_v2").paginate(Bucket="locked"):
    for one in page.get("Contents", []):
        if one["Key"].endswith(".backstay-create"):
            continue
        seen += 1
        try:
            # moto 5.2 answers the question for a retention with an error of its own.
            told = client.head_object(Bucket="locked", Key=one["Key"]).get("ObjectLockRetainUntilDate")
            short = told is None or told < wanted
        except client.exceptions.ClientError as error:
            short = str(error)
        if short:
            print(one["Key"], short)
print(seen, "objects")
sys.exit(0 if seen else 1)
"""


class Failed(Exception):
    pass


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(port, process, log):
    for _ in range(300):
        if process.poll() is not None:
            break
        with socket.socket() as sock:
            sock.settimeout(1)
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise Failed(f"the server does not answer: {pathlib.Path(log).read_text()[-2000:]}")


class Server:
    """A server that is there as long as this is."""

    def __init__(self, name, args, folder):
        self.name, self.folder, self.process = name, folder, None
        self.credentials, self.options = {}, ""
        folder.mkdir()
        self.log = folder / "log"
        getattr(self, f"start_{name}")(args)

    def run(self, command, port, env=None):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=self.folder, start_new_session=True)
        wait_for(port, self.process, self.log)

    def start_moto(self, args):
        self.python = args.moto
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        self.run([args.moto, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port)
        subprocess.run([args.moto, "-c", MOTO_SETUP, self.endpoint], check=True)
        self.bucket, self.locked = "plain", "locked"
        self.credentials = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}

    def start_garage(self, args):
        port, rpc = free_port(), free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        (self.folder / "garage.toml").write_text(
            f'metadata_dir = "{self.folder}/meta"\ndata_dir = "{self.folder}/data"\ndb_engine = "sqlite"\n'
            f'replication_factor = 1\nrpc_bind_addr = "127.0.0.1:{rpc}"\nrpc_secret = "{secrets.token_hex(32)}"\n'
            f'[s3_api]\ns3_region = "garage"\napi_bind_addr = "127.0.0.1:{port}"\n'
        )
        key, secret = "GK" + secrets.token_hex(12), secrets.token_hex(32)
        env = dict(os.environ, GARAGE_DEFAULT_ACCESS_KEY=key, GARAGE_DEFAULT_SECRET_KEY=secret, GARAGE_DEFAULT_BUCKET="plain")
        self.run([args.garage, "-c", "garage.toml", "server", "--single-node", "--default-bucket"], port, env)
        self.bucket, self.locked, self.options = "plain", None, "&region=garage"
        self.credentials = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}

    def stop(self):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)


def fill(folder, seed):
    """Some folders of small files, one of them larger than a pack."""
    dice = random.Random(seed)
    for number in range(400):
        path = folder / f"{number % 7}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(dice.randrange(1, 30_000)))
    (folder / "large").write_bytes(dice.randbytes(40 << 20))
    (folder / "zeros").write_bytes(bytes(5 << 20))


def sums(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }


class Trial:
    def __init__(self, server, args, folder):
        self.server, self.args, self.folder = server, args, folder
        home = folder / "home"
        home.mkdir(parents=True)
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), **server.credentials}
        self.data = folder / "data"
        fill(self.data, 1)
        self.failed = []

    def location(self, prefix, bucket=None, more=""):
        bucket = bucket or self.server.bucket
        return f"s3://{bucket}/{prefix}?endpoint={self.server.endpoint}{self.server.options}{more}"

    def command(self, program, *words, repo):
        return [str(getattr(self.args, program)), *map(str, words), "-r", repo]

    def run(self, program, *words, repo, code=0):
        done = subprocess.run(self.command(program, *words, repo=repo), env=self.env, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != code:
            raise Failed(f"{program} {' '.join(map(str, words))} ended with {done.returncode} and not {code}:\n{done.stdout}{done.stderr}")
        return done

    def lines(self, done, kind):
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return [line for line in found if line["type"] == kind]

    def comes_back(self, repo, wanted):
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        self.run("restore", "run", f"latest:{self.data}", "--to", out, repo=repo)
        found = sums(out)
        if found != wanted:
            raise Failed(f"{len(found)} files came back, {len(wanted)} were saved, or their content differs")

    def step(self, name, work):
        begun = time.monotonic()
        try:
            told = work() or ""
            word = "ok"
        except (Failed, subprocess.CalledProcessError, KeyError, IndexError) as error:
            told, word = str(error), "FAILED"
            self.failed.append(name)
        print(f"{self.server.name:8} {word:6} {time.monotonic() - begun:6.1f} s  {name}  {told}", flush=True)

    def all(self):
        repo = self.location("one")
        for name in ("check_tier", "save", "unchanged", "killed", "together", "collect", "there_and_back", "what_is_wrong"):
            self.step(name.replace("_", " "), lambda: getattr(self, name)(repo))
        if self.server.locked:
            self.step("locks", self.locks)

    def check_tier(self, repo):
        told = self.lines(self.run("snapshot", "check-tier", "--json", repo=repo), "tier")[0]
        return f"{told['passed']} passed, {told['failed']} failed, {told['not_supported']} not supported; atomic_create {told['atomic_create']}"

    def save(self, repo):
        self.run("snapshot", "init", "--recovery-sheet", self.folder / "sheet", repo=repo)
        told = self.lines(self.run("snapshot", "save", "--json", self.data, repo=repo), "traffic")[0]
        self.comes_back(repo, sums(self.data))
        return f"{told['puts']} puts"

    def unchanged(self, repo):
        told = []
        for _ in range(2):
            traffic = self.lines(self.run("snapshot", "save", "--json", self.data, repo=repo), "traffic")[0]
            kinds = {kind: traffic[kind] for kind in ("puts", "lists", "heads", "gets", "deletes", "others") if traffic[kind]}
            told.append(f"{sum(kinds.values())} requests ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})")
        return ", then ".join(told)

    def killed(self, repo):
        fill(self.data, 2)
        process = subprocess.Popen(self.command("snapshot", "save", self.data, repo=repo), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.4)
        process.kill()
        process.wait()
        self.run("snapshot", "save", self.data, repo=repo)
        self.comes_back(repo, sums(self.data))

    def together(self, repo):
        saves = [
            subprocess.Popen(self.command("snapshot", "save", self.data, "--name", name, "--cache-dir", self.folder / name, repo=repo), env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for name in ("a", "b")
        ]
        told = [(save.communicate()[0], save.returncode) for save in saves]
        if any(code for _, code in told):
            raise Failed(str(told))

    def collect(self, repo):
        self.run("snapshot", "forget", "--keep-last", "1", repo=repo)
        told = self.lines(self.run("snapshot", "prune", "--json", "--revoke-after", "0", "--max-unused", "0", repo=repo), "pruned")[0]
        self.run("snapshot", "verify", "--level", "full", repo=repo)
        self.comes_back(repo, sums(self.data))
        return f"{told['deleted_packs']} packs deleted"

    def there_and_back(self, repo):
        local = str(self.folder / "copy")
        self.run("snapshot", "copy", "--to", local, repo=repo)
        # The key of a place is found by its location, and these are others.
        key = next((self.folder / "home/.config/backstay/keys").glob("*.key"))
        self.env = {**self.env, "BACKSTAY_KEY_FILE": str(key)}
        again = self.location("again")
        self.run("snapshot", "copy", "--to", again, repo=local)
        self.run("snapshot", "verify", "--level", "full", repo=again)
        self.comes_back(again, sums(self.data))
        del self.env["BACKSTAY_KEY_FILE"]

    def what_is_wrong(self, repo):
        """What is wrong is told, with the codes that the pages name."""
        env, told = self.env, []
        for name, change, place, codes in (
            ("no bucket", {}, self.location("one", bucket="not-there"), (1, 2, 10)),
            ("wrong secret", {"AWS_SECRET_ACCESS_KEY": "0" * 64}, repo, (0, 1)),
            ("no repository", {}, self.location("nothing"), (10,)),
        ):
            self.env = {**env, **change}
            done = subprocess.run(self.command("snapshot", "list", repo=place), env=self.env, capture_output=True, text=True)
            self.env = env
            if done.returncode not in codes:
                raise Failed(f"{name}: ended with {done.returncode}\n{done.stdout}{done.stderr}")
            told.append(f"{name}: {done.returncode}")
        return ", ".join(told)

    def locks(self):
        short = self.location("vault", self.server.locked, "&object_lock=1d")
        long = self.location("vault", self.server.locked, "&object_lock=3d")
        self.run("snapshot", "save", self.data, repo=short)
        first = self.lines(self.run("snapshot", "prune", "--json", repo=short), "pruned")[0]
        again = self.lines(self.run("snapshot", "prune", "--json", repo=short), "pruned")[0]
        if not first["locked_objects"] or again["locked_objects"]:
            raise Failed(f"{first} {again}")
        self.lines(self.run("snapshot", "prune", "--json", repo=long), "pruned")
        found = subprocess.run([self.server.python, "-c", MOTO_UNLOCKED, self.server.endpoint, "71"], capture_output=True, text=True, check=True)
        short_lived = found.stdout.splitlines()
        if len(short_lived) != 1:
            raise Failed(f"locked for too short a time: {found.stdout}")
        self.run("snapshot", "verify", "--level", "full", repo=long)
        return f"{first['locked_objects']} objects locked, then all for longer"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", default=["moto", "garage"], metavar="moto|garage", help="which (default: both)")
    parser.add_argument("--snapshot", type=pathlib.Path, default=ROOT / "target/release/snapshot")
    parser.add_argument("--restore", type=pathlib.Path, default=ROOT / "target/release/restore")
    parser.add_argument("--moto", default=sys.executable, metavar="PYTHON", help="a Python that has moto[server] and boto3")
    parser.add_argument("--garage", default="garage", metavar="FILE", help="the program `garage`")
    parser.add_argument("--work", type=pathlib.Path, help="where everything is made and removed again (default: in /tmp)")
    args = parser.parse_args()
    failed = []
    for name in args.servers:
        if name not in ("moto", "garage"):
            parser.error(f"there is no server {name!r}")
        with tempfile.TemporaryDirectory(dir=args.work) as folder:
            folder = pathlib.Path(folder)
            server = None
            try:
                server = Server(name, args, folder / "server")
                trial = Trial(server, args, folder / "trial")
                trial.all()
                failed += [f"{name}: {step}" for step in trial.failed]
            except (Failed, OSError, subprocess.CalledProcessError) as error:
                print(f"{name:8} FAILED {error}", flush=True)
                failed.append(name)
            finally:
                if server:
                    server.stop()
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
