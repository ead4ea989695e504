"""The scores of the package, one file for each kind: `SCORES` that have a name, `PATTERNS` of those with parameters."""
