"""A page in a real Chromium, spoken to over its debugging pipe: the DevTools protocol, without a driver."""

import base64
import itertools
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

TIMEOUT_S = 60


class Browser:
    """Headless Chromium with one page; a context manager."""

    def __init__(self, profile: Path):
        commands_out, commands_in = os.pipe()  # Chromium reads from its descriptor 3, and writes to 4
        answers_out, answers_in = os.pipe()
        command = (
            f"exec chromium --headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run "
            f"--disable-component-update --disable-sync --user-data-dir='{profile}' --remote-debugging-pipe "
            f"about:blank 3<&{commands_out} 4>&{answers_in}"
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(commands_out, answers_in), stderr=subprocess.DEVNULL
        )
        os.close(commands_out)
        os.close(answers_in)
        self._write, self._read = commands_in, answers_out
        self._ids, self._buffer = itertools.count(1), b""
        self._session: dict[str, str] = {}
        #: What the page threw, or wrote to the console as an error.
        self.errors: list[str] = []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, path: Path, width: int, scheme: str = "light") -> None:
        """Load a page in a window of this width, for readers who prefer this colour scheme."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {}
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        self.errors.clear()
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + TIMEOUT_S
        while self.evaluate("document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page did not load"

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page; of a promise, what it resolves to."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key, as a hand does."""
        of_key = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **of_key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **of_key)

    def screenshot(self, path: Path) -> None:
        """Write the whole page to a PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol; its answer."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(event["params"]["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled" if event["params"]["type"] == "error":
                self.errors.append(str(event["params"]["args"]))
            case "Log.entryAdded" if event["params"]["entry"]["level"] == "error":
                self.errors.append(event["params"]["entry"]["text"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], TIMEOUT_S)[0], "Chromium does not answer"
            part = os.read(self._read, 2**20)
            assert part, "Chromium ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)
