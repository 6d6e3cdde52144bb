"""What runs: the line, the service around it, rebuild, verify, status."""
