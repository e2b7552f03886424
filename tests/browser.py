"""A browser to test pages in: headless Chromium, driven by the DevTools protocol over two pipes."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name leads anywhere
)
PATIENCE = 60.0  # seconds


def find_browser():
    """Return the path of a browser that can be driven, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One tab of a browser. Use it in a ``with``; what went wrong in the page is in `errors`."""

    def __init__(self, program, profile):
        command_end, commands = os.pipe()
        self.answers, answer_end = os.pipe()
        self.commands, self.rest, self.count = commands, b"", 0
        self.errors, self.requests, self.events = [], [], []
        call = (
            f"exec {program} {' '.join(map(quoted, OPTIONS))} --user-data-dir={quoted(profile)} about:blank"
        )
        self.process = subprocess.Popen(
            ["sh", "-c", f"{call} 3</dev/fd/{command_end} 4>/dev/fd/{answer_end}"],
            pass_fds=(command_end, answer_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_end)
        os.close(answer_end)
        self.session = None
        (tab,) = (each for each in self.send("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.commands)  # ends it
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.answers)

    # -- the protocol ------------------------------------------------------------------------------

    def send(self, method, **params):
        """Send a command and return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.count:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def receive(self, seconds=PATIENCE):
        """Return the next message, and note what is wrong in the page."""
        until = time.monotonic() + seconds
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answers], [], [], max(0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self.answers, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params"))
        return message

    def _note(self, method, params):
        self.events.append(method)
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"].get("exception", {}).get("description", "?"))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    # -- what a user does --------------------------------------------------------------------------

    def open(self, path, fragment=""):
        """Open a file from the disk, anew."""
        for address in ("about:blank", path.resolve().as_uri() + fragment):
            for noted in (self.errors, self.requests, self.events):
                noted.clear()
            self.send("Page.navigate", url=address)
            while "Page.loadEventFired" not in self.events:
                self.receive()

    def run(self, expression):
        """Return what an expression of JavaScript gives in the page, which may be a promise."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self):
        """Wait until what was asked for is on the screen."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def wait(self, expression):
        """Wait until an expression of JavaScript is true in the page, and is on the screen."""
        self.run(
            f"new Promise((done) => {{ const look = () => (({expression}) ? done() : setTimeout(look, 20)); "
            "look(); })"
        )
        self.settle()

    def size(self, width, height=900, dark=False):
        """Set the size of the window, and whether its user likes dark pages."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def centre_of(self, selector):
        """Scroll an element into view; return the middle of it on the screen."""
        x, y, width, height = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect(); "
            "return [b.x, b.y, b.width, b.height]; })()"
        )
        return x + width / 2, y + height / 2

    def mouse(self, kind, x, y):
        """Send one event of the mouse: mousePressed, mouseMoved or mouseReleased."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def click(self, selector):
        x, y = self.centre_of(selector)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)
        self.settle()

    def drag(self, points):
        """Press the mouse at the first of some points, and release it at the last."""
        self.mouse("mousePressed", *points[0])
        for point in points[1:]:
            self.mouse("mouseMoved", *point)
        self.mouse("mouseReleased", *points[-1])
        self.settle()

    def touch(self, points):
        """Draw a finger over some points."""
        for k, (x, y) in enumerate(points):
            kind = "touchMove" if k else "touchStart"
            self.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.settle()

    def press(self, *keys):
        """Press and release keys, by their names in JavaScript."""
        for key in keys:
            code = KEY_CODES[key]
            text = {"text": key} if len(key) == 1 else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.settle()

    def choose_file(self, selector, path):
        """Choose a file for an input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, path):
        """Write the whole page as PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {**size, "x": 0, "y": 0, "scale": 1}
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))


KEY_CODES = {" ": 32, "Tab": 9, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def quoted(text):
    """Return a text as one word of the shell."""
    return "'" + str(text).replace("'", "'\\''") + "'"
