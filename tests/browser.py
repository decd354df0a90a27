"""A real server and a real browser: for the tests of the page, and for its picture in the README."""

import contextlib
import shutil
import socket
import threading
import time

import numpy as np
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from keras_vae_serving.http import create_app

PATIENCE = 60  # seconds; a busy machine is slow, and nothing below waits longer than it must


def missing():
    """What this machine lacks to run a browser, or None."""
    needed = [("chromium", "google-chrome"), ("chromedriver",)]
    lacking = [names[0] for names in needed if not any(map(shutil.which, names))]
    return f"there is no {' and no '.join(lacking)} on the PATH" if lacking else None


@contextlib.contextmanager
def serving(bundles, port=0, token="", **settings):
    """Serves bundles from a thread; gives the address."""
    app = create_app(bundles, token=token, providers="cpu", **settings)
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def browsing():
    """A headless Chromium with the page's own helpers around it: gives a `Page`."""
    options = webdriver.ChromeOptions()
    # Both paths are given, so that Selenium downloads nothing.
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield Page(driver)
    finally:
        driver.quit()


class Page:
    """The page in the browser. Parts are named by their `data-ref`."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, address, width=1280, height=900, scheme="light"):
        """Opens the page anew: nothing is left of the last one, not even in its session."""
        self.driver.get("about:blank")
        self.resize(width, height)
        self.colour_scheme(scheme)
        self.driver.get(address)
        return self

    def resize(self, width, height, scale=1):
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def colour_scheme(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def script(self, text, *arguments):
        return self.driver.execute_script(text, *arguments)

    def wait(self, condition, what="the page"):
        """Until `condition()` is true; the value it then has."""
        return WebDriverWait(self.driver, PATIENCE, 0.05).until(lambda _: condition(), f"waited for {what}")

    def settled(self):
        """Until everything that was asked for has been drawn."""
        quiet = """
            const main = document.querySelector("main");
            return main.ariaBusy === "false" && !main.inert && main.firstElementChild !== null;
        """
        self.wait(lambda: self.script(quiet), "an explorer without requests under way")
        return self

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def ref(self, name):
        return self.find(f'[data-ref="{name}"]')

    def text(self, selector):
        return self.script("return document.querySelector(arguments[0]).textContent", selector)

    def pixels(self, selector):
        """The grey values of all canvases that a selector finds: `(n, height, width)`."""
        read = """
            return Array.from(document.querySelectorAll(arguments[0]), (canvas) => {
                const { width, height } = canvas;
                const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
                return [height, width, Array.from(data.filter((_, i) => i % 4 === 0))];
            });
        """
        canvases = self.script(read, f"{selector} canvas")
        return np.array([np.reshape(values, (height, width)) for height, width, values in canvases])

    def errors(self):
        """What the browser complained of since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
