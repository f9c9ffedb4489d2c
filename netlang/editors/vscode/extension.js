// Starts `fleet lsp` for network files.

const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

async function start() {
  const command = vscode.workspace.getConfiguration("fleet").get("path", "fleet");
  client = new LanguageClient(
    "fleet",
    "fleet",
    { command, args: ["lsp"] },
    {
      documentSelector: [{ language: "fleet" }],
      // Addresses on hover follow the lock.
      synchronize: { fileEvents: vscode.workspace.createFileSystemWatcher("**/fleet.lock") },
    }
  );
  try {
    await client.start();
  } catch (error) {
    client = undefined;
    vscode.window.showErrorMessage(`cannot start \`${command} lsp\`: ${error.message}; set fleet.path to the program`);
  }
}

async function stop() {
  const running = client;
  client = undefined;
  await running?.stop();
}

async function activate(context) {
  const restart = async () => {
    await stop();
    await start();
  };
  context.subscriptions.push(vscode.commands.registerCommand("fleet.restart", restart));
  context.subscriptions.push(
    vscode.workspace.onDidChangeConfiguration((change) => change.affectsConfiguration("fleet.path") && restart())
  );
  await start();
}

module.exports = { activate, deactivate: stop };
