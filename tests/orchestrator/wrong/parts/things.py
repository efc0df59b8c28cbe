"""Read by the tests, never imported: importing it fails."""

assert not __name__, "module code was imported while a file was only looked at"


class Good:
    def run(self, context: object) -> None: ...


class Other:
    def run(self, context: object) -> None: ...


class Runless:
    def walk(self, context: object) -> None: ...


def not_a_class(context: object) -> None: ...
