"""A real browser without a screen, spoken to by WebDriver. Standard library only."""
import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request

import processes

ARGUMENTS = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,2400", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"]


class Browser:
    """Chromium, with a profile of its own."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="bb", dir="/tmp")
        env = {**os.environ, "HOME": self.folder, "TMPDIR": self.folder}
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        processes.waited_for.add(self.driver.pid)
        self.session = None
        line = next(line for line in self.driver.stdout if "started successfully" in line)
        port = re.search(r"port (\d+)", line).group(1)
        self.base = f"http://127.0.0.1:{port}"
        root = ["--no-sandbox"] if os.getuid() == 0 else []
        options = {"args": ARGUMENTS + root + [f"--user-data-dir={self.folder}/profile"]}
        wants = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wants}})["sessionId"]

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        path = path if self.session is None else f"/session/{self.session}{path}"
        request = urllib.request.Request(f"{self.base}{path}", data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None

    def open(self, url):
        self.ask("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """The value that a script in the page returns."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script, *arguments, timeout=60):
        """The first value of a script that is something; looked for in each frame that the page draws."""
        self.ask("POST", "/timeouts", {"script": timeout * 1000})
        look = "const done = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);" \
               "const look = () => { const found = (function () { " + script + " }).apply(null, given);" \
               "found ? done(found) : requestAnimationFrame(look); }; look();"
        found = self.ask("POST", "/execute/async", {"script": look, "args": list(arguments)})
        assert found
        return found

    def complaints(self):
        """What the console has: errors, and all that the Content-Security-Policy refused."""
        return [entry["message"] for entry in self.ask("POST", "/se/log", {"type": "browser"}) if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.ask("GET", "/screenshot")))

    def close(self):
        try:
            if self.session:
                self.ask("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(20)
            self.driver.stdout.close()
            processes.waited_for.discard(self.driver.pid)
            shutil.rmtree(self.folder, ignore_errors=True)
