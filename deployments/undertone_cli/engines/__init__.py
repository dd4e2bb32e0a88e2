"""Where the ServerApp and the ClientApps run."""
