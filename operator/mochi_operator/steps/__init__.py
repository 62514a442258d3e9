"""The steps of a run, all of one kind: `kinds` is the table, `engine` moves one a step further."""
