"""Reports: what is in folders, as one HTML page with pictures."""
