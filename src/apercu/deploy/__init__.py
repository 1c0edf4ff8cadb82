"""How explainers are used: engines, exported graphs, a server, batches and videos."""
