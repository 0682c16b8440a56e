"""Debian's browser, driven by real clicks and keys, and what a test asks of a page in it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

WAIT_S = 600.0  # ends what hangs; how long a page takes on a busy machine is nothing that a test knows
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars")


def _program(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no {names[0]} is installed: apt-get install chromium chromium-driver")
    return found


def axe_source() -> str:
    """axe-core, as the package axe-playwright-python has it; its Playwright is not needed."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("no axe-core is installed: pip install axe-playwright-python")
    return Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")


@contextmanager
def opened(*flags: str) -> Iterator[Browser]:
    """A browser without a window, with more flags of Chromium's; the test is skipped where there is none."""
    options = Options()
    options.binary_location = _program("chromium", "chromium-browser")
    for flag in (*_FLAGS, *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(_program("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


class Browser:
    """One window.

    Attributes:
        driver: selenium's.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.driver.set_script_timeout(WAIT_S)
        self.driver.set_page_load_timeout(WAIT_S)
        self.driver.command_executor.client_config.timeout = WAIT_S

    def size(self, width: int, height: int) -> None:
        """Show pages as on a screen of so many CSS pixels."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def prefer(self, **media: str) -> None:
        """What the user's system prefers: `color_scheme="dark"`, `reduced_motion="reduce"`."""
        features = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def go(self, url: str) -> None:
        """Open a page, with nothing in the logs."""
        self.driver.get("about:blank")
        self.messages()
        self.requests()
        self.driver.get(url)

    def find(self, selector: str) -> WebElement:
        """The first element, seen or not."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Every element."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What is seen of the first element; nothing where there is none."""
        try:
            return next((found.text for found in self.all(selector)), "")
        except StaleElementReferenceException:
            return ""

    def click(self, selector: str) -> None:
        """As a mouse does, after scrolling to it: not where something lies above it."""
        found = self.find(selector)
        self.js("arguments[0].scrollIntoView({block: 'nearest'})", found)
        found.click()

    def keys(self, *keys: str) -> None:
        """Typed to whatever has the focus."""
        chain = webdriver.ActionChains(self.driver)
        chain.send_keys(*keys).perform()

    def chord(self, held: str, key: str) -> None:
        """Two keys at once."""
        chain = webdriver.ActionChains(self.driver)
        chain.key_down(held).send_keys(key).key_up(held).perform()

    def tab_to(self, selector: str) -> None:
        """Press Tab until an element has the focus, as who has no mouse must."""
        for _ in range(40):
            if self.js("return document.activeElement.matches(arguments[0])", selector):
                return
            self.keys(Keys.TAB)
        raise AssertionError(f"Tab never comes to {selector}")

    def until(self, holds: Callable[[], Any], seconds: float = WAIT_S) -> Any:
        """Wait for something; what it is."""
        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: holds())

    def js(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def awaited(self, script: str, *arguments: Any) -> Any:
        """What an async function's body in the page returns; `given` is what it was given."""
        call = "const given = [...arguments]; const done = given.pop();"
        call += f"(async () => {{ {script} }})().then(done, (error) => done(String(error)))"
        return self.driver.execute_async_script(call, *arguments)

    def messages(self) -> list[str]:
        """What the browser has complained of since it was last asked: violations of the page's policy among it."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]

    def requests(self) -> list[dict[str, Any]]:
        """Every request since this was last asked: its `method`, `url` and `postData`."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [event["params"]["request"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def faults(self) -> list[str]:
        """What axe-core finds that is serious or critical."""
        self.js(axe_source() + "\nreturn 0")
        found = self.driver.execute_async_script("axe.run(document).then(arguments[arguments.length - 1])")
        grave = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
        return [
            f"{one['id']}: {node['html'][:120]}: {node['failureSummary']}" for one in grave for node in one["nodes"]
        ]
