"""Everything that touches the world: logs, stores, the service, the API and the commands.

`docs/architecture.md` has the map. The loop is `crashfold.engine.runtime.service.Service.step`.
"""
