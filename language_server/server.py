"""The server: the language server protocol on one side, `answers` on the other; pygls carries it."""

import asyncio
import threading
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

from lsprotocol import types as lsp  # pyright: ignore[reportMissingImports]
from pygls.lsp.server import LanguageServer  # pyright: ignore[reportMissingImports]
from pygls.uris import to_fs_path  # pyright: ignore[reportMissingImports]

from stepwell import __version__
from stepwell.errors import Error
from stepwell.language_server.analysis import Analysis, Reader
from stepwell.language_server.answers import Document
from stepwell.language_server.knowledge import Knowledge
from stepwell.language_server.rules import RulesDocument, analyse_rules
from stepwell.language_server.text import Name, Symbol
from stepwell.plugins import load_plugin_file, load_plugins
from stepwell.registry import DIALECTS

_PAUSE_S = 0.15
"""Since the last key, before a text is read again."""
_STACK_BYTES = 256 << 20
"""Of the thread that parses: IR at our limits of nesting needs it."""

_KINDS = {
    "operation": lsp.CompletionItemKind.Function,
    "dialect": lsp.CompletionItemKind.Module,
    "attribute": lsp.CompletionItemKind.Property,
    "pass": lsp.CompletionItemKind.Method,
    "value": lsp.CompletionItemKind.Variable,
    "symbol": lsp.CompletionItemKind.Reference,
}


class StepwellServer(LanguageServer):
    """Documents by address, and one thread that reads them."""

    def __init__(self) -> None:
        super().__init__(
            "stepwell-lsp", __version__, text_document_sync_kind=lsp.TextDocumentSyncKind.Incremental
        )
        self.documents: dict[str, tuple[int | None, Document | RulesDocument]] = {}
        self.analyses: dict[str, Analysis] = {}
        self.configure()
        self.jobs: Queue[tuple[asyncio.Future[Analysis], str, str]] = Queue()
        before = threading.stack_size(_STACK_BYTES)
        # A daemon: the editor's exit does not wait for a text that is being read.
        threading.Thread(target=self._read_jobs, daemon=True).start()
        threading.stack_size(before)

    def configure(self) -> None:
        """Take what the registry has now: plug-ins add to it."""
        self.reader = Reader(DIALECTS)
        self.knowledge = Knowledge(self.reader.context())
        self.documents.clear()

    def document(self, uri: str) -> Document | RulesDocument:
        """The newest version of a text."""
        source = self.workspace.get_text_document(uri)
        known = self.documents.get(uri)
        if known is None or known[0] != source.version or known[1].text != source.source:
            kind = RulesDocument if uri.endswith(".pat") else Document
            analysis = self.analyses.get(uri, Analysis())
            known = (source.version, kind(source.source, self.knowledge, analysis))
            self.documents[uri] = known
        return known[1]

    async def read(self, uri: str, pause_s: float) -> None:
        """Parse and verify the text, unless a newer version has come, and show what is wrong with it."""
        version = self.workspace.get_text_document(uri).version
        await asyncio.sleep(pause_s)
        if (
            uri not in self.workspace.text_documents
            or self.workspace.get_text_document(uri).version != version
        ):
            return
        text = self.document(uri).text
        future = asyncio.get_running_loop().create_future()
        self.jobs.put((future, uri, text))
        analysis = await future
        if (
            uri not in self.workspace.text_documents
            or self.workspace.get_text_document(uri).version != version
        ):
            return
        self.analyses[uri] = analysis
        document = self.document(uri)
        document.analysis, document.current = analysis, True
        self.show(uri, version, [self.diagnostic(document, fault) for fault in analysis.faults])

    def _read_jobs(self) -> None:
        while True:
            future, uri, text = self.jobs.get()
            if uri.endswith(".pat"):
                analysis = analyse_rules(self.reader.context(), Path(to_fs_path(uri) or "rules.pat"), text)
            else:
                analysis = self.reader.analyse(text)
            future.get_loop().call_soon_threadsafe(future.set_result, analysis)

    def show(self, uri: str, version: int | None, diagnostics: list[lsp.Diagnostic]) -> None:
        self.text_document_publish_diagnostics(
            lsp.PublishDiagnosticsParams(uri=uri, version=version, diagnostics=diagnostics)
        )

    def diagnostic(self, document: Document | RulesDocument, fault: Any) -> lsp.Diagnostic:
        index = document.index
        start = index.offset(fault.line, 0) + fault.column
        end = index.offset(fault.end_line, 0) + fault.end_column
        return lsp.Diagnostic(
            range=span(document, start, max(end, start)),
            message=fault.message,
            severity=lsp.DiagnosticSeverity.Error,
            source="stepwell",
        )


def span(document: Document | RulesDocument, start: int, end: int) -> lsp.Range:
    """The range of two offsets."""
    places = [document.index.place(min(offset, len(document.text))) for offset in (start, end)]
    return lsp.Range(*(lsp.Position(line, column) for line, column in places))


def make_server() -> StepwellServer:
    """A server with all its features."""
    server = StepwellServer()

    def at(parameters: Any) -> tuple[Document | RulesDocument, int]:
        document = server.document(parameters.text_document.uri)
        position = parameters.position
        return document, document.index.offset(position.line, position.character)

    def location(uri: str, document: Document | RulesDocument, name: Name) -> lsp.Location:
        return lsp.Location(uri, span(document, name.start, name.end))

    files: list[str] = []

    @server.feature(lsp.INITIALIZE)
    def initialize(parameters: lsp.InitializeParams) -> None:
        options = parameters.initialization_options
        files.extend((options.get("loadPass") or []) if isinstance(options, dict) else [])

    @server.feature(lsp.INITIALIZED)
    def initialized(_: Any) -> None:
        root = Path(server.workspace.root_path or ".")
        for load in (load_plugins, *(partial(load_plugin_file, str(root / name)) for name in files)):
            try:
                load()
            except Error as error:  # the editor goes on without it
                server.window_show_message(lsp.ShowMessageParams(lsp.MessageType.Error, str(error)))
        server.configure()

    @server.feature(lsp.TEXT_DOCUMENT_DID_OPEN)
    async def did_open(parameters: lsp.DidOpenTextDocumentParams) -> None:
        await server.read(parameters.text_document.uri, 0)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CHANGE)
    async def did_change(parameters: lsp.DidChangeTextDocumentParams) -> None:
        await server.read(parameters.text_document.uri, _PAUSE_S)

    @server.feature(lsp.TEXT_DOCUMENT_DID_CLOSE)
    def did_close(parameters: lsp.DidCloseTextDocumentParams) -> None:
        uri = parameters.text_document.uri
        server.documents.pop(uri, None)
        server.analyses.pop(uri, None)
        server.show(uri, None, [])

    @server.feature(lsp.TEXT_DOCUMENT_HOVER)
    def hover(parameters: lsp.HoverParams) -> lsp.Hover | None:
        document, offset = at(parameters)
        answer = document.hover(offset)
        if answer is None:
            return None
        content = lsp.MarkupContent(lsp.MarkupKind.Markdown, answer.text)
        return lsp.Hover(content, span(document, answer.start, answer.end))

    @server.feature(lsp.TEXT_DOCUMENT_DEFINITION)
    def definition(parameters: lsp.DefinitionParams) -> lsp.Location | None:
        document, offset = at(parameters)
        name = document.definition(offset)
        return location(parameters.text_document.uri, document, name) if name is not None else None

    @server.feature(lsp.TEXT_DOCUMENT_REFERENCES)
    def references(parameters: lsp.ReferenceParams) -> list[lsp.Location]:
        document, offset = at(parameters)
        found = document.references(offset)
        if not parameters.context.include_declaration:
            found = [name for name in found if not name.defines]
        return [location(parameters.text_document.uri, document, name) for name in found]

    @server.feature(lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def symbols(parameters: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
        document = server.document(parameters.text_document.uri)
        return [_symbol(document, symbol) for symbol in document.index.symbols]

    @server.feature(
        lsp.TEXT_DOCUMENT_COMPLETION, lsp.CompletionOptions(trigger_characters=[".", "%", "@", "{", ",", "'"])
    )
    def completion(parameters: lsp.CompletionParams) -> lsp.CompletionList:
        document, offset = at(parameters)
        start = _word_start(document.text, offset)
        items = [
            lsp.CompletionItem(
                label=s.text,
                kind=_KINDS[s.kind],
                detail=s.detail or None,
                text_edit=lsp.TextEdit(span(document, start, offset), s.text),
            )
            for s in document.suggestions(offset)
        ]
        return lsp.CompletionList(is_incomplete=False, items=items)

    return server


def _symbol(document: Document | RulesDocument, symbol: Symbol) -> lsp.DocumentSymbol:
    kind = lsp.SymbolKind.Function if symbol.operation.endswith("func") else lsp.SymbolKind.Variable
    if symbol.operation.endswith("module"):
        kind = lsp.SymbolKind.Module
    name_end = symbol.name_start + len(symbol.name)
    return lsp.DocumentSymbol(
        name=symbol.name,
        kind=kind,
        range=span(document, symbol.start, max(symbol.end, name_end)),
        selection_range=span(document, symbol.name_start, name_end),
        detail=symbol.operation,
    )


def _word_start(text: str, offset: int) -> int:
    while offset and (text[offset - 1].isalnum() or text[offset - 1] in "_$.-%@^"):
        offset -= 1
    return offset
