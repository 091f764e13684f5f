"""Holds the edge to its own description, by schemathesis.

    python openapi.py [OPTIONS of `schemathesis run` …]

Every operation of `/openapi.json` is asked with what the description calls right and with
what it calls wrong, with and without a token; every answer must be one that it describes.
Streams are left out: they do not end.
"""

import os
import pathlib
import subprocess
import sys
import sysconfig

import edge


def main():
    schemathesis = pathlib.Path(sysconfig.get_path("scripts")) / "schemathesis"
    with edge.run() as running:
        environment = {
            **os.environ,
            "EDGE_TOKEN": running.token("orders:read", "orders:write"),
            "EDGE_KEY": running.api_key("orders:read"),
            "SCHEMATHESIS_HOOKS": "hooks",
            "PYTHONPATH": str(edge.HERE),
        }
        command = [schemathesis, "--config-file", edge.HERE / "schemathesis.toml", "--no-color"]
        command += ["run", f"{running.url}/openapi.json", "--checks", "all", "--mode", "all"]
        command += ["--generation-deterministic", "--continue-on-failure"]
        command += ["--exclude-path-regex", "^/v1/notes/(events|mine)$"]
        outcome = subprocess.run(command + sys.argv[1:], env=environment, check=False)
        if outcome.returncode:
            print(running.log()[-4000:], file=sys.stderr)
        sys.exit(outcome.returncode)


if __name__ == "__main__":
    main()
