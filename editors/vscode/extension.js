"use strict";
const { workspace } = require("vscode");
const { LanguageClient, TransportKind } = require("vscode-languageclient/node");

let client;

exports.activate = async function activate() {
  const settings = workspace.getConfiguration("stepwell");
  const server = { command: settings.get("server"), args: ["--stdio"], transport: TransportKind.stdio };
  client = new LanguageClient("stepwell", "stepwell", server, {
    documentSelector: [{ language: "stepwell-ir" }, { language: "stepwell-pat" }],
    initializationOptions: { loadPass: settings.get("loadPass") },
  });
  await client.start();
};

exports.deactivate = function deactivate() {
  return client && client.stop();
};
