"""What leaves a study: the statement, the manifest, and the check of both."""
