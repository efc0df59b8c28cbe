"""Programs to read and to run; each says in its first lines how."""
