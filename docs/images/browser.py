# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven by chromedriver and the W3C WebDriver protocol."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from processes import free_port
from servers import answers, wait_until

__all__ = ["Browser", "browser"]

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
#: What a page may need until it shows something, in seconds.
_PATIENCE = 60.0


class Browser:
    """One window of a browser.

    Args:
        session: Address of the driver's session.
    """

    def __init__(self, session: str) -> None:
        self._session = session

    def _do(self, method: str, path: str, **body: Any) -> Any:
        with requests.Session() as http:
            http.trust_env = False
            reply = http.request(
                method,
                f"{self._session}{path}",
                json=body if method == "POST" else None,
                timeout=120,
            )
        value = reply.json()["value"]
        if not reply.ok:
            raise RuntimeError(f"{path}: {value['error']}: {value['message']}")
        return value

    def open(self, url: str, width: int = 1200, height: int = 900) -> None:
        """Open a page in a window of that size."""
        self.resize(width, height)
        light = {"name": "prefers-color-scheme", "value": "light"}
        self._cdp("Emulation.setEmulatedMedia", features=[light])
        self._do("POST", "/url", url=url)

    def resize(self, width: int, height: int) -> None:
        """Make the page that large, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._cdp("Emulation.setDeviceMetricsOverride", **size)

    def _cdp(self, command: str, **parameters: Any) -> None:
        self._do("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript as the body of a function, and return what it returns."""
        return self._do("POST", "/execute/sync", script=script, args=list(arguments))

    def element(self, xpath: str, patience: float = _PATIENCE) -> str:
        """Wait for an element and return its id."""
        return str(self._elements(xpath, patience)[0])

    def _elements(self, xpath: str, patience: float) -> list[str]:
        def there() -> list[str]:
            found = self._do("POST", "/elements", using="xpath", value=xpath)
            return [each[_ELEMENT] for each in found]

        return wait_until(there, lambda: f"{xpath} in:\n{self.text()}", patience)

    def click(self, xpath: str) -> None:
        """Wait for an element and click on it, as the user does."""
        element = self.element(xpath)
        self.run("arguments[0].scrollIntoView({block: 'center'})", {_ELEMENT: element})
        self._do("POST", f"/element/{element}/click")

    def type(self, xpath: str, text: str) -> None:
        """Wait for an element and type into it."""
        self._do("POST", f"/element/{self.element(xpath)}/value", text=text)

    def attribute(self, xpath: str, name: str) -> str:
        """Return an attribute of an element."""
        return str(self._do("GET", f"/element/{self.element(xpath)}/attribute/{name}"))

    def text(self) -> str:
        """Return what the page has to read."""
        return str(self.run("return document.body.innerText"))

    def texts(self, xpath: str) -> list[str]:
        """Wait for elements and return what each has to read."""
        found = self._elements(xpath, _PATIENCE)
        return [str(self._do("GET", f"/element/{each}/text")) for each in found]

    def picture(self) -> bytes:
        """Return what the window shows, when nothing moves any more, as PNG."""
        last = b""
        for _ in range(40):
            this = base64.b64decode(self._do("GET", "/screenshot"))
            if this == last:
                return this
            last = this
            time.sleep(0.5)
        raise TimeoutError("the page does not come to rest")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser that knows nothing of earlier ones."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not chromium:
        raise RuntimeError("chromium and chromedriver are needed")
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder, "driver.txt")
        process = subprocess.Popen(  # noqa: S603 - found on the path
            [driver, f"--port={port}", f"--log-path={log}"], stdout=subprocess.DEVNULL
        )
        base = f"http://127.0.0.1:{port}"
        options = {
            "binary": chromium,
            "args": [*_ARGUMENTS, f"--user-data-dir={folder}/profile"],
        }
        try:
            wait_until(lambda: answers(f"{base}/status"), "chromedriver", 30)
            with requests.Session() as http:
                http.trust_env = False
                wanted = {"alwaysMatch": {"goog:chromeOptions": options}}
                reply = http.post(f"{base}/session", json={"capabilities": wanted}, timeout=120)
                value = reply.json()["value"]
                if not reply.ok:
                    raise RuntimeError(value["message"])
                session = f"{base}/session/{value['sessionId']}"
                try:
                    yield Browser(session)
                finally:
                    http.delete(session, timeout=60)
        finally:
            process.terminate()
            process.wait(30)
