"""A coordinator's studies: submitting one to Flower, where it stands, stopping and resuming it."""
