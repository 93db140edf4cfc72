"""Every recipe of docs/ as it stands there, against a real bottled with real VMs."""
import http.client
import http.server
import json
import os
import re
import shutil
import subprocess
import threading

import doors
import pytest
import yaml
from browser import Browser

import harness

DOCS = harness.ROOT / "docs"
RECIPES = DOCS / "recipes"


@pytest.fixture(scope="module")
def place(row):
    """A daemon that answers on its socket and, for the page, on TCP behind a proxy."""
    daemon = harness.Daemon()
    try:
        with Proxy() as proxy:
            proxy.behind = doors.open_to_tcp(daemon, server_names=f"127.0.0.1:{proxy.port}")
            yield daemon, proxy
    finally:
        fault = daemon.close()
    assert fault is None, fault


def shell(daemon, words, folder, check=True, **env):
    """Runs words as the runners of workflows do."""
    env = {**os.environ, "BOTTLED_SOCKET": str(daemon.socket), **env}
    argv = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", words]
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}\n{daemon.output.text()[-3000:]}"
    return done


def bottles(daemon):
    return [bottle["slug"] for bottle in daemon.get("/bottles").json()["bottles"]]


def plan_file(folder, **plan):
    (folder / "plan.json").write_text(json.dumps(plan))


def test_what_the_page_of_recipes_names():
    text = (DOCS / "recipes.md").read_text()
    assert set(re.findall(r"\(recipes/([^)]*)\)", text)) == {path.name for path in RECIPES.iterdir()}


def test_curl_in_a_shell(place, tmp_path):
    daemon, _ = place
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / "recipes.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    said = shell(daemon, "".join(blocks), tmp_path).stdout
    assert '"data":"working\\n"' in said and '"type":"egress.denied"' in said and "example.com" in said
    assert '"type":"bottle.exited"' in said and "data: {" in said
    assert bottles(daemon) == []


def test_bottled_run(place, tmp_path):
    daemon, _ = place
    plan_file(tmp_path, command=["sh", "-c", "echo out; echo err >&2; exit 7"])
    done = shell(daemon, f"{RECIPES}/bottled-run plan.json", tmp_path, check=False)
    assert (done.returncode, sorted(done.stdout.splitlines()), done.stderr) == (7, ["err", "out"], "")
    done = shell(daemon, f"{RECIPES}/bottled-run - <plan.json", tmp_path, check=False)
    assert (done.returncode, done.stderr) == (7, ""), "from the standard input as well"
    plan_file(tmp_path, command=[], slug="A")
    done = shell(daemon, f"{RECIPES}/bottled-run plan.json", tmp_path, check=False)
    assert (done.returncode, done.stdout) == (125, "") and "/slug" in done.stderr and "/command" in done.stderr
    plan_file(tmp_path, command=["sleep", "100"])
    done = shell(daemon, f"{RECIPES}/bottled-run plan.json", tmp_path, check=False, BOTTLED_TIMEOUT="1s")
    assert done.returncode == 125 and "time is over" in done.stderr
    assert bottles(daemon) == []


def test_bottled_run_is_ended(place, tmp_path):
    """By a signal to the script alone, as a container's first process gets it."""
    daemon, _ = place
    plan_file(tmp_path, command=["sh", "-c", "echo up; sleep 1000"], slug="ended")
    env = {**os.environ, "BOTTLED_SOCKET": str(daemon.socket)}
    with subprocess.Popen([RECIPES / "bottled-run", "plan.json"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "up\n"
        run.terminate()
        assert run.wait(30) == 130
    assert bottles(daemon) == []


def test_the_workflow(place, tmp_path):
    """Its steps, on a checkout with tests that fail: the later steps are run all the same."""
    daemon, _ = place
    (tmp_path / "run-tests").write_text("echo testing; echo '<results/>' >results.xml; exit 4\n")
    subprocess.run("git init -q . && git add . && git -c user.name=x -c user.email=x@x commit -qm x", shell=True, cwd=tmp_path, check=True)
    job = yaml.safe_load((RECIPES / "workflow.yaml").read_text())["jobs"]["tests"]
    assert set(job["env"]) == {"BOTTLED_SOCKET"}
    results = {}
    for step in job["steps"]:
        if "run" in step and (step.get("if") == "always()" or all(one.returncode == 0 for one in results.values())):
            results[step["name"]] = shell(daemon, step["run"], tmp_path, check=False, GITHUB_RUN_ID="42")
    failed = {name: one for name, one in results.items() if one.returncode}
    assert list(failed) == ["Run the tests"] and failed["Run the tests"].returncode == 4, results
    assert len(results) == len(job["steps"]) - 1 and failed["Run the tests"].stdout == "testing\n"
    assert (tmp_path / "results.xml").read_text() == "<results/>\n"
    assert bottles(daemon) == []


def test_gitlab_ci(place, tmp_path):
    daemon, _ = place
    (tmp_path / "ci").mkdir()
    shutil.copy(RECIPES / "bottled-run", tmp_path / "ci")
    job = yaml.safe_load((RECIPES / "gitlab-ci.yml").read_text())["agent"]
    done = shell(daemon, "\n".join(job["script"]), tmp_path, CI_JOB_ID="7", CI_COMMIT_REF_NAME="main")
    said = done.stdout.splitlines()
    assert said[0] == "working on main" and int(said[1]) > 0
    assert bottles(daemon) == []


def test_python(place, tmp_path):
    daemon, _ = place
    plan_file(tmp_path, command=["sh", "-c", "printf 'caf\\303\\251 \\377\\n'; exit 5"])
    argv = [RECIPES / "run.py", "--socket", str(daemon.socket), "plan.json"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"caf\xc3\xa9 \xff\n", b"")
    plan_file(tmp_path, command=["true"], comand=1)
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, timeout=100, text=True)
    assert done.returncode == 125 and "/comand: " in done.stderr
    assert bottles(daemon) == []


class Proxy(http.server.ThreadingHTTPServer):
    """The page, and behind the same origin bottled: what a proxy in front of both does."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self):
        path = RECIPES / self.path.removeprefix("/")
        if self.path in ("/page.html", "/page.js"):
            self.send_response(200)
            self.send_header("Content-Type", {"l": "text/html", "s": "text/javascript"}[self.path[-1]])
            self.end_headers()
            self.wfile.write(path.read_bytes())
            return
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=100)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "connection":
                behind.putheader(name, value)
        behind.endheaders(body or None)
        reply = behind.getresponse()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.end_headers()
        try:
            while piece := reply.read1():
                self.wfile.write(piece)
        except OSError:
            pass  # the browser has left
        behind.close()

    do_GET = do_POST = do_DELETE = answer


def test_a_page(place):
    daemon, proxy = place
    token = doors.make_token(daemon, "page", "operate")
    browser = Browser()
    try:
        browser.open(f"http://127.0.0.1:{proxy.port}/page.html")
        browser.run(
            "const form = document.getElementById('run'); form.elements.token.value = arguments[0];"
            "form.elements.command.value = 'echo from a bottle; exit 6'; form.requestSubmit()", token)
        said = browser.until("const text = document.getElementById('output').textContent; return /exit code/.test(text) && text")
        assert said == "from a bottle\nexit code 6\n"
        seen = browser.until(
            "const all = [...document.querySelectorAll('#events li')].map(one => one.textContent);"
            "return all.some(one => one.endsWith('bottle.deleting')) && all")
        told = [one.split(" ")[1] for one in seen]  # from when the page's stream was open
        assert "bottle.running" in told and told.index("bottle.running") < told.index("bottle.exited"), seen
        assert not [one for one in browser.complaints() if "favicon" not in one]
    finally:
        browser.close()
    assert bottles(daemon) == []
