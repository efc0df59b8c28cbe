"""Read by the tests, never imported: importing it fails."""

assert not __name__, "a script was run while a file was only looked at"


def calculate(context: object) -> None: ...


class Klass: ...
