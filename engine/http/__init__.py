"""The HTTP side: connections, requests, live streams, the page, the reference."""
