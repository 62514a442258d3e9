"""Why an attempt does not go on: one file a cause, each check pure and aware of since when."""
