"""The servers that listen: uvicorn for the API, a small one for the engine's probes."""
