"""What tests share: servers, deployments, games, oracles."""
