"""Where the cloud keeps things: rows in a database, objects in a store, history in an archive."""
