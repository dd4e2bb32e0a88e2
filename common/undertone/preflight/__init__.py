"""What both sides look at before a study: verdicts, and checks that are the same at a site and at the coordinator."""
