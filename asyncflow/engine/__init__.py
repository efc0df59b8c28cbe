"""The engine: pure cores that decide, and the shell that carries out what they decide."""
