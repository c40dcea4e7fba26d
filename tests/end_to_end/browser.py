"""A headless Chromium that a test looks at a page with, by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT_WALL_SECONDS = 30.0


def program() -> str | None:
    return next((found for each in PROGRAMS if (found := shutil.which(each))), None)


class Browser:
    """`async with Browser() as page`. It reaches nothing but files: `asked` are the addresses that the page wanted from a network."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)

    async def __aenter__(self) -> Browser:
        found = program()
        assert found
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=1400,1000"]
        self._process = await asyncio.create_subprocess_exec(
            found,
            *options,
            "--proxy-server=127.0.0.1:9",
            f"--user-data-dir={self._folder.name}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        port = Path(self._folder.name) / "DevToolsActivePort"
        end = time.monotonic() + WAIT_WALL_SECONDS
        while not (port.exists() and port.read_text().count("\n") >= 1):
            assert time.monotonic() < end and self._process.returncode is None, "Chromium did not start"
            await asyncio.sleep(0.05)
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json/list") as answer:
            (page,) = [each for each in await answer.json() if each["type"] == "page"]
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        await self.send("Page.enable")
        await self.send("Network.enable")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.cancel()
        await self._socket.close()
        await self._session.close()
        self._process.terminate()
        await self._process.wait()
        self._folder.cleanup()

    async def _read(self) -> None:
        async for message in self._socket:
            found = message.json()
            if found.get("method") == "Network.requestWillBeSent" and found["params"]["request"]["url"].startswith(("http:", "https:")):
                self.asked.append(found["params"]["request"]["url"])
            elif "id" in found:
                self._answers.pop(found["id"]).set_result(found)

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await asyncio.wait_for(self._answers[number], WAIT_WALL_SECONDS)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, path: Path) -> None:
        await self.send("Page.navigate", url=path.resolve().as_uri())

    async def evaluate(self, script: str) -> Any:
        answer = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def wait_for(self, script: str) -> Any:
        """Its value, as soon as it is true."""
        end = time.monotonic() + WAIT_WALL_SECONDS
        while not (value := await self.evaluate(script)):
            assert time.monotonic() < end, f"never came: {script}"
            await asyncio.sleep(0.1)
        return value

    async def click(self, selector: str, text: str) -> None:
        """On the first element that the selector finds with this text in it, with the mouse, once it lies still and nothing covers it."""
        look = f"""(() => {{
            const found = [...document.querySelectorAll({selector!r})].find(each => each.textContent.includes({text!r}));
            if (!found) return null;
            found.scrollIntoView({{block: 'center'}});
            const box = found.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
            return found.contains(document.elementFromPoint(x, y)) ? {{x, y}} : null;
        }})()"""
        before, where = None, await self.wait_for(look)
        end = time.monotonic() + WAIT_WALL_SECONDS
        while where != before:
            assert time.monotonic() < end, f"never lay still: {text}"
            await asyncio.sleep(0.2)
            before, where = where, await self.wait_for(look)
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    async def picture(self, box: dict[str, float]) -> bytes:
        """A PNG of a part of the page."""
        answer = await self.send("Page.captureScreenshot", format="png", clip={**box, "scale": 1}, captureBeyondViewport=True)
        return base64.b64decode(answer["data"])
