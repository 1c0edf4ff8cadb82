// Who explains: the server that sent this page. `apercu export --format web` names local.js here.

export * from "./server.js";
