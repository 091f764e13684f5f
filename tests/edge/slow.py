"""Slow clients, by slowhttptest, on this machine alone.

    python slow.py [SECONDS]

Three attacks of 400 connections each: heads that never end, bodies that trickle in, and
readers that take their answer in drops. Meanwhile somebody else orders twice a second, and
every order must be answered within a second.
"""

import json
import ssl
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

import edge

CONNECTIONS = 400
#: What slowhttptest is told, by attack.
ATTACKS = {
    "slow heads": ["-H", "-i", "5", "-t", "GET"],
    "slow bodies": ["-B", "-i", "5", "-t", "POST", "-s", "4096", "-x", "24", "-f", "application/json"],
    "slow readers": ["-X", "-w", "10", "-y", "20", "-n", "5", "-z", "8", "-k", "3"],
}
#: Where content is taken from everybody, and where the longest answer is.
PATHS = {
    "slow heads": "/v1/suggestions",
    "slow bodies": "/v1/suggestions",
    "slow readers": "/docs",
}
#: How long the edge waits for each. The attacks last longer.
LIMITS = 'header_timeout = "5s"\nbody_timeout = "5s"\nwrite_timeout = "5s"'


def main():
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    failed = 0
    with edge.run(limits=LIMITS) as running:
        for name, options in ATTACKS.items():
            path = PATHS[name]
            command = ["slowhttptest", *options, "-c", str(CONNECTIONS), "-r", "200"]
            command += ["-l", str(seconds), "-p", "2", "-u", f"{running.url}{path}"]
            attack = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            customer = Customer(running)
            said = attack.communicate()[0]
            times, wrong = customer.stop()
            closed = [line for line in said.splitlines() if "service available" in line]
            available = all("YES" in line for line in closed)
            worst = max(times, default=0)
            good = available and not wrong and worst < 1
            failed += not good
            print(
                f"{'ok     ' if good else 'failed '} {name}: {len(times)} orders meanwhile, middle "
                f"{statistics.median(times or [0]) * 1000:.0f} ms, worst {worst * 1000:.0f} ms, "
                f"{len(wrong)} not made {wrong[:1]}; connections left after it {left(running)}"
            )
    print(f"{len(ATTACKS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def left(running):
    """How many connections the edge has once the attack is over."""
    time.sleep(1)
    with urllib.request.urlopen(f"http://127.0.0.1:{running.admin}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("bulla_gateway_connections "))


class Customer:
    """Orders twice a second, each time over a connection of his own."""

    def __init__(self, running):
        self.running, self.times, self.wrong = running, [], []
        self.token = running.token("orders:write")
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.order)
        self.thread.start()

    def order(self):
        body = json.dumps({"item": "clay", "quantity": 3}).encode()
        while not self.over.wait(0.5):
            request = urllib.request.Request(
                f"{self.running.url}/v1/orders",
                data=body,
                headers={
                    "authorization": f"Bearer {self.token}",
                    "content-type": "application/json",
                },
            )
            began = time.monotonic()
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    assert answer.status == 201
                self.times.append(time.monotonic() - began)
            except (OSError, AssertionError, ssl.SSLError) as error:
                self.wrong.append(str(error))

    def stop(self):
        self.over.set()
        self.thread.join()
        return self.times, self.wrong


if __name__ == "__main__":
    main()
