"""The site's records, checked and registered for a plan."""
