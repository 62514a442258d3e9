"""What the command check looks at, one module each: storage, dataset, model, adapter, room; and how it is put together."""
