"""Whether a site is ready for a study: checks that each give one verdict, safe to paste into a ticket."""
