"""The method that distils teachers of shards into one denoiser."""
