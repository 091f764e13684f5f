"""A running edge to shoot at: `bulla dev` with the routes of `files/`, on free ports.

    python edge.py [--tls]

prints where it is and runs until it is interrupted. Other scripts use it as

    with edge.run(tls=True) as running:
        running.url, running.token("orders:write")

Everything lies in a temporary directory and ends with the script, however that ends.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
FILES = HERE / "files"
#: How long everything may take to be ready, in seconds; a debug build on a busy machine.
PATIENCE = 90


def free_ports(count):
    """Ports that nobody listens on, at the moment."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Edge:
    """What runs, and how it is asked."""

    def __init__(self, program, directory, ports, tls):
        self.program, self.directory, self.tls = program, directory, tls
        self.gateway, self.nats, self.issuer, self.admin, self.page = ports
        self.process = None

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.gateway}"

    @property
    def certificate(self):
        """The certificate's file, which is its own authority."""
        return self.directory / "tls.pem"

    def token(self, *scopes, user="alice"):
        """An access token of the issuer that runs beside it."""
        options = [word for scope in scopes for word in ("--scope", scope)]
        return self.bulla("dev", "token", "--dir", self.directory, "--sub", user, *options)

    def api_key(self, *scopes):
        scope = " ".join(scopes)
        config = ["--config", self.directory / "gateway.toml"]
        said = self.bulla("gateway", "key", "new", "--user", "ci", "--scope", scope, *config)
        return next(word for word in said.split() if word.startswith("bk_"))

    def bulla(self, *arguments):
        command = [self.program, *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def start(self):
        ready = self.directory / "dev.json"
        with open(self.directory / "dev.log", "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "dev", "--dir", self.directory, "--until-stdin-closes"]
                + ["--gateway-port", str(self.gateway), "--nats-port", str(self.nats)]
                + ["--issuer-port", str(self.issuer)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + PATIENCE
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"the edge does not start:\n{self.log()}")
            time.sleep(0.05)

    def stop(self):
        if self.process is None:
            return
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def log(self):
        return (self.directory / "dev.log").read_text(errors="replace")

    def pid(self):
        """The gateway's process."""
        return json.loads((self.directory / "dev.json").read_text())["pids"]["gateway"]

    def configure(self, limits):
        """Adds what `files/` has to what `bulla dev` wrote at its first start."""
        routes = self.directory / "routes.toml"
        places = {
            "@ISSUER@": f"http://127.0.0.1:{self.issuer}",
            "@AUDIENCE@": "https://shop.example",
            "@ADMIN@": str(self.admin),
            "@PAGE@": str(self.page),
        }

        def filled(name):
            text = (FILES / name).read_text()
            for place, value in places.items():
                text = text.replace(place, value)
            return text

        routes.write_text(filled("routes.toml"))
        for schema in FILES.glob("*.json"):
            (self.directory / schema.name).write_text(schema.read_text())
        policy = self.directory / "policy.toml"
        policy.write_text(policy.read_text() + filled("policy.toml"))
        config = self.directory / "gateway.toml"
        text = config.read_text()
        if self.tls:
            self.make_certificate()
            files = 'tls_cert_file = "tls.pem"\ntls_key_file = "tls.key"\n'
            text = text.replace("[listen]\n", f"[listen]\n{files}")
        text = text.replace("[limits]\n", f"[limits]\n{limits}\n")
        config.write_text(text + filled("gateway.toml"))

    def make_certificate(self):
        key = self.directory / "tls.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            + ["-nodes", "-days", "90", "-subj", "/CN=localhost"]
            + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
            + ["-keyout", key, "-out", self.certificate],
            check=True,
            capture_output=True,
        )
        key.chmod(0o600)


@contextlib.contextmanager
def run(tls=False, limits=""):
    """An edge that runs; `limits` are lines of that section of its gateway.toml."""
    target = os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target")
    program = os.environ.get("BULLA", f"{target}/debug/bulla")
    with tempfile.TemporaryDirectory(prefix="bulla-edge-") as directory:
        edge = Edge(program, pathlib.Path(directory), free_ports(5), tls)
        try:
            # The first start writes keys and files, the second takes what was added.
            edge.start()
            edge.stop()
            edge.configure(limits)
            edge.start()
            yield edge
        finally:
            edge.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tls", action="store_true", help="serve HTTPS")
    arguments = parser.parse_args()
    with run(arguments.tls) as edge:
        print(f"url     {edge.url}\nadmin   http://127.0.0.1:{edge.admin}")
        print(f"files   {edge.directory}")
        print(f"token   {edge.token('orders:read', 'orders:write')}")
        print(f"key     {edge.api_key('orders:read')}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            edge.process.wait()


if __name__ == "__main__":
    main()
