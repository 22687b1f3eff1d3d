"""The server as an editor sees it: a process, and messages over its standard input and output."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, Queue

import pytest

from tests.unit.language_server.test_answers import PLUGIN, RULES, TEXT, at

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 60


class Client:
    """One editor and its server."""

    def __init__(self, root, **options):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stepwell.tools.stepwell_lsp"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=root,
        )  # fmt: skip
        self.messages: Queue = Queue()
        self.notifications: list = []
        self.number, self.version = 0, 0
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.capabilities = self.ask(
            "initialize",
            processId=None,
            rootUri=Path(root).as_uri(),
            capabilities={},
            initializationOptions=options,
        )["capabilities"]
        self.tell("initialized")

    def _listen(self):
        stream = self.process.stdout
        while header := stream.readline():
            length = int(header.split(b":")[1]) if header.lower().startswith(b"content-length") else 0
            while stream.readline().strip():
                pass
            self.messages.put(json.loads(stream.read(length)))
        self.messages.put(None)

    def _send(self, message):
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        self.process.stdin.flush()

    def tell(self, method, **parameters):
        self._send({"method": method, "params": parameters})

    def ask(self, method, **parameters):
        self.number += 1
        self._send({"id": self.number, "method": method, "params": parameters})
        while True:
            message = self.messages.get(timeout=WAIT_S)
            assert message is not None, "the server ended"
            if message.get("id") == self.number and "method" not in message:
                assert "error" not in message, message
                return message["result"]
            self.notifications.append(message)

    def wait_for(self, method, accept=lambda parameters: True):
        """The next notification that `accept` takes."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            for message in self.notifications:
                if message.get("method") == method and accept(message["params"]):
                    self.notifications.remove(message)
                    return message["params"]
            try:
                self.notifications.append(self.messages.get(timeout=1))
            except Empty:
                continue
        raise AssertionError(f"no {method}")

    def open(self, uri, text):
        self.text, self.version = text, 1
        item = {"uri": uri, "languageId": "mlir", "version": 1, "text": text}
        self.tell("textDocument/didOpen", textDocument=item)

    def edit(self, uri, start, end, new):
        """Replace the text between two offsets."""
        self.version += 1
        change = {"range": {"start": place(self.text, start), "end": place(self.text, end)}, "text": new}
        self.text = self.text[:start] + new + self.text[end:]
        self.tell(
            "textDocument/didChange",
            textDocument={"uri": uri, "version": self.version},
            contentChanges=[change],
        )

    def about(self, method, uri, offset, **more):
        return self.ask(
            f"textDocument/{method}", textDocument={"uri": uri}, position=place(self.text, offset), **more
        )

    def diagnostics(self, uri):
        """Those of the newest version."""
        wanted = self.version
        return self.wait_for(
            "textDocument/publishDiagnostics", lambda p: p["uri"] == uri and p.get("version") == wanted
        )["diagnostics"]

    def close(self):
        self.ask("shutdown")
        self._send({"method": "exit"})
        return self.process.wait(WAIT_S)


def place(text, offset):
    line = text.count("\n", 0, offset)
    return {"line": line, "character": offset - (text.rfind("\n", 0, offset) + 1)}


def test_without_pygls_it_says_so(tmp_path):
    (tmp_path / "pygls.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "stepwell.tools.stepwell_lsp"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "error: stepwell-lsp needs pygls 2; run: pip install 'stepwell[lsp]'\n"


@pytest.fixture
def client(tmp_path):
    pytest.importorskip("pygls", reason="pip install 'stepwell[lsp]'")
    opened = Client(tmp_path)
    yield opened
    assert opened.close() == 0


URI = "file:///project/net.ir"


def test_a_session(client):
    for feature in (
        "hoverProvider",
        "definitionProvider",
        "referencesProvider",
        "documentSymbolProvider",
        "completionProvider",
    ):
        assert client.capabilities.get(feature), feature
    client.open(URI, TEXT)
    assert client.diagnostics(URI) == []

    hovered = client.about("hover", URI, at(TEXT, "%t :"))
    assert "`%t: tensor<3x2xf32>`" in hovered["contents"]["value"]
    assert "`perm`" in client.about("hover", URI, at(TEXT, "graph.transpose"))["contents"]["value"]
    assert client.about("hover", URI, 3) is None

    made = client.about("definition", URI, at(TEXT, "%acc", 3))
    assert made["uri"] == URI and made["range"]["start"]["line"] == 11
    used = client.about("references", URI, at(TEXT, "@table"), context={"includeDeclaration": True})
    assert [place["range"]["start"]["line"] for place in used] == [2, 15]
    used = client.about("references", URI, at(TEXT, "@table"), context={"includeDeclaration": False})
    assert [place["range"]["start"]["line"] for place in used] == [15]

    symbols = client.ask("textDocument/documentSymbol", textDocument={"uri": URI})
    assert [symbol["name"] for symbol in symbols] == ["@table", "@helper", "@main", "@other"]


def test_typing_shows_faults_and_takes_them_back(client):
    client.open(URI, TEXT)
    assert client.diagnostics(URI) == []
    start = at(TEXT, "graph.transpose", 0, 0)
    client.edit(URI, start, start + len("graph.transpose"), "graph.transp")
    items = {i["label"]: i for i in client.about("completion", URI, start + len("graph.transp"))["items"]}
    assert items["graph.transpose"]["textEdit"]["range"]["start"]["character"] == 7
    (fault,) = client.diagnostics(URI)
    assert fault["range"] == {"start": {"line": 5, "character": 7}, "end": {"line": 5, "character": 19}}
    assert "did you mean 'graph.transpose'?" in fault["message"] and fault["source"] == "stepwell"
    client.edit(URI, start + len("graph.transp"), start + len("graph.transp"), "ose")
    assert client.diagnostics(URI) == []
    client.tell("textDocument/didClose", textDocument={"uri": URI})


def test_only_the_last_of_many_keys_is_read(client):
    client.open(URI, "")
    for key in "func.func @f() {\n  func.return\n}\n":
        client.edit(URI, len(client.text), len(client.text), key)
        client.about("completion", URI, len(client.text))
    assert client.diagnostics(URI) == []
    published = [m for m in client.notifications if m.get("method") == "textDocument/publishDiagnostics"]
    assert len(published) < 15


def test_columns_are_utf16(client):
    before = 'func.func @"\U0001d11e"() { '
    client.open(URI, before + "nope.y }\n")
    (fault,) = client.diagnostics(URI)
    assert fault["range"]["start"] == {"line": 0, "character": len(before) + 1}
    symbols = client.ask("textDocument/documentSymbol", textDocument={"uri": URI})
    assert symbols[0]["selectionRange"]["end"]["character"] == len('func.func @"\U0001d11e"') + 1


def test_a_project_with_its_own_dialect(tmp_path):
    pytest.importorskip("pygls", reason="pip install 'stepwell[lsp]'")
    (tmp_path / "mine.py").write_text(PLUGIN)
    client = Client(tmp_path, loadPass=["mine.py", "absent.py"])
    assert "absent.py: " in client.wait_for("window/showMessage")["message"]
    client.open(URI, "func.func @f(%x: f32) {\n  mine.note %x : f32\n  func.return\n}\n")
    assert client.diagnostics(URI) == []
    assert (
        "Remark on a value." in client.about("hover", URI, at(client.text, "mine.note"))["contents"]["value"]
    )
    assert client.close() == 0


def test_a_megabyte(client):
    """While the text is read, which takes seconds, questions are answered."""
    body = TEXT.split("\n", 5)[5].split("}\nfunc.func @other", 1)[0]
    text = "".join(
        f"func.func @f{i}(%x: tensor<2x3xf32>, %n: index) -> tensor<3x2xf32> {{\n{body}}}\n"
        for i in range(1900)
    ).replace("@table", "@f0")
    assert len(text) > 1_000_000
    client.open(URI, text)
    assert client.about("hover", URI, at(text, "graph.transpose"))
    slowest = 0.0
    for needle in ("%t :", "%acc", "%x", "%n"):
        begin = time.monotonic()
        assert client.about("definition", URI, text.rindex(needle) + 1)
        slowest = max(slowest, time.monotonic() - begin)
    assert slowest < 3, "0.05 s on an idle machine"


def test_rules(client):
    uri = "file:///project/rules.pat"
    client.open(uri, RULES.replace("graph.neg(x))", "graph.nag(x))"))
    (fault,) = client.diagnostics(uri)
    assert fault["range"]["start"]["line"] == 10
    client.edit(uri, client.text.index("nag"), client.text.index("nag") + 3, "neg")
    assert client.diagnostics(uri) == []
    symbols = client.ask("textDocument/documentSymbol", textDocument={"uri": uri})
    assert [symbol["name"] for symbol in symbols] == ["drop-repeated-relu", "drop-double-neg"]
