"""The read side: routes that read, one module per aggregate."""
