"""A headless Chromium that is driven through its DevTools protocol, as the tests of the report need it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from websockets.sync.client import connect

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
SECONDS = 60.0


class Page:
    """A page of the browser: what it logs and requests is kept."""

    def __init__(self, socket, session):
        self._socket, self._session, self._number = socket, session, 0
        self.requests, self.complaints, self._loaded = [], [], 0

    def send(self, method, **params):
        """Send a command and wait for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, "sessionId": self._session}
        self._socket.send(json.dumps(message))
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self):
        message = json.loads(self._socket.recv(timeout=SECONDS))
        event, params = message.get("method"), message.get("params", {})
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self.complaints.append(str(params["args"]))
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        elif event == "Page.loadEventFired":
            self._loaded += 1
        return message

    def open(self, path, width, height=900, mobile=False):
        """Load a file in a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        before = self._loaded
        self.send("Page.navigate", url=Path(path).resolve().as_uri())
        while self._loaded == before:
            self._receive()
        self.evaluate("Promise.all([...document.images].map(image => image.decode()))")

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self):
        """The whole page as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def print(self):
        """The page as PDF, on A4."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True, "printBackground": False}
        return base64.b64decode(self.send("Page.printToPDF", **size)["data"])


@contextmanager
def browsing():
    """A new page of a new browser, which is ended by its process group."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"]
        command = [CHROMIUM, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        process = subprocess.Popen(command, **quiet)
        try:
            with connect(_address(process, Path(profile)), max_size=None, proxy=None) as socket:
                page = _new_page(socket)
                page.process = process
                yield page
        finally:
            os.killpg(process.pid, 9)
            process.wait()


def _address(process, profile):
    """Where the browser listens: it writes a port and a path once it does."""
    file, end = profile / "DevToolsActivePort", time.monotonic() + SECONDS
    while not (file.exists() and file.read_text().count("\n")):
        assert process.poll() is None, "the browser ended"
        assert time.monotonic() < end, "the browser did not start"
        time.sleep(0.05)
    port, path = file.read_text().split("\n")
    return f"ws://127.0.0.1:{port}{path}"


def _new_page(socket):
    root = Page(socket, None)
    socket.send(json.dumps({"id": 0, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
    target = _answer(root)["targetId"]
    params = {"targetId": target, "flatten": True}
    socket.send(json.dumps({"id": 0, "method": "Target.attachToTarget", "params": params}))
    page = Page(socket, _answer(root)["sessionId"])
    for domain in ("Page", "Network", "Log", "Runtime"):
        page.send(f"{domain}.enable")
    return page


def _answer(page):
    while True:
        message = page._receive()
        if message.get("id") == 0:
            return message["result"]
