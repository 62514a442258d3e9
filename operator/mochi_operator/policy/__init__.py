"""Small policies, one file each: `(snapshot, draft) -> draft`, pure; `decide` has them in their order."""
