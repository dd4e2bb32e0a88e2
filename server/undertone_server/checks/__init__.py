"""Whether a coordinator is ready for studies: checks that each give one verdict, safe to paste into a ticket."""
