"""Everything that touches the world: logs, stores, the service, the API and the commands.

`docs/architecture.md` has the map. The loop is `engine.runtime.processor.Processor.step`.
"""
