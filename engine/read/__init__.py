"""The read side: what a process knows of the streams, and how it answers. Nothing here knows HTTP."""
