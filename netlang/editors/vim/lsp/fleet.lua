-- Neovim 0.11 and later: `vim.lsp.enable("fleet")` in init.lua starts it for network files.
return {
  cmd = { "fleet", "lsp" },
  filetypes = { "fleet" },
  root_markers = { "fleet.lock", ".git" },
}
