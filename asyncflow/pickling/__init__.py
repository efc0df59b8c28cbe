"""Pickling for other processes: by reference, else by value; and what to say where it fails."""
