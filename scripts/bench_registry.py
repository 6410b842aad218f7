"""Rows of scripts/bench about registries: transfers beside skopeo, caches beside buildah. Imported by it.

docker-registry runs on a free port of loopback. Both programs talk to the same one, and each upload goes into an empty
one: what a registry has already would not be sent.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import zlib
from io import BytesIO

# Bytes of the layers of each of two platforms: 1 GB in all.
LAYERS = [200_000_000, 150_000_000, 100_000_000, 40_000_000, 10_000_000]


class Registry:
    """docker-registry, with its data in a directory of the bench."""

    def __init__(self, bench, name):
        self.data = bench.mkdir(name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        config = bench.work / f"{name}.yml"
        config.write_text(
            f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {self.data}\n"
            f"http:\n  addr: {self.host}\n")
        self.config, self.process = config, None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["docker-registry", "serve", str(self.config)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "OTEL_TRACES_EXPORTER": "none"})
        host, port = self.host.split(":")
        for _ in range(1000):
            with socket.socket() as client:
                if client.connect_ex((host, int(port))) == 0:
                    return
            time.sleep(0.01)
        raise SystemExit("docker-registry does not listen")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def clear(self):
        """Empties it. What it knows of blobs is in its memory too, so it starts anew."""
        self.stop()
        shutil.rmtree(self.data)
        self.data.mkdir()
        self.start()


class Layout:
    """Writes an OCI layout of images with random files: their bytes cost a registry what any cost."""

    def __init__(self, path):
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, media_type, data):
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def document(self, kind, value):
        return self.blob(f"application/vnd.oci.image.{kind}.v1+json", json.dumps(value).encode())

    def image(self, architecture, sizes):
        layers, diff_ids = [], []
        for number, size in enumerate(sizes):
            buffer = BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                entry = tarfile.TarInfo(f"layer{number}")
                entry.size = size
                tar.addfile(entry, BytesIO(os.urandom(size)))
            data = buffer.getvalue()
            diff_ids.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
            packer = zlib.compressobj(0, wbits=31)
            layers.append(self.blob("application/vnd.oci.image.layer.v1.tar+gzip", packer.compress(data) + packer.flush()))
        config = {"architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": self.document("config", config), "layers": layers}
        return {**self.document("manifest", manifest), "platform": {"os": "linux", "architecture": architecture}}

    def index(self, manifests):
        return self.document("index", {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})

    def finish(self, **tags):
        entries = [{**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}} for tag, descriptor in tags.items()]
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))


def transfers(bench, registry, skopeo):
    """Push, pull and copy of 1 GB, and a copy of 10 MB."""
    layout = Layout(bench.work / "gigabyte")
    layout.finish(
        big=layout.index([layout.image(name, LAYERS) for name in ("amd64", "arm64")]),
        small=layout.index([layout.image(name, [4_000_000, 1_000_000]) for name in ("amd64", "arm64")]))
    bench.own(layout.path)
    source, remote, target = f"oci:{layout.path}:big", f"docker://{registry.host}/bench/a:1", bench.work / "run/pulled"
    by_skopeo = ["copy", "--quiet", "--all", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]

    def clear():
        shutil.rmtree(target, ignore_errors=True)

    def ours(*arguments):
        return bench.median(lambda: bench.run([bench.lapstrake, *arguments]), registry.clear)

    push = ours("copy", "--quiet", source, remote)
    rivals = {}
    if skopeo:
        push_rival = bench.median(lambda: bench.run([skopeo, *by_skopeo[:4], "--dest-tls-verify=false", source, remote]), registry.clear)
        rivals["skopeo"] = push_rival
    bench.row("push of a 1 GB image of two platforms over loopback", push, "skopeo / 2, ≤ 100 MiB", **rivals)
    registry.clear()
    bench.run([bench.lapstrake, "copy", "--quiet", source, remote])
    pull = bench.median(lambda: bench.run([bench.lapstrake, "copy", "--quiet", remote, f"oci:{target}:1"]), clear)
    if skopeo:
        rivals["skopeo"] = bench.median(lambda: bench.run([skopeo, *by_skopeo[:4], "--src-tls-verify=false", remote, f"oci:{target}:1"]), clear)
    bench.row("pull of it into an OCI layout", pull, "skopeo / 2, ≤ 100 MiB", **rivals)
    clear()
    numbers = iter(range(1_000_000))
    bench.run([bench.lapstrake, "copy", "--quiet", f"oci:{layout.path}:small", f"docker://{registry.host}/bench/small:1"])
    for name, text in (("small", "10 MB"), ("a", "1 GB")):
        origin = f"docker://{registry.host}/bench/{name}:1"
        again = bench.median(lambda: bench.run([bench.lapstrake, "copy", "--quiet", origin, f"docker://{registry.host}/bench/n{next(numbers)}:1"]))
        rivals = {}
        if skopeo:
            rivals["skopeo"] = bench.median(lambda: bench.run([skopeo, *by_skopeo, origin, f"docker://{registry.host}/bench/n{next(numbers)}:1"]))
        bench.row(f"copy of {text} between two repositories of one registry", again, "does not grow", **rivals)
    shutil.rmtree(layout.path)


def indexes(bench):
    """An index of five entries, on a layout."""
    layout = Layout(bench.work / "singles")
    names = ["amd64", "arm64", "s390x", "ppc64le", "riscv64"]
    layout.finish(**{name: layout.image(name, [1000]) for name in names})
    bench.own(layout.path)
    sources = [f"oci:{layout.path}:{name}" for name in names]
    ours = bench.median(lambda: bench.run([bench.lapstrake, "index", "create", f"oci:{layout.path}:all", *sources]))
    bench.row("index create of 5 entries on a layout", ours, "≤ 0.02 s, ≤ 100 MiB")


def caches(bench, registry):
    """A rebuild from a registry cache where the store is empty."""
    context = bench.mkdir("cached")
    lines = ["FROM base"] + [f"RUN head -c 4000000 /dev/urandom > /file-{n}" for n in range(10)]
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")
    bench.own(context)
    out, store = bench.work / "run/cached-out", bench.work / "run/cached-store"
    place = f"type=registry,ref={registry.host}/bench/cache"

    def clear():
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(store, ignore_errors=True)

    def build(*arguments):
        return bench.run([
            bench.lapstrake, "build", "--progress", "plain", "--build-context", f"base=oci-layout://{bench.work}/base:latest",
            "-o", out, *arguments, context], LAPSTRAKE_ROOT=str(store))

    clear()
    build("--cache-to", f"{place},mode=max")
    ours = bench.median(lambda: build("--cache-from", place), clear)
    rivals, note = {}, ""
    if bench.buildah:
        repository = f"{registry.host}/bench/buildah"
        driver = bench.storage[-1]
        storage = ["--root", str(bench.work / "run/fresh"), "--runroot", str(bench.work / "run/fresh-run"), "--storage-driver", driver]

        def fresh():
            # Its files belong to ids of the range: it removes them itself.
            bench.run([bench.buildah, *storage, "rmi", "--all", "--force"])
            # What the name of the base stands for is not part of what is measured.
            bench.run([bench.buildah, *storage, "pull", "--quiet", f"oci:{bench.work}/base:latest"])
            identity = (bench.work / "log").read_text().split()[-1]
            bench.run([bench.buildah, *storage, "tag", identity, "localhost/base"])

        def rival(*arguments):
            built = bench.run([
                bench.buildah, *storage, "build", "--quiet", "--layers", "--isolation", "chroot", "--tls-verify=false",
                "--build-context", "base=container-image://localhost/base", *arguments, "-t", "localhost/bench", context])
            return built

        try:
            fresh()
            rival("--cache-to", repository)
            rivals["buildah"] = bench.median(lambda: rival("--cache-from", repository), fresh)
        except SystemExit as error:
            note = f" ({bench.buildah_name} cannot: {str(error).strip().splitlines()[-1][:120]})"
    bench.row(f"rebuild of 10 RUN steps from a registry cache in an empty store{note}", ours, "buildah / 3", **rivals)
    clear()


def explained(bench):
    """What --explain costs, where nothing runs and where all does."""
    context = bench.steps_context("explained", 20)
    out = bench.mkdir("out")
    bench.build(context, "-o", out)
    plain = bench.median(lambda: bench.build(context, "-o", out))
    ours = bench.median(lambda: bench.build(context, "--explain", "-o", out))
    bench.row(f"no-op rebuild of 20 RUN steps with --explain (without: {plain.wall:.3f} s)", ours, f"≤ {plain.wall + 0.01:.3f} s")
    numbers = iter(range(1_000_000))

    def change():
        lines = ["FROM base"] + [f"RUN echo {index} {next(numbers)} > /file-{index}" for index in range(20)]
        (context / "Dockerfile").write_text("\n".join(lines) + "\n")

    plain = bench.median(lambda: bench.build(context, "-o", out), change)
    ours = bench.median(lambda: bench.build(context, "--explain", "-o", out), change)
    bench.row(f"20 changed RUN steps with --explain (without: {plain.wall:.3f} s)", ours, f"≤ {plain.wall * 1.05 + 0.01:.3f} s")


def rows(bench):
    if bench.wanted("registry") or bench.wanted("caches"):
        if not shutil.which("docker-registry"):
            print("docker-registry is not installed: no rows about registries", flush=True)
        else:
            registry = Registry(bench, "registry")
            try:
                if bench.wanted("registry"):
                    transfers(bench, registry, None if bench.alone else shutil.which("skopeo"))
                if bench.wanted("caches"):
                    caches(bench, registry)
            finally:
                registry.stop()
    if bench.wanted("index"):
        indexes(bench)
    if bench.wanted("explain"):
        explained(bench)
