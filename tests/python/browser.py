"""A discovery, cells, and pages that look at it in Chromium, for whoever tests the page."""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

SOON = 10.0
DESK = {"width": 1360, "height": 860}


def wait_for(what, condition, at_most=SOON):
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < at_most, f"waited {at_most} s in vain until {what}"
        time.sleep(0.005)
    return time.monotonic() - started


def measured(text):
    print(f"MEASURED {text}", flush=True)


class Program:
    """A program that listens, ended with the test."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.arguments, env={}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"listening on (http://\S+)", line):
                self.url = found[1]
                break
        else:
            raise AssertionError("".join(self.log))
        drain = self.process.stderr.read
        threading.Thread(target=drain, daemon=True).start()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask(self, method, path, body=None, token=None):
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=SOON) as reply:
            return reply.read()

    def register(self, cell_id, port=1, **more):
        facts = {"cell_id": cell_id, "ip": "127.0.0.1", "port": port, **more}
        self.ask("POST", "/register", facts)


class Looked:
    """A page that is looked at, and all that it does which it should not."""

    def __init__(self, context, url):
        self.page = context.new_page()
        self.faults, self.expected = [], []
        self.is_down = False
        own = url + "/"
        self.page.on("console", self.on_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.on_request(request.url, own))
        self.page.goto(own)

    def on_console(self, message):
        # What the browser itself says of a request that has failed.
        is_request = message.text.startswith("Failed to load resource")
        # A peer may leave between two questions.
        has_left = "404" in message.text and "/peers/" in message.location["url"]
        is_known = is_request and (self.is_down or has_left)
        if message.type in ("error", "warning"):
            (self.expected if is_known else self.faults).append(f"console: {message.text}")

    def on_request(self, url, own):
        if not url.startswith((own, "data:")):
            self.faults.append(f"request: {url}")

    def row(self, cell_id):
        return self.page.locator("#rows tr", has=self.page.get_by_role("button", name=cell_id, exact=True))

    def ids(self):
        return self.page.locator("#rows .id").all_inner_texts()

    def is_live(self):
        expect(self.page.locator("#mode")).to_have_text("live")


class Work:
    """What the thread of a page does, by the time of a processor that it takes: others may keep it waiting."""

    SCRIPTS = {"EvaluateScript", "FunctionCall", "BlinkScheduler_PerformMicrotaskCheckpoint"}
    COLLECTIONS = {"MinorGC", "MajorGC"}
    TASK = "ThreadControllerImpl::RunTask"

    def __init__(self, page):
        self.page = page
        self.begin()

    def begin(self):
        self.page.context.browser.start_tracing(page=self.page, categories=["devtools.timeline", "toplevel"])

    def done(self):
        """How long the longest script since the last call has taken, and the longest task, in milliseconds.

        What the browser has collected of its garbage meanwhile is not the script's: it is due when it is due.
        """
        events = json.loads(self.page.context.browser.stop_tracing())["traceEvents"]
        self.begin()
        threads = {(one["pid"], one["tid"]) for one in events if one["name"] in self.SCRIPTS}
        own = [one for one in events if (one["pid"], one["tid"]) in threads and "tdur" in one]
        collections = [one for one in own if one["name"] in self.COLLECTIONS]

        def without(one):
            within = range(one["ts"], one["ts"] + one["dur"])
            mine = [it["tdur"] for it in collections if it["tid"] == one["tid"] and it["ts"] in within]
            return (one["tdur"] - sum(mine)) / 1000

        scripts = [without(one) for one in own if one["name"] in self.SCRIPTS]
        tasks = [one["tdur"] / 1000 for one in own if one["name"] == self.TASK]
        return max(scripts), max(tasks)


class World:
    """What a test has."""

    def __init__(self, browser, discovery, cell, folder):
        self.browser, self.folder = browser, Path(folder)
        self.discovery_path, self.cell_path = discovery, cell
        self.programs, self.all_looked = [], []

    def discovery(self, *flags):
        arguments = [self.discovery_path, "--host", "127.0.0.1", "--port", "0", *flags]
        self.programs.append(Program(arguments))
        return self.programs[-1]

    def cell(self, discovery, cell_id, *flags):
        arguments = [self.cell_path, "--discovery", discovery.url, "--id", cell_id]
        own = ["--host", "127.0.0.1", "--port", "0", "--heartbeat-every", "200ms"]
        self.programs.append(Program([*arguments, *own, *flags]))
        return self.programs[-1]

    def look(self, discovery, viewport=DESK, prepare=None, **more):
        context = self.browser.new_context(viewport=viewport, **more)
        if prepare:
            prepare(context)
        self.all_looked.append(Looked(context, discovery.url))
        return self.all_looked[-1]

    def picture(self, looked, name):
        looked.page.screenshot(path=self.folder / f"{name}.png")

    def end(self):
        for program in self.programs:
            program.kill()
        faults = [fault for looked in self.all_looked for fault in looked.faults]
        assert not faults, faults


def accessible(looked, name):
    """Nothing that axe finds serious."""
    found = Axe().run(looked.page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    told = [(one["id"], one["help"], [node["target"] for node in one["nodes"]][:3]) for one in serious]
    assert not serious, f"{name}: {told}"
    others = ", ".join(one["id"] for one in found)
    measured(f"axe, {name}: nothing serious; other findings: {others or 'none'}")


def run(test, discovery, cell, folder):
    Path(folder).mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            # The tests run as root in a container of their own.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        world = World(browser, discovery, cell, folder)
        try:
            test(world)
        finally:
            world.end()
            browser.close()
