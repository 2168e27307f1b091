"""A headless Chromium that tests steer through its debugging pipe: no driver, no socket."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.patience import patience
from tests.services.packages import Installed, install

PROGRAM = "chromium"
_TIMEOUT_S = 60.0
# Where Chromium reads commands and writes replies with --remote-debugging-pipe.
_COMMANDS, _REPLIES = 3, 4


def install_chromium() -> Installed:
    """Install Chromium where it is missing and that is allowed."""
    return install(["chromium", "fonts-dejavu-core"], [PROGRAM])


class Chromium:
    """A browser with a fresh profile in ``folder``, started on entering."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._unread = b""
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        # High numbers, so that none of them is one of the two that Chromium expects.
        commands, self._commands = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in os.pipe())
        self._replies, replies = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in os.pipe())

        def as_expected() -> None:
            os.dup2(commands, _COMMANDS)
            os.dup2(replies, _REPLIES)

        self._process = subprocess.Popen(
            [
                PROGRAM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                f"--user-data-dir={self._folder}",
                "--remote-debugging-pipe",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=as_expected,
            pass_fds=(_COMMANDS, _REPLIES),
        )
        os.close(commands)
        os.close(replies)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(patience(_TIMEOUT_S))
        os.close(self._commands)
        os.close(self._replies)

    def open(self, path: Path, *, width: int, height: int, dark: bool) -> Tab:
        """Load a file in a tab of its own, as a screen of that size shows it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", features=[scheme])
        tab.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for(lambda event: event["method"] == "Page.loadEventFired", session)
        return tab

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        number = self._number
        command = {"id": number, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._events.append(message)

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], session: str) -> None:
        """Read events until one of the session is wanted."""
        while not any(wanted(event) for event in self.events(session)):
            self._events.append(self._read())

    def events(self, session: str) -> list[dict[str, Any]]:
        """What a session has reported so far."""
        return [event for event in self._events if event.get("sessionId") == session]

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + patience(_TIMEOUT_S)
        while b"\0" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._replies], [], [], left)
            part = os.read(self._replies, 1 << 20) if readable else b""
            if not part:
                raise RuntimeError("Chromium ended or does not answer")
            self._unread += part
        message, self._unread = self._unread.split(b"\0", 1)
        return dict(json.loads(message))


class Tab:
    """One page in a browser."""

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command for this page."""
        return self._browser.call(method, self._session, **parameters)

    def value_of(self, expression: str) -> Any:
        """What a JavaScript expression gives on the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of the first element that the selector finds."""
        x, y = self.value_of(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press_enter(self) -> None:
        """Press and release Enter on what has the focus."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                text="\r" if kind == "keyDown" else "",
                windowsVirtualKeyCode=13,
            )

    def complaints(self) -> list[str]:
        """Errors and warnings of scripts, styles, pictures and the page's own policy."""
        self.value_of("0")  # what was reported before this reply has been read by then
        found = []
        for event in self._browser.events(self._session):
            parameters = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded":
                found.append(parameters["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled":
                found.append(str(parameters["args"]))
        return found

    def requested(self) -> list[str]:
        """Addresses that were asked for, those inside the page itself left out."""
        return [
            event["params"]["request"]["url"]
            for event in self._browser.events(self._session)
            if event["method"] == "Network.requestWillBeSent"
            and not event["params"]["request"]["url"].startswith("data:")
        ]

    def loaded(self) -> list[str]:
        """Addresses that have answered."""
        return [
            event["params"]["response"]["url"]
            for event in self._browser.events(self._session)
            if event["method"] == "Network.responseReceived"
        ]

    def screenshot(self, path: Path) -> None:
        """Save the whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        picture = self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
        )
        path.write_bytes(base64.b64decode(picture["data"]))
