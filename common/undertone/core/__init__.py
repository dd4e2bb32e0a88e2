"""What every room stands on: canonical JSON, durable files, keys, text, configuration."""
