"""Pages in headless Chromium: what is on them once scripts have run, how they measure up, what clicks do."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium to look at pages with (Debian: chromium)")
SCHEMES = {"light": "1", "dark": "0"}
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000"),
    "--allow-file-access-from-files",  # a page may then look into a frame beside it
)


def seen(page: Path, *, scheme: str = "light", width: int = 1280) -> tuple[str, list[str]]:
    """The document after its scripts have run, and what went to the console."""
    with tempfile.TemporaryDirectory() as profile:
        arguments = [
            *(CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},1000"),
            *(f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", "--dump-dom", page.as_uri()),
        ]
        browser = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    return browser.stdout, [line for line in browser.stderr.splitlines() if "CONSOLE" in line]


def probed(page: Path, script: str, **options: Any) -> Any:
    """What a script says that runs in a copy of the page, after the page's own; it returns a value of JSON."""
    return _said(page, page.read_text(encoding="utf-8").replace("</body>", _probe(script) + "</body>"), **options)


def probed_without_javascript(page: Path, script: str, **options: Any) -> Any:
    """The same of a page whose own scripts are not run: `script` looks at its `doc`, in a frame as wide as the window."""
    frame = f'<iframe sandbox="allow-same-origin" src="{page.name}" style="border:0;width:100%;height:900px"></iframe>'
    outer = f'<!DOCTYPE html><body style="margin:0">{frame}' + _probe(
        "const frame = document.querySelector('iframe'); const doc = frame.contentDocument;" + script
    )
    return _said(page, outer + "</body>", **options)


def _probe(script: str) -> str:
    return (
        "<script>window.addEventListener('load', function () {"
        "let said; try { said = (function () {" + script + "})(); } catch (error) { said = {error: String(error)}; }"
        "const out = document.createElement('pre'); out.id = 'probe'; out.textContent = JSON.stringify(said);"
        "document.body.appendChild(out); });</script>"
    )


def _said(page: Path, html: str, **options: Any) -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".html", dir=page.parent, encoding="utf-8") as file:
        file.write(html)
        file.flush()
        document, _ = seen(Path(file.name), **options)
    start = document.index('<pre id="probe">') + len('<pre id="probe">')
    return json.loads(unescape(document[start : document.index("</pre>", start)]))
