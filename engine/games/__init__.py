"""The crash game's side of the engine: what `engine.core` and `engine.runtime` know through `ports.folding` alone."""
