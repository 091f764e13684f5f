"""The edge in a real browser, Chromium without a screen.

    python browser.py [--pictures DIRECTORY]

The page for people is rendered, complete, fetches nothing and violates no policy; a page of
an origin that `[cors]` names can order, listen by EventSource and by WebSocket, and goes on
where its stream was cut; a page of another origin can do nothing. With `--pictures` what the
page looks like is written there: light, dark, and on a telephone.
"""

import argparse
import functools
import http.server
import json
import os
import pathlib
import sys
import tempfile
import threading
import urllib.request

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

import edge
from relay import Relay

#: (name, width, height, colours)
VIEWS = [
    ("light", 1100, 1400, "light"),
    ("dark", 1100, 1400, "dark"),
    ("telephone", 400, 860, "light"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=pathlib.Path, help="where pictures are written")
    arguments = parser.parse_args()
    checks = [docs_page, allowed_origin, other_origin, event_source, web_socket]
    with edge.run() as running:
        serve_blank_page(running.page)
        driver = browser()
        failed = 0
        try:
            for check in checks:
                try:
                    check(driver, running, arguments.pictures)
                    print(f"ok      {check.__name__}")
                except Exception as error:  # noqa: BLE001: each check is told of
                    failed += 1
                    print(f"failed  {check.__name__}: {error}")
        finally:
            driver.quit()
    print(f"{len(checks) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def browser():
    options = webdriver.ChromeOptions()
    options.add_argument("--headless=new")
    options.add_argument("--disable-gpu")
    options.add_argument("--disable-dev-shm-usage")
    if os.geteuid() == 0:
        # Chromium's own walls do not stand for root; it shows nothing but our own pages.
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    driver.set_script_timeout(20)
    return driver


def serve_blank_page(port):
    """A page of another origin, on which scripts of these checks run."""
    directory = tempfile.mkdtemp(prefix="bulla-page-")
    pathlib.Path(directory, "index.html").write_text("<!doctype html><title>page</title>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=directory)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def console(driver):
    """What the browser complained about since this was asked last."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver):
    """Which URLs it asked for since this was asked last."""
    asked = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    return asked


def docs_page(driver, running, pictures):
    with urllib.request.urlopen(f"{running.url}/openapi.json") as answer:
        description = json.load(answer)
    operations = [o["operationId"] for p in description["paths"].values() for o in p.values()]
    driver.get("about:blank")
    requests(driver), console(driver)
    driver.get(f"{running.url}/docs")
    asked = [url for url in requests(driver) if not url.endswith("/favicon.ico")]
    assert asked == [f"{running.url}/docs"], f"it fetched {asked}"
    assert driver.title == description["info"]["title"], driver.title
    shown = [a.get_attribute("id") for a in driver.find_elements(By.TAG_NAME, "article")]
    assert sorted(shown) == sorted(operations), f"{shown} instead of {operations}"
    for heading in ("operations", "schemas", "problems"):
        assert driver.find_element(By.ID, heading).is_displayed(), heading
    # Its style is in force, which the policy allows by its digest.
    method = driver.find_element(By.CSS_SELECTOR, ".method.post")
    colour = method.value_of_css_property("background-color")
    assert colour not in ("rgba(0, 0, 0, 0)", "transparent"), "it has no style"
    for link in driver.find_elements(By.CSS_SELECTOR, "a[href^='#']"):
        anchor = link.get_attribute("href").split("#")[1]
        assert driver.find_elements(By.ID, anchor), f"a link leads to #{anchor}, which is not there"
    for name, width, height, colours in VIEWS:
        emulate(driver, width, height, colours)
        wide = driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, f"{name}: {wide} wide, so one has to scroll sideways"
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            driver.save_screenshot(str(pictures / f"docs-{name}.png"))
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    complaints = console(driver)
    assert not complaints, complaints


def emulate(driver, width, height, colours):
    view = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
    feature = {"name": "prefers-color-scheme", "value": colours}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


ORDER = """
const [url, token, done] = arguments;
fetch(url + '/v1/orders', {method: 'POST', body: JSON.stringify({item: 'clay', quantity: 3}),
    headers: {authorization: 'Bearer ' + token, 'content-type': 'application/json'}})
  .then(async answer => done({status: answer.status, location: answer.headers.get('location'),
    id: answer.headers.get('ratelimit'), order: await answer.json()}))
  .catch(error => done({error: String(error)}));
"""


def allowed_origin(driver, running, _):
    driver.get(f"http://127.0.0.1:{running.page}/")
    said = driver.execute_async_script(ORDER, running.url, running.token("orders:write"))
    assert said.get("status") == 201, said
    assert said["location"] == f"/v1/orders/{said['order']['id']}", said


def other_origin(driver, running, _):
    """The same page under another name: its answer is not for it to read."""
    driver.get(f"http://localhost:{running.page}/")
    console(driver)
    said = driver.execute_async_script(ORDER, running.url, running.token("orders:write"))
    assert "error" in said, said
    assert any("CORS" in complaint for complaint in console(driver))


LISTEN = """
const [url, done] = arguments;
window.heard = [];
window.source = new EventSource(url);
source.onmessage = event => heard.push([event.data, event.lastEventId]);
source.onopen = () => { if (!window.began) { window.began = true; done('open'); } };
"""
NOTE = """
const [url, token, text, done] = arguments;
fetch(url + '/v1/notes', {method: 'POST', body: JSON.stringify({text}),
    headers: {authorization: 'Bearer ' + token, 'content-type': 'application/json',
              'idempotency-key': crypto.randomUUID()}})
  .then(answer => done(answer.status)).catch(error => done(String(error)));
"""
HEARD = """
const [count, done] = arguments;
const timer = setInterval(() => {
  if (heard.length >= count) { clearInterval(timer); done(heard); } }, 50);
"""


def event_source(driver, running, _):
    """What is said while its cable is cut comes when it is back, and nothing twice."""
    driver.get(f"http://127.0.0.1:{running.page}/")
    token = running.token("orders:write")
    cable = Relay(running.gateway)
    events = f"http://127.0.0.1:{cable.port}/v1/notes/events"
    assert driver.execute_async_script(LISTEN, events) == "open"
    note = functools.partial(driver.execute_async_script, NOTE, running.url, token)
    assert note("one") == 202
    assert len(driver.execute_async_script(HEARD, 1)) == 1
    cable.cut()
    assert note("two") == 202
    heard = driver.execute_async_script(HEARD, 2)
    assert note("three") == 202
    heard = driver.execute_async_script(HEARD, 3)
    texts = [json.loads(data)["text"] for data, _ in heard]
    numbers = [int(number) for _, number in heard]
    assert texts == ["one", "two", "three"], heard
    assert numbers == sorted(set(numbers)), heard
    driver.execute_script("source.close()")


SOCKET = """
const [url, token, done] = arguments;
window.heard = [];
const socket = new WebSocket(url, ['events', 'bearer.' + token]);
socket.onmessage = event => heard.push([event.data, '']);
socket.onopen = () => done(socket.protocol);
socket.onclose = event => done('closed ' + event.code);
"""


def web_socket(driver, running, _):
    driver.get(f"http://127.0.0.1:{running.page}/")
    token = running.token("orders:write")
    url = f"ws://127.0.0.1:{running.gateway}/v1/notes/mine"
    assert driver.execute_async_script(SOCKET, url, "a.b.c").startswith("closed")
    said = driver.execute_async_script(SOCKET, url, token)
    assert said == "events", said
    assert driver.execute_async_script(NOTE, running.url, token, "four") == 202
    heard = driver.execute_async_script(HEARD, 1)
    assert json.loads(heard[0][0]) == {"text": "four"}, heard
    # Another origin may not listen, token or not.
    driver.get(f"http://localhost:{running.page}/")
    assert driver.execute_async_script(SOCKET, url, token).startswith("closed")


if __name__ == "__main__":
    main()
