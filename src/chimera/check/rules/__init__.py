"""The check rules, one a file, each found by its file."""
