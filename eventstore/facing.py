"""The face of a package whose names are imported when they are first asked for.

attrs and orjson take longer to import than Python to start, and who only wants an error, a word of help, or imports us
in case, need not wait for them. Nothing is imported here either before it is needed.
"""

TYPE_CHECKING = False  # `typing` itself would be the most of what this import costs
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def face(
    package: "str", rooms: "Mapping[str, Sequence[str]]"
) -> "tuple[Callable[[str], object], Callable[[], list[str]]]":
    """The `__getattr__` and the `__dir__` of a package.

    Args:
        package: its name.
        rooms: by module in it, the names that stand there.
    """

    def get(name: str) -> object:
        import sys  # noqa: PLC0415 - not before it is needed, as all else here
        from importlib import import_module  # noqa: PLC0415

        for room, names in rooms.items():
            if name in names:
                found = import_module(f"{package}.{room}")
                vars(sys.modules[package]).update((each, getattr(found, each)) for each in names)
                return getattr(found, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listed() -> list[str]:
        import sys  # noqa: PLC0415 - as above

        return sorted({*vars(sys.modules[package]), *(name for names in rooms.values() for name in names)})

    return get, listed
